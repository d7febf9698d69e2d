"""Examples to chunks: never over the limit, nothing lost."""

from itertools import pairwise
from typing import cast

import pytest
from chats import chat
from families import FAMILIES, family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gswa.config import Strategy
from gswa.conservation import white_space_between
from gswa.dataset import Tokenizer, render
from gswa.errors import ConfigError
from gswa.lengths import STRATEGIES, Divided
from gswa.measure import _PACK, word_counts
from gswa.parts import CONTINUE, EMPTY, LONG_PROMPT, NEXT, NO_ROOM, OPEN, Rules, divide_span, split_examples
from gswa.records import Example, Message

PIECES = [
    "word ",
    "Sentence. ",
    "\n\n",
    " \n\t\n ",
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "👩‍👩‍👧‍👦",
    "😀",
    "漢字。",
    "é",
    "x" * 40,
    " ",
    "[1] ",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=60).map("".join)
LONG = " ".join(f"Sentence number {n} is not very long." for n in range(60))


def divided(example: Example, tokenizer: Tokenizer, limit: int, strategy: str = "auto", overlap: int = 0) -> Divided:
    (one,) = split_examples([example], Rules(tokenizer, limit, cast(Strategy, strategy), overlap))
    return one


def check(one: Divided, tokenizer: Tokenizer, limit: int) -> None:
    """The promises that hold for every example."""
    assert bool(one.chunks) != bool(one.reason)
    if one.chunks:
        assert white_space_between(one.example, list(one.chunks)) is not None
    for chunk in one.chunks:
        rendered = render(tokenizer, chunk.messages)
        assert chunk.tokens == len(rendered.ids) <= limit
        assert chunk.target_tokens == sum(rendered.mask) > 0
        assert chunk.messages[-2].content.strip()
        assert chunk.part == 1 or chunk.messages[-2].content != CONTINUE


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=TEXTS,
    asked=TEXTS,
    limit=st.sampled_from([48, 64, 96, 128, 256]),
    strategy=st.sampled_from(STRATEGIES),
    kind=st.sampled_from(["continue", "chat", "text"]),
)
@pytest.mark.parametrize("name", FAMILIES)
def test_no_text_is_lost_and_no_chunk_passes_the_limit(name: str, text: str, asked: str, limit: int, strategy: str, kind: str) -> None:
    example = chat("a", text, asked=f"Go on.\n\n{asked}", kind=kind)
    check(divided(example, family(name), limit, strategy), family(name), limit)


@pytest.mark.parametrize("strategy", ["auto", "token"])
@pytest.mark.parametrize("name", FAMILIES)
def test_chunks_are_as_few_as_their_prompts_allow(name: str, strategy: str) -> None:
    text = " ".join(f"Sentence number {n} is one of many that say the same." for n in range(800))
    chunks = divided(chat("a", text), family(name), 512, strategy).chunks
    room = 512 - min(chunk.tokens - chunk.target_tokens for chunk in chunks[1:])
    assert len(chunks) <= 1.03 * sum(chunk.target_tokens - 1 for chunk in chunks) / room + 1


@pytest.mark.parametrize("strategy", ["auto", "token"])
def test_one_stretch_that_takes_more_than_its_words_count_costs_the_rest_no_room(tokenizer: Tokenizer, strategy: str) -> None:
    sentences = [f"Sentence number {n} is one of many that say the same." for n in range(800)]
    plain = divided(chat("a", " ".join(sentences)), tokenizer, 256, strategy).chunks
    sentences[400:400] = ["Of it a xylotomist takes more than it counts."] * 12
    counts = word_counts(tokenizer)
    counts.measure("a xylotomist")
    counts.known["xylotomist"] -= 4 * 2 * _PACK
    try:
        one = divided(chat("a", " ".join(sentences)), tokenizer, 256, strategy)
    finally:
        counts.known.clear()
    check(one, tokenizer, 256)
    assert len(one.chunks) <= len(plain) + 2


def test_examples_that_are_counted_together_are_divided_as_each_alone(tokenizer: Tokenizer) -> None:
    examples = [chat(f"{n}", LONG[: n * 200]) for n in range(1, 12)] + [chat("long", LONG, asked=LONG, kind="chat"), chat("no", " ")]
    together = list(split_examples(examples, Rules(tokenizer, 128)))
    assert together == [divided(example, tokenizer, 128) for example in examples]
    assert [one.example for one in together] == examples


