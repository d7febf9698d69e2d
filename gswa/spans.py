"""Where a text is cut: character spans, planned on the tokens of one encode.

text        "First one. Second one.\\n\\nThird one."
spans       (0, 22) (24, 34)          ordered; only white space between them, so that nothing can be lost
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gswa.config import Strategy
from gswa.sentences import paragraph_starts, sentence_starts

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Span: TypeAlias = tuple[int, int]

# What each strategy cuts at: first the first group; where a piece is still too long, the next one inside that piece.
LEVELS: dict[Strategy, tuple[tuple[str, ...], ...]] = {
    "auto": (("paragraph", "sentence"), ("word",), ("token",)),
    "paragraph": (("paragraph",), ("sentence",), ("word",), ("token",)),
    "sentence": (("sentence",), ("word",), ("token",)),
    "token": (("word", "token"),),
}
# What a cut costs beside an uneven share: a chunk of half the budget costs 0.25, a full one 1.
PENALTY = {"paragraph": 0.0, "sentence": 0.05, "word": 0.6, "token": 2.0}
CHUNK_COST = 1e6  # above all that one more chunk could save
_WORD_GAP = re.compile(r"\s+")


class Measured(NamedTuple):
    """A text with the characters at which each of its tokens starts and ends."""

    text: str
    starts: Ints
    ends: Ints


class Budget(NamedTuple):
    """Tokens of text for the first chunk, and for each later one: their prompts differ in length."""

    first: int
    rest: int


def measured(text: str, offsets: Iterable[Span]) -> Measured:
    pairs = np.array(list(offsets), dtype=np.int64).reshape(-1, 2)
    return Measured(text, pairs[:, 0], np.maximum.accumulate(pairs[:, 1]))


def tokens_before(text: Measured, positions: Ints) -> Ints:
    """How many tokens end at or before each position: a token that owns the space before its word goes with the word."""
    return np.searchsorted(text.ends, positions, side="right")


def plan(text: Measured, budget: Budget, strategy: Strategy) -> list[Span] | None:
    """As few chunks as the budget allows, of shares as even as good cuts allow. None where no cut can meet the budget.

    The lengths are those of one encode of the whole: a chunk encoded by itself may take a token or two more.
    """
    if min(budget) < 1:
        return None
    cuts = _cuts(text, budget, LEVELS[strategy])
    positions = np.array([0, *sorted(cuts), len(text.text)])
    chosen = _cheapest(_index(text, positions), [cuts.get(position, 0.0) for position in positions.tolist()], budget)
    if chosen is None:
        return None
    edges = positions[chosen].tolist()
    return [span for span in (_trim(text.text, *pair) for pair in pairwise(edges)) if span[0] < span[1]]


def _index(text: Measured, positions: Ints) -> Ints:
    """Token index of sorted positions that begin with 0 and end with the text's length."""
    index = tokens_before(text, positions)
    index[0], index[-1] = 0, len(text.ends)
    return index


def _cuts(text: Measured, budget: Budget, levels: tuple[tuple[str, ...], ...]) -> dict[int, float]:
    """Positions where the text may be cut, with their penalties; finer ones only inside pieces that are over the budget."""
    cuts: dict[int, float] = {}
    for kinds in levels:
        edges = np.array([0, *sorted(cuts), len(text.text)])
        lengths = np.diff(_index(text, edges))
        too_long = lengths > budget.rest
        too_long[0] = lengths[0] > budget.first
        if not too_long.any():
            break
        for kind in kinds:
            found = np.array(_positions(text, kind), dtype=np.int64)
            found = found[(found > 0) & (found < len(text.text))]
            inside = found[too_long[np.searchsorted(edges, found, side="right") - 1]]
            cuts.update((position, PENALTY[kind]) for position in inside.tolist() if position not in cuts)
    return cuts


def _positions(text: Measured, kind: str) -> list[int]:
    if kind == "paragraph":
        return paragraph_starts(text.text)
    if kind == "sentence":  # a heading without a full stop ends at its blank line
        return sorted({*sentence_starts(text.text), *paragraph_starts(text.text)})
    if kind == "word":
        return [match.end() for match in _WORD_GAP.finditer(text.text)]
    # Byte-level tokenizers give several tokens of one character the same offsets: only the first of them may open a chunk.
    whole = text.starts[1:] >= text.ends[:-1]
    return [int(start) for start in text.starts[1:][whole]]


def _cheapest(index: Ints, penalties: list[float], budget: Budget) -> list[int] | None:
    """The cheapest way through the cuts: fewest chunks, then least sum of squared shares and penalties."""
    cost = np.full(len(index), np.inf)
    cost[0] = 0.0
    back = np.zeros(len(index), dtype=np.int64)
    lowest = np.searchsorted(index, index - budget.rest, side="left")
    for j in range(1, len(index)):
        if index[j] <= budget.first:
            cost[j] = CHUNK_COST + (index[j] / budget.first) ** 2
        low = max(1, int(lowest[j]))
        if low < j:
            ways = cost[low:j] + CHUNK_COST + ((index[j] - index[low:j]) / budget.rest) ** 2
            best = int(np.argmin(ways))
            if ways[best] < cost[j]:
                cost[j], back[j] = ways[best], low + best
        cost[j] += penalties[j]
    if not np.isfinite(cost[-1]):
        return None
    chosen = [len(index) - 1]
    while chosen[-1]:
        chosen.append(int(back[chosen[-1]]))
    return chosen[::-1]


def _trim(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def context_start(text: Measured, end: int, tokens: int) -> int:
    """Where the last whole sentences before `end` start that take at most `tokens` tokens; else words, else characters."""
    first = int(tokens_before(text, np.array([end]))[0]) - tokens
    if first <= 0:
        return 0
    lowest = int(text.starts[first])
    window = text.text[lowest:end].rstrip()
    starts = sentence_starts(window) or [match.end() for match in _WORD_GAP.finditer(window)]
    return lowest + (starts[0] if starts else 0)
