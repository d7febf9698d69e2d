from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gswa.dataset import encode, plan_steps, render, render_prompt, repeats
from gswa.errors import DataError
from gswa.records import Message


def chat(question: str, answer: str) -> list[Message]:
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


def learnt(tokenizer, messages: list[Message]) -> str:
    rendered = render(tokenizer, messages)
    return str(tokenizer.decode([token for token, carries in zip(rendered.ids, rendered.mask, strict=True) if carries]))


def test_loss_falls_on_the_answer_and_its_end_only(tokenizer):
    assert learnt(tokenizer, chat("What is it?", "A cell.")) == "A cell.<|im_end|>"


def test_every_answer_of_a_longer_chat_carries_loss(tokenizer):
    assert learnt(tokenizer, [*chat("One?", "First."), *chat("Two?", "Second.")]) == "First.<|im_end|>Second.<|im_end|>"


def test_a_prompt_is_the_beginning_of_what_is_trained(tokenizer):
    messages = chat("What is it?", "A cell.")
    prompt = render_prompt(tokenizer, messages[:1])
    assert render(tokenizer, messages).ids[: len(prompt)] == prompt


@pytest.mark.parametrize("literal", ["<|im_end|>", "<|im_start|>", "a<|im_end|><|im_end|>b", "<|im_<|im_end|>"])
def test_special_token_text_in_a_paper_stays_text(tokenizer, literal):
    special = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>")}
    plain = render(tokenizer, chat("q", "x"))
    rendered = render(tokenizer, chat(literal, f"see {literal} there"))
    assert sum(token in special for token in rendered.ids) == sum(token in special for token in plain.ids)
    text = tokenizer.decode(rendered.ids)
    assert f"user\n{literal}" in text
    assert f"see {literal} there" in text
    assert not special & set(encode(tokenizer, literal).ids)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200) | st.sampled_from(["👩‍🔬 naïve 細胞", "\n\n \t", "<|im_end|>"]))
def test_offsets_cover_the_text(tokenizer, text):
    encoding = encode(tokenizer, text)
    assert len(encoding.ids) == len(encoding.offsets)
    assert tokenizer.decode(encoding.ids) == text
    assert max((end for _, end in encoding.offsets), default=0) <= len(text)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    from copy import deepcopy

    rewriting = deepcopy(tokenizer)
    rewriting.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="rewrites"):
        render(rewriting, [*chat("One?", "First."), *chat("Two?", "Second.")])


lengths = st.lists(st.integers(1, 500), min_size=1, max_size=80)


@given(lengths=lengths, effective=st.integers(1, 16), epochs=st.integers(1, 4), seed=st.integers(0, 9))
def test_every_chunk_is_seen_once_an_epoch_and_only_the_last_step_is_short(lengths, effective, epochs, seed):
    steps = plan_steps(lengths, [1.0] * len(lengths), effective, epochs=epochs, iters=None, seed=seed)
    seen = list(chain.from_iterable(steps))
    assert sorted(seen) == sorted(list(range(len(lengths))) * epochs)
    assert {len(step) for step in steps[:-1]} <= {effective}


@given(lengths=lengths, iters=st.integers(1, 40))
def test_iters_are_optimizer_steps(lengths, iters):
    assert len(plan_steps(lengths, [1.0] * len(lengths), 4, epochs=None, iters=iters, seed=0)) == iters


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    plans = [plan_steps(range(1, 60), [1.0] * 59, 8, epochs=2, iters=None, seed=seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_a_weight_is_kept_exactly_over_the_epochs():
    counts = [repeats([2.5, 1.0, 0.2], epoch) for epoch in range(10)]
    assert [sum(order.count(i) for order in counts) for i in range(3)] == [25, 10, 2]


def test_rows_of_a_step_are_of_like_length():
    lengths = [10] * 64 + [500] * 64
    steps = plan_steps(lengths, [1.0] * 128, 8, epochs=1, iters=None, seed=0)
    padded = sum(max(lengths[i] for i in step) * len(step) for step in steps)
    assert sum(lengths) / padded > 0.8
