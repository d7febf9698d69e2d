"""Example → Chunks, none longer than the limit as the chat template renders it, and nothing lost.

A chunk is a span of characters of its example's target; spans are in order and only white space lies between them. Part 1
keeps the user's prompt, each later part is asked to continue the text before it, of which it is shown the end. Where the prompt is
too long, and each of its paragraphs has its own in the answer, both are cut at the same paragraphs.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from gswa.aligned import Aligned, aligned
from gswa.config import Strategy
from gswa.dataset import Lengths, Tokenizer, check_renders, lengths
from gswa.errors import ConfigError, DataError
from gswa.forms import TEXT_KIND
from gswa.lengths import Divided
from gswa.measure import Measured, word_counts
from gswa.passages import CONTINUE_KIND
from gswa.records import Chunk, Example, Message
from gswa.spans import Budget, Span, context_starts, plan
from gswa.uncut import uncut_tokens

CONTINUE = "Continue the text from where this part of it ends."
OPEN = "Write the opening of a text."
NEXT = "Go on in the same way with the next part of the text."
CONTEXT_SHARE = 40  # a later part may spend one token in so many on the text before it
CONTEXT = 8  # tokens, where that share is less
CORRECTIONS = 5  # of what words were counted to take, before every chunk gets less room
MANY = 256  # chunks of a text, of which each correction would move nearly all, for less than one in a hundred
CHARACTERS_AT_ONCE = 1_000_000  # of examples that are counted together

EMPTY = "the answer is empty"
LONG_PROMPT = "the prompt leaves less than a quarter of the limit for the answer"
NO_ROOM = "no cut keeps the answer under the limit"

Chat: TypeAlias = tuple[Message, ...]


class Rules(NamedTuple):
    """`max_tokens` counts the whole rendered chat; `overlap` is text before a later part, in tokens that carry no loss."""

    tokenizer: Tokenizer
    max_tokens: int
    strategy: Strategy = "auto"
    overlap: int = 0

    @property
    def context(self) -> int:
        """Tokens that a later part may spend on the text before it."""
        return max(CONTEXT, self.max_tokens // CONTEXT_SHARE, self.overlap)

    @property
    def contexts(self) -> tuple[int, ...]:
        """The same, and what it does with where that saves a part: half or a quarter, but never less than `overlap`."""
        return tuple(dict.fromkeys(max(self.context // share, self.overlap) for share in (1, 2, 4)))

    def measure(self, text: str) -> Measured:
        return word_counts(self.tokenizer).measure(text)


def split_examples(examples: Iterable[Example], rules: Rules) -> Iterator[Divided]:
    """Each example with its chunks, or with the reason why it has none. Raises ConfigError for an overlap over half the limit."""
    if not 0 <= rules.overlap <= rules.max_tokens // 2:
        raise ConfigError(f"--overlap {rules.overlap}: must lie between 0 and half of the limit ({rules.max_tokens // 2} tokens)")
    return (divided for some in _batches(examples) for divided in _together([_division(example, rules) for example in some], rules))


def divide_span(example: Example, span: Span, rules: Rules) -> Divided:
    """Chunks of a part of the target, each with its span in the whole of it: what is left to train after the limit fell.

    Unless the part is the beginning, it is asked for as a later part is: by the text before it.
    """
    start, end = span
    prompt = example.messages[:-1]
    if start > 0:
        (context,) = _contexts(rules.measure(example.target), [start], rules.context)
        prompt = _continuation(example, context)
    kind = CONTINUE_KIND if start > 0 else example.kind
    piece = example.model_copy(update={"messages": _answered(prompt, example.target[start:end]), "kind": kind})
    (divided,) = _together([_division(piece, rules)], rules)
    own = [{"span": (chunk.span[0] + start, chunk.span[1] + start), "kind": example.kind} for chunk in divided.chunks]
    moved = tuple(chunk.model_copy(update=update) for chunk, update in zip(divided.chunks, own, strict=True))
    return Divided(example=example, tokens=divided.tokens, chunks=moved, reason=divided.reason)


# -- many at once ----------------------------------------------------------------------------------------------------------
# A step of a division asks for the lengths of chats and goes on once they are known; many wait for one call of the tokenizer.
Division: TypeAlias = Generator[Sequence[Chat], list[Lengths], Divided]


def _together(divisions: list[Division], rules: Rules) -> list[Divided]:
    done: dict[int, Divided] = {}
    asked = {number: next(division) for number, division in enumerate(divisions)}
    while asked:
        for number, answer in _counted(asked, rules).items():
            division = divisions[number]
            try:
                asked[number] = division.throw(answer) if isinstance(answer, DataError) else division.send(answer)
            except StopIteration as end:
                done[number] = end.value
                del asked[number]
    return [done[number] for number in range(len(divisions))]


def _counted(asked: dict[int, Sequence[Chat]], rules: Rules) -> dict[int, list[Lengths] | DataError]:
    """For each what was asked, or why the template refuses one of its chats."""
    try:
        return _lengths(asked, rules)
    except DataError:
        refused = {number: error for number, chats in asked.items() if (error := _refusal(chats, rules))}
        if not refused:
            raise
    return {**refused, **_lengths({number: chats for number, chats in asked.items() if number not in refused}, rules)}


def _lengths(asked: dict[int, Sequence[Chat]], rules: Rules) -> dict[int, list[Lengths] | DataError]:
    counted = lengths(rules.tokenizer, [chat for chats in asked.values() for chat in chats])
    return {number: [next(counted) for _ in chats] for number, chats in asked.items()}


def _refusal(chats: Sequence[Chat], rules: Rules) -> DataError | None:
    try:
        for chat in chats:
            check_renders(rules.tokenizer, chat)
    except DataError as error:
        return error
    return None


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    some: list[Example] = []
    size = 0
    for example in examples:
        some.append(example)
        size += sum(len(message.content) for message in example.messages)
        if size >= CHARACTERS_AT_ONCE:
            yield some
            some, size = [], 0
    yield some


# -- one example -----------------------------------------------------------------------------------------------------------
def _division(example: Example, rules: Rules) -> Division:
    """A chat that the template refuses is set aside; of its tokens those of its words are known."""
    try:
        return (yield from _divide(example, rules))
    except DataError as refusal:
        words = sum(rules.measure(message.content).total for message in example.messages)
        return Divided(example=example, tokens=words, reason=str(refusal))


def _divide(example: Example, rules: Rules) -> Division:
    empty = not example.target.strip()
    text = None if empty or _is_short(example, rules) else rules.measure(example.target)
    if text is None or _may_fit(example, text, rules):
        (whole,) = yield [example.messages]
        if empty:
            return Divided(example=example, tokens=whole.tokens, reason=EMPTY)
        if whole.tokens <= rules.max_tokens:
            return Divided(example=example, tokens=whole.tokens, chunks=(_chunk(example, example.messages, whole),))
    text = text or rules.measure(example.target)
    (prompt,) = yield [_answered(example.messages[:-1], ".")]
    chunks, reason = yield from _split(example, text, prompt.tokens - 1, rules)
    tokens = uncut_tokens(example.target, prompt, chunks, rules.tokenizer) if chunks else 0
    if tokens <= rules.max_tokens:
        (whole,) = yield [example.messages]
        tokens = whole.tokens
        if tokens <= rules.max_tokens:
            chunks, reason = (_chunk(example, example.messages, whole),), ""
    return Divided(example=example, tokens=tokens, chunks=chunks, reason=reason)


def _is_short(example: Example, rules: Rules) -> bool:
    return sum(len(message.content) for message in example.messages) <= 2 * rules.max_tokens


def _may_fit(example: Example, target: Measured, rules: Rules) -> bool:
    """False where counting the whole would be in vain: the words alone are over the limit, and by more than they can be wrong."""
    prompt = sum(rules.measure(message.content).total for message in example.messages[:-1])
    return prompt + target.total <= 1.01 * rules.max_tokens + 8


Chunks: TypeAlias = tuple[tuple[Chunk, ...], str]  # and, where there are none, the reason


def _split(example: Example, text: Measured, used: int, rules: Rules) -> Generator[Sequence[Chat], list[Lengths], Chunks]:
    fitting = yield from _fitting_prompt(example, used, rules)
    if fitting is None:
        pairs = aligned(example.messages[-2].content, example.target) if _turns(example) == 2 else None
        return ((), LONG_PROMPT) if pairs is None else (yield from _split_pairs(example, pairs, rules))
    prompt, taken = fitting
    (later,) = yield [_answered(_continuation(example, "."), ".")]
    budget = Budget(rules.max_tokens - taken, rules.max_tokens - later.tokens + 2, rules.contexts)
    known: dict[tuple[Span, str], Lengths] = {}
    corrections = 0
    while found := plan(text, budget, rules.strategy):
        spans, before = found
        contexts = _contexts(text, [end for _, end in spans[:-1]], before)
        prompts = [prompt, *(_continuation(example, context) for context in contexts)]
        chats = [_answered(prompt, example.target[start:end]) for prompt, (start, end) in zip(prompts, spans, strict=True)]
        named = dict(zip(zip(spans, ["", *contexts], strict=True), chats, strict=True))
        new = {name: chat for name, chat in named.items() if name not in known}
        known.update(zip(new, (yield list(new.values())), strict=True))
        counted = [known[name] for name in named]
        over = [max(0, length.tokens - rules.max_tokens) for length in counted]
        if not any(over):
            return _chunks(example, chats, counted, spans), ""
        # Words merge differently at a cut and at the template's borders: those that did count for more, and the cuts are planned anew.
        if corrections < CORRECTIONS and len(spans) <= MANY:
            corrections += 1
            text = text.corrected(spans, _missed(text, spans, [length.target_tokens + 1 - later.target_tokens for length in counted], over))
        else:
            budget = budget._replace(first=_less(budget.first, over[0]), rest=_less(budget.rest, max(over[1:], default=0)))
    return (), NO_ROOM


def _missed(text: Measured, spans: Sequence[Span], tokens: Sequence[int], over: Sequence[int]) -> list[int]:
    """Of each span that is over the limit, the tokens that its words do not count; none of the others, which fit as they are."""
    starts, ends = (text.before(np.array(places)).tolist() for places in zip(*spans, strict=True))
    counted = (end - start for start, end in zip(starts, ends, strict=True))
    return [max(true - count, more) if more else 0 for true, count, more in zip(tokens, counted, over, strict=True)]


def _less(tokens: int, over: int) -> int:
    """By a quarter at most: where the words were counted all wrong, the rest is found step by step."""
    return tokens - min(over, max(1, tokens // 4))


def _split_pairs(example: Example, pairs: Aligned, rules: Rules) -> Generator[Sequence[Chat], list[Lengths], Chunks]:
    """Prompt and answer cut at the same paragraphs, as many of them together as the limit holds."""
    system = example.messages[:-2]
    answers = [example.target[start:end] for start, end in pairs.answered]
    sizes = [sum(rules.measure(text).total for text in both) + 2 for both in zip(pairs.asked, answers, strict=True)]
    (bare,) = yield [_answered((*system, _asked(pairs.instruction or NEXT, ".")), ".")]
    room = rules.max_tokens - bare.tokens
    while groups := _filled(sizes, room):
        spans = [(pairs.answered[first][0], pairs.answered[last - 1][1]) for first, last in groups]
        asked = ["\n\n".join(pairs.asked[first:last]) for first, last in groups]
        instructions = [pairs.instruction, *[pairs.instruction or NEXT] * (len(groups) - 1)]
        prompts = [(*system, _asked(*both) if both[0] else _asked(both[1], "")) for both in zip(instructions, asked, strict=True)]
        chats = [_answered(prompt, example.target[start:end]) for prompt, (start, end) in zip(prompts, spans, strict=True)]
        counted = yield chats
        over = max(length.tokens for length in counted) - rules.max_tokens
        if over <= 0:
            return _chunks(example, chats, counted, spans), ""
        room = _less(room, over)
    return (), LONG_PROMPT


def _filled(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Runs of consecutive sizes, each as long as the room holds; none where a single one is too large."""
    groups, held = [(0, 0)], 0
    if max(sizes) > room:
        return []
    for number, size in enumerate(sizes):
        if held + size > room:
            groups.append((number, number))
            held = 0
        groups[-1] = (groups[-1][0], number + 1)
        held += size
    return groups


