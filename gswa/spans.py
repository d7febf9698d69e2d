"""Where a text is cut: character spans, planned on the tokens of its words.

text        "First one. Second one.\\n\\nThird one."
spans       (0, 22) (24, 34)          ordered; only white space between them, so that nothing can be lost
"""

from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gswa.config import Strategy
from gswa.measure import Measured
from gswa.tokens import Ints

Span: TypeAlias = tuple[int, int]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

# What each strategy cuts at: first the first group; where a piece is still too long, the next one inside that piece.
LEVELS: dict[Strategy, tuple[tuple[str, ...], ...]] = {
    "auto": (("paragraph", "sentence"), ("word",), ("token",)),
    "paragraph": (("paragraph",), ("sentence",), ("word",), ("token",)),
    "sentence": (("sentence",), ("word",), ("token",)),
    "token": (("word",), ("token",)),
}
# What a cut costs beside uneven shares: a chunk of half the budget costs 0.25, a full one 1.
PENALTY = {"paragraph": 0.0, "sentence": 0.05, "word": 0.6, "token": 2.0}
NEAREST = 32  # cuts that are weighed against each other at each place where a chunk may end


class Budget(NamedTuple):
    """Tokens of text for the first chunk, and for each later one together with the text before it: `context` tokens of that, or
    `least` where more would cost a chunk more."""

    first: int
    rest: int
    context: int
    least: int


class Cuts(NamedTuple):
    """Places where a text may be cut, its two ends among them: characters, tokens before them, what a cut there costs, and
    the tokens of text that a chunk which begins there may hold."""

    positions: Ints
    tokens: Ints
    penalties: Floats
    room: Ints


class Plan(NamedTuple):
    """Each chunk's span, and the tokens of text that may stand before a later one."""

    spans: list[Span]
    context: int


def plan(text: Measured, budget: Budget, strategy: Strategy) -> Plan | None:
    """As few chunks as the budget allows, of shares as even as good cuts allow. None where no cut can meet the budget.

    The lengths are those of the words one by one: a chunk encoded by itself may take a few tokens more or fewer.
    """
    if budget.first < 1:
        return None
    context, found = budget.context, _fullest(text, budget, budget.context, strategy)
    if budget.least < context and (found is None or len(found.farthest) - 1 > _fewest(text, budget)):
        less = _fullest(text, budget, budget.least, strategy, found and found.cuts)
        if less is not None and (found is None or len(less.farthest) < len(found.farthest)):
            context, found = budget.least, less
    if found is None:
        return None
    edges = found.cuts.positions[_evenest(*found, budget)].tolist()
    spans = (trimmed(text.text, *pair) for pair in pairwise(edges))
    return Plan([span for span in spans if span[0] < span[1]], context)