@pytest.mark.parametrize("strategy", ["auto", "token"])
@pytest.mark.parametrize(
    "text", [LONG, f"  {LONG}\n", LONG.replace(" ", "   "), "def f():\n\n\n    return 1\n\n" * 60], ids=["prose", "edges", "spaces", "code"]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_length_before_is_that_of_the_whole(name: str, text: str, strategy: str) -> None:
    one = divided(chat("a", text), family(name), 128, strategy)
    assert len(one.chunks) > 2
    assert one.tokens == len(render(family(name), one.example.messages).ids)


def test_the_first_part_of_a_plain_text_is_asked_for_as_an_opening(tokenizer: Tokenizer) -> None:
    example = chat("a", LONG, asked="Write a text.", kind="text")
    assert [chunk.messages[0].content.split("\n\n")[0] for chunk in divided(example, tokenizer, 512).chunks[:2]] == [OPEN, CONTINUE]
    assert divided(example, tokenizer, 4096).chunks[0].messages == example.messages


@pytest.mark.parametrize(("instruction", "later"), [("Rewrite this.", "Rewrite this."), ("", NEXT)])
def test_a_prompt_that_is_too_long_is_cut_where_its_answer_is(tokenizer: Tokenizer, instruction: str, later: str) -> None:
    old, new = (
        [f"Paragraph number {n} {says} about topic{n}x and thing{n}y alone." for n in range(20)] for says in ("is saying things", "speaks")
    )
    asked = "\n\n".join([instruction, *old] if instruction else old)
    one = divided(chat("a", "\n\n".join(new), asked=asked, kind="chat"), tokenizer, 256)
    check(one, tokenizer, 256)
    assert len(one.chunks) > 2
    for chunk in one.chunks[1:]:
        first, *sources = chunk.messages[0].content.split("\n\n")
        assert first == later
        assert sources == [old[new.index(paragraph)] for paragraph in chunk.target.split("\n\n")]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_splits_a_long_text(tokenizer: Tokenizer, strategy: str) -> None:
    one = divided(chat("a", LONG), tokenizer, 128, strategy)
    check(one, tokenizer, 128)
    assert len(one.chunks) > 5
    assert [chunk.part for chunk in one.chunks] == list(range(1, len(one.chunks) + 1))


def test_an_example_that_fits_is_left_as_it_is(tokenizer: Tokenizer) -> None:
    example = chat("a", "  Spaces are kept.  ")
    (chunk,) = divided(example, tokenizer, 128).chunks
    assert chunk.messages == example.messages
    assert (chunk.part, chunk.parts, chunk.span) == (1, 1, (0, 20))


def test_the_first_part_keeps_the_prompt_and_the_others_are_given_the_text_before(tokenizer: Tokenizer) -> None:
    first, *later = divided(chat("a", LONG, asked="Tell me all."), tokenizer, 256).chunks
    assert first.messages[0].content == "Tell me all."
    for chunk in later:
        instruction, context = chunk.messages[0].content.split("\n\n")
        assert instruction == CONTINUE
        assert LONG[: chunk.span[0]].rstrip().endswith(context)


def test_overlap_is_more_text_before_and_none_of_it_carries_loss(tokenizer: Tokenizer) -> None:
    plain, more = (divided(chat("a", LONG), tokenizer, 256, overlap=overlap).chunks for overlap in (0, 100))
    assert len(more[1].messages[0].content) > 2 * len(plain[1].messages[0].content)
    check(divided(chat("a", LONG), tokenizer, 256, overlap=100), tokenizer, 256)
    assert "".join(chunk.target for chunk in more).replace(" ", "") == LONG.replace(" ", "")


@pytest.mark.parametrize("overlap", [-1, 129])
def test_an_overlap_over_half_the_limit_is_refused(tokenizer: Tokenizer, overlap: int) -> None:
    with pytest.raises(ConfigError, match="between 0 and half"):
        split_examples([], Rules(tokenizer, 256, "auto", overlap))


def test_a_long_context_gives_way_to_the_answer_by_whole_sentences(tokenizer: Tokenizer) -> None:
    one = divided(chat("a", LONG, asked=f"Go on.\n\n{LONG}"), tokenizer, 256)
    check(one, tokenizer, 256)
    instruction, context = one.chunks[0].messages[0].content.split("\n\n")
    assert instruction == "Go on."
    assert context.startswith("Sentence number")
    assert LONG.endswith(context)


@pytest.mark.parametrize("text", ["x" * 4000, "日本語のテキスト" * 300, "a" + "b " * 40 + " " * 400 + "c " * 400])
def test_a_later_part_shows_the_end_of_the_one_before_it_though_no_space_or_sentence_ends_there(text, tokenizer):
    """A piece that takes more than a context may was left out, and the part was asked to continue nothing."""
    one = divided(chat("a", text), tokenizer, 128)
    check(one, tokenizer, 128)
    assert len(one.chunks) > 2
    for before, chunk in pairwise(one.chunks):
        context = chunk.messages[0].content.removeprefix(CONTINUE).strip()
        assert context and before.target.endswith(context)


@pytest.mark.parametrize(("context", "instead"), [("", OPEN), (f"\n\n{LONG}", CONTINUE)])
def test_an_instruction_that_is_too_long_itself_is_replaced(tokenizer: Tokenizer, context: str, instead: str) -> None:
    one = divided(chat("a", LONG, asked="Write on, " * 80 + context), tokenizer, 256)
    check(one, tokenizer, 256)
    assert one.chunks[0].messages[0].content.split("\n\n")[0] == instead


def test_a_long_prompt_of_any_other_kind_is_never_cut(tokenizer: Tokenizer) -> None:
    assert divided(chat("a", LONG, asked=LONG, kind="chat"), tokenizer, 256).reason == LONG_PROMPT


def test_an_empty_answer_is_set_aside(tokenizer: Tokenizer) -> None:
    assert divided(chat("a", " \n "), tokenizer, 256).reason == EMPTY


def test_a_chat_that_the_template_refuses_costs_itself_and_not_the_run() -> None:
    good, system = chat("a", "Yes."), Message(role="system", content="Be kind.")
    odd = good.model_copy(update={"messages": (system, *good.messages)})
    first, aside, last = split_examples([good, odd, good], Rules(family("mistral"), 256))
    assert aside.reason == "the model's chat template refuses the chat (no system)"
    assert aside.tokens > 0 and not aside.chunks
    assert first == last == divided(good, family("mistral"), 256)


def test_a_limit_that_holds_no_word_sets_the_example_aside(tokenizer: Tokenizer) -> None:
    assert divided(chat("a", LONG, asked="Hi"), tokenizer, 32).reason in (NO_ROOM, LONG_PROMPT)


def test_of_a_longer_talk_only_the_last_answer_is_split(tokenizer: Tokenizer) -> None:
    talk = (Message(role="system", content="Be kind."), *chat("a", "Yes.").messages, *chat("a", LONG).messages)
    first, second, *_ = divided(chat("a", "x").model_copy(update={"messages": talk, "kind": "chat"}), tokenizer, 256).chunks
    assert first.messages[:-1] == talk[:-1]
    assert [message.role for message in second.messages] == ["system", "user", "assistant"]


def test_what_a_user_added_to_an_example_stays_on_its_chunks(tokenizer: Tokenizer) -> None:
    example = Example.model_validate({**dict(chat("a", LONG)), "topic": "x", "part": "mine"})
    chunk = divided(example, tokenizer, 256).chunks[0]
    assert (chunk.model_extra, chunk.part) == ({"topic": "x"}, 1)


def test_the_middle_of_a_plain_text_is_not_asked_for_as_an_opening_after_the_limit_fell(tokenizer: Tokenizer) -> None:
    example = chat("a", LONG, asked="Write a text.", kind="text")
    start = LONG.index("Sentence number 30")
    found = divide_span(example, (start, len(LONG)), Rules(tokenizer, 128))
    assert found.chunks[0].span[0] == start
    assert {chunk.messages[0].content.split("\n\n")[0] for chunk in found.chunks} == {CONTINUE}
    assert {chunk.kind for chunk in found.chunks} == {"text"}