def _chunks(example: Example, chats: Sequence[Chat], counted: Sequence[Lengths], spans: Sequence[Span]) -> tuple[Chunk, ...]:
    parts = len(spans)
    each = zip(chats, counted, spans, strict=True)
    return tuple(_chunk(example, chat, length, span, part, parts) for part, (chat, length, span) in enumerate(each, 1))


def _chunk(example: Example, chat: Chat, length: Lengths, span: Span | None = None, part: int = 1, parts: int = 1) -> Chunk:
    own = {"part": part, "parts": parts, "span": span or (0, len(example.target)), **length._asdict()}
    return Chunk.model_validate({**dict(example), **own, "messages": chat})


# -- the prompt ------------------------------------------------------------------------------------------------------------
def _answered(prompt: Chat, answer: str) -> Chat:
    return (*prompt, Message(role="assistant", content=answer))


def _turns(example: Example) -> int:
    return sum(message.role != "system" for message in example.messages)


def _continuation(example: Example, context: str) -> Chat:
    system = tuple(message for message in example.messages[:1] if message.role == "system")
    return (*system, _asked(CONTINUE, context))


def _asked(instruction: str, context: str) -> Message:
    return Message(role="user", content=f"{instruction}\n\n{context}" if context else instruction)


def _contexts(text: Measured, ends: Sequence[int], tokens: int) -> list[str]:
    """The text before each of these places, as far as so many tokens hold it; never nothing, unless all of it is white space."""
    before = [_trimmed_end(text.text, end) for end in ends]
    starts = context_starts(text, np.array(before, dtype=np.int64), tokens).tolist()
    return [text.text[start:end].strip() for start, end in zip(starts, before, strict=True)]