def _fewest(text: Measured, budget: Budget) -> int:
    """Chunks that no way goes below: the text before each later one takes half of `least` or more."""
    left = max(0, text.total - budget.first)
    return 1 + -(-left // max(1, budget.rest - budget.least // 2))


def trimmed(text: str, start: int, end: int) -> Span:
    """The span without the white space at its ends."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


# -- where a text may be cut -------------------------------------------------------------------------------------------------
def _cuts(text: Measured, budget: Budget, context: int, levels: tuple[tuple[str, ...], ...]) -> Cuts:
    """The coarsest cuts that do; finer ones only inside pieces that are over the budget."""
    cuts = _cuts_at(text, budget, context, np.array([0, len(text.text)]), np.zeros(2))
    for kinds in levels:
        long = np.diff(cuts.tokens) > cuts.room[:-1]
        if not long.any():
            break
        positions, penalties = [cuts.positions], [cuts.penalties]
        for kind in kinds:
            found = _positions(text, kind)
            found = found[(found > 0) & (found < len(text.text))]
            positions.append(found[long[np.searchsorted(cuts.positions, found, side="right") - 1]])
            penalties.append(np.full(len(positions[-1]), PENALTY[kind]))
        every, first = np.unique(np.concatenate(positions), return_index=True)  # of two at one place the cheaper, which comes first
        cuts = _cuts_at(text, budget, context, every, np.concatenate(penalties)[first])
    return cuts


def _cuts_at(text: Measured, budget: Budget, context: int, positions: Ints, penalties: Floats) -> Cuts:
    tokens = text.before(positions)
    room = budget.rest - (tokens - _contexts(text, positions, tokens, context)[1])
    tokens[-1] = text.total
    room[0] = budget.first
    return Cuts(positions, tokens, penalties, room)


def _positions(text: Measured, kind: str) -> Ints:
    if kind == "paragraph":
        return text.paragraphs
    if kind == "sentence":
        return text.sentences
    inner: Ints = text.ends[1:-1][text.spaced[1:] == (kind == "word")]
    return inner


def context_starts(text: Measured, positions: Ints, tokens: int) -> Ints:
    """Where the last whole sentences before each position start that take at most `tokens` tokens and at least half as many; else
    the last words that do.

    Where even the last word takes more, as a piece of a text without spaces may, it alone.
    """
    return _contexts(text, positions, text.before(positions), tokens)[0]


def _contexts(text: Measured, positions: Ints, here: Ints, tokens: int) -> tuple[Ints, Ints]:
    """`context_starts`, and the tokens before them; `here` are those before the positions."""
    first = np.searchsorted(text.tokens, here - tokens, side="left")
    if tokens:
        first = np.minimum(first, np.maximum(np.searchsorted(text.ends, positions, side="left") - 1, 0))
    words = text.ends[first]
    sentence = np.searchsorted(text.sentences, words, side="left")
    before_sentence = text.before_sentences[sentence]
    whole = here - before_sentence >= tokens / 2
    starts = np.where(whole, np.append(text.sentences, len(text.text))[sentence], words)
    return starts, np.where(whole, before_sentence, text.tokens[first])


# -- where it is cut ---------------------------------------------------------------------------------------------------------
class Fullest(NamedTuple):
    cuts: Cuts
    farthest: list[int]


def _fullest(text: Measured, budget: Budget, context: int, strategy: Strategy, cuts: Cuts | None = None) -> Fullest | None:
    """With so much text before each later chunk; None where the budget does not hold it and a piece more. Cuts that do with more
    text before do with less."""
    if budget.rest <= context:
        return None
    cuts = _cuts_at(text, budget, context, cuts.positions, cuts.penalties) if cuts else _cuts(text, budget, context, LEVELS[strategy])
    farthest = _farthest(cuts)
    return None if farthest is None else Fullest(cuts, farthest)


def _farthest(cuts: Cuts) -> list[int] | None:
    """The cuts of chunks that are as full as they can be: no way needs fewer. None where a piece between two cuts is too long."""
    chain, last = [0], len(cuts.tokens) - 1
    while chain[-1] < last:
        at = chain[-1]
        reached = int(np.searchsorted(cuts.tokens, cuts.tokens[at] + cuts.room[at], side="right")) - 1
        if reached <= at:
            return None
        chain.append(reached)
    return chain


def _evenest(cuts: Cuts, farthest: list[int], budget: Budget) -> list[int]:
    """Of the ways with as many chunks, the one with the least sum of squared shares and penalties."""
    layers = _layers(cuts, farthest, budget)
    cost, back = np.zeros(1), []
    for before, here in pairwise(layers):
        held = cuts.tokens[here] - cuts.tokens[before][:, None]
        room = cuts.room[before][:, None]
        ways = np.where((held > 0) & (held <= room), cost[:, None] + (held / np.maximum(room, 1)) ** 2, np.inf)
        best = np.argmin(ways, axis=0)
        cost = ways[best, np.arange(len(here))] + cuts.penalties[here]
        back.append(best)
    chosen, at = [layers[-1][0]], 0
    for layer, best in zip(layers[-2::-1], back[::-1], strict=True):
        at = best[at]
        chosen.append(layer[at])
    return farthest if np.isinf(cost[0]) else chosen[::-1]


def _layers(cuts: Cuts, farthest: list[int], budget: Budget) -> list[Ints]:
    """For each number of chunks the cuts where the last of them may end: those nearest to even shares, and the farthest."""
    last, most = len(cuts.tokens) - 1, cuts.room.max()
    layers, earliest = [np.array([last])], last
    whole = budget.first + budget.rest * (len(farthest) - 2)
    for number in range(len(farthest) - 2, 0, -1):
        earliest = int(np.searchsorted(cuts.tokens, cuts.tokens[earliest] - most, side="left"))
        even = cuts.tokens[last] * (budget.first + budget.rest * (number - 1)) / whole
        middle = int(np.searchsorted(cuts.tokens, even)) - NEAREST // 2
        low = max(earliest, min(middle, farthest[number] - NEAREST))
        layers.append(np.unique([*range(low, min(low + NEAREST, farthest[number])), farthest[number]]))
    return [np.array([0]), *layers[::-1]]
