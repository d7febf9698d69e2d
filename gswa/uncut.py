"""Tokens of a chat before its answer was split, from those of its parts: nothing long is encoded once more.

parts       ...the first half|  |of a sentence...          counted, each in a chat of its own
joint       first half of a                                encoded whole, and as its two sides: the difference is what the cut changed
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

from gswa.dataset import Lengths, Tokenizer, answer_opening, lengths
from gswa.records import Chunk, Message
from gswa.spans import Span
from gswa.tokens import Line, encode, special_marks

REACH = 32  # characters beside a cut in which its word begins or ends
ASKED = Message(role="user", content=".")


def uncut_tokens(text: str, prompt: Lengths, chunks: Sequence[Chunk], tokenizer: Tokenizer) -> int:
    """Of the whole chat whose answer `text` was split into these chunks. `prompt` is the same chat with "." for its answer, and
    that is one token."""
    spans = [chunk.span for chunk in chunks]
    joints, before = list(_joints(text, spans)), _border(tokenizer)
    marks: Callable[..., list[int]] = partial(special_marks, tokenizer) if special_marks(tokenizer, text) else lambda *_: []
    lines = [Line(piece, marks(piece)) for joint in joints for piece in (joint.whole, joint.before)]
    afters = [Line(before.text + joint.after, marks(before.text + joint.after, len(before.text))) for joint in joints]
    encode(tokenizer, [*lines, *afters])
    joined = sum(len(line.ids) for line in lines[::2]) - sum(len(line.ids) for line in (*lines[1::2], *afters))
    parts = sum(chunk.target_tokens for chunk in chunks) - (prompt.target_tokens - 1)
    (start, _), (_, end) = spans[0], spans[-1]
    edges = _wider(tokenizer, text[: start + 1], text[start]) + _wider(tokenizer, text[end - 1 :], text[end - 1])
    return prompt.tokens - 1 + parts + joined + edges + len(joints) * (before.tokens - before.closing)


class Joint(NamedTuple):
    """The words around a cut with what lies between them, and those before and those after it alone."""

    whole: str
    before: str
    after: str


def _joints(text: str, spans: Sequence[Span]) -> Iterator[Joint]:
    for (start, end), (after, stop) in pairwise(spans):
        left, right = text.rfind(" ", max(start, end - REACH), end), text.find(" ", after + 1, min(stop, after + REACH))
        left, right = max(left, start, end - REACH), min(stop, after + REACH) if right < 0 else right
        yield Joint(text[left:right], text[left:end], text[after:right])


class Border(NamedTuple):
    """What the chat template puts right before an answer, from its last special token on, the tokens of that which are not the answer's,
    and those that end an answer. No more of a chat than this can change how an answer's words become tokens."""

    text: str
    tokens: int
    closing: int


@lru_cache(maxsize=8)
def _border(tokenizer: Tokenizer) -> Border:
    before, gap = answer_opening(tokenizer) or ("", "")
    lines = Line(before), Line(f"{before}{gap}.")
    encode(tokenizer, lines)
    bare, said = (len(line.ids) for line in lines)
    (counted,) = lengths(tokenizer, [_answered(".")])
    return Border(before + gap, bare, counted.target_tokens - (said - bare))


@lru_cache(maxsize=256)
def _wider(tokenizer: Tokenizer, with_space: str, without: str) -> int:
    """Tokens that white space before or after an answer's words makes, which no part has."""
    if with_space == without:
        return 0
    more, less = lengths(tokenizer, [_answered(with_space), _answered(without)])
    return more.tokens - less.tokens


def _answered(answer: str) -> tuple[Message, Message]:
    return ASKED, Message(role="assistant", content=answer)