def _trimmed_end(text: str, end: int) -> int:
    """Without the white space before it; text[:end].rstrip() would copy all of a long text for each of its parts."""
    while end and text[end - 1].isspace():
        end -= 1
    return end


def _fitting_prompt(example: Example, used: int, rules: Rules) -> Generator[Sequence[Chat], list[Lengths], tuple[Chat, int] | None]:
    """The messages before the answer and their tokens (`used`), where they leave it a quarter of the limit; None where only a cut could.

    A `continue` example's context, after the first blank line, may be shortened, since it is the target of another
    example; then half of the limit is left for the answer. Of a plain text the first part is asked for as an opening.
    """
    prompt = example.messages[:-1]
    if example.kind == TEXT_KIND:
        prompt = (*prompt[:-1], _asked(OPEN, ""))
        (opening,) = yield [_answered(prompt, ".")]
        used = opening.tokens - 1
    if used <= rules.max_tokens * 3 // 4:
        return prompt, used
    if example.kind != CONTINUE_KIND:
        return None
    instruction, _, context = prompt[-1].content.partition("\n\n")
    for shorter in (instruction, CONTINUE if context else OPEN):
        fitting = yield from _shortened((*prompt[:-1], _asked(shorter, "")), context, rules)
        if fitting:
            return fitting
    return None


def _shortened(bare: Chat, context: str, rules: Rules) -> Generator[Sequence[Chat], list[Lengths], tuple[Chat, int] | None]:
    """A prompt with as much of the end of its context as half of the limit holds; None where that is next to nothing."""
    (length,) = yield [_answered(bare, ".")]
    room = rules.max_tokens // 2 - length.tokens + 1
    if not context:
        return (bare, length.tokens - 1) if room >= 0 else None
    text = rules.measure(context)
    while room >= max(CONTEXT, rules.max_tokens // CONTEXT_SHARE):
        (end,) = _contexts(text, [len(context)], room)
        prompt = (*bare[:-1], _asked(bare[-1].content, end))
        (length,) = yield [_answered(prompt, ".")]
        over = length.tokens - 1 - rules.max_tokens // 2
        if over <= 0:
            return prompt, length.tokens - 1
        room -= over
    return None
