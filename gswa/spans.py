"""Where a text is cut: character spans, planned on the tokens of its words.

text        "First one. Second one.\\n\\nThird one."
spans       (0, 22) (24, 34)          ordered; only white space between them, so that nothing can be lost
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gswa.config import Strategy
from gswa.measure import Measured
from gswa.tokens import Flags, Ints

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
FEW = 1000  # cuts, of which all are looked at together in the time that ten take one by one
NEAREST = 32  # cuts that are weighed against each other at each place where a chunk may end


class Budget(NamedTuple):
    """Tokens of text for the first chunk, and for each later one together with the text before it; `contexts` are the tokens of that,
    most first: the next where it saves a chunk."""

    first: int
    rest: int
    contexts: Sequence[int]


class Cuts(NamedTuple):
    """Places where a text may be cut, its two ends among them: characters, tokens before them, and what a cut there costs."""

    positions: Ints
    tokens: Ints
    penalties: Floats


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
    chosen: Fullest | None = None
    for context in budget.contexts:
        found = _fullest(text, budget, context, strategy, chosen and chosen.cuts)
        if found and (chosen is None or len(found.farthest) < len(chosen.farthest)):
            chosen = found
        if chosen and len(chosen.farthest) - 1 <= _fewest(text, budget):
            break
    if chosen is None:
        return None
    edges = chosen.cuts.positions[_evenest(text, chosen, budget)].tolist()
    spans = (trimmed(text.text, *pair) for pair in pairwise(edges))
    return Plan([span for span in spans if span[0] < span[1]], chosen.context)


def _fewest(text: Measured, budget: Budget) -> int:
    """Chunks that no way goes below: the text before each later one takes half of the least context or more."""
    left = max(0, text.total - budget.first)
    return 1 + -(-left // max(1, budget.rest - min(budget.contexts) // 2))


def trimmed(text: str, start: int, end: int) -> Span:
    """The span without the white space at its ends."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


# -- where a text may be cut -------------------------------------------------------------------------------------------------
def _cuts(text: Measured, budget: Budget, context: int, levels: tuple[tuple[str, ...], ...]) -> Cuts:
    """The coarsest cuts that do; finer ones only inside pieces that are over the budget."""
    cuts = Cuts(np.array([0, len(text.text)]), np.array([0, text.total]), np.zeros(2))
    for kinds in levels:
        long = _too_long(text, cuts, budget, context)
        if not long.any():
            break
        positions, penalties = [cuts.positions], [cuts.penalties]
        for kind in kinds:
            found = _positions(text, kind)
            found = found[(found > 0) & (found < len(text.text))]
            positions.append(found[long[cuts.positions.searchsorted(found, side="right") - 1]])
            penalties.append(np.full(len(positions[-1]), PENALTY[kind]))
        every, first = np.unique(np.concatenate(positions), return_index=True)  # of two at one place the cheaper, which comes first
        cuts = Cuts(every, np.append(text.before(every[:-1]), text.total), np.concatenate(penalties)[first])
    return cuts


def _too_long(text: Measured, cuts: Cuts, budget: Budget, context: int) -> Flags:
    """For each piece between two cuts whether it is over what a chunk that begins with it may hold."""
    sizes = np.diff(cuts.tokens)
    most = max(context, int(np.diff(text.tokens).max(initial=0)))  # tokens of text before a cut
    long: Flags = sizes > min(budget.first, budget.rest - most)
    (doubtful,) = np.nonzero(long)
    long[doubtful] = sizes[doubtful] > _room(text, cuts, budget, context, doubtful)
    return long


def _room(text: Measured, cuts: Cuts, budget: Budget, context: int, at: Ints) -> Ints:
    """Tokens of text that a chunk which begins at each of these cuts may hold."""
    here = cuts.tokens[at]
    room = budget.rest - (here - _contexts(text, cuts.positions[at], here, context)[1])
    return np.where(at == 0, budget.first, room)


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
    first = text.tokens.searchsorted(here - tokens, side="left")
    if tokens:
        first = np.minimum(first, np.maximum(text.ends.searchsorted(positions, side="left") - 1, 0))
    words = text.ends[first]
    sentence = text.sentences.searchsorted(words, side="left")
    before_sentence = text.before_sentences[sentence]
    whole = here - before_sentence >= tokens / 2
    return np.where(whole, text.sentences[sentence], words), np.where(whole, before_sentence, text.tokens[first])


# -- where it is cut ---------------------------------------------------------------------------------------------------------
class Fullest(NamedTuple):
    """The cuts of a text, those of chunks that are as full as they can be, and the tokens of text before each later one."""

    cuts: Cuts
    farthest: list[int]
    context: int


def _fullest(text: Measured, budget: Budget, context: int, strategy: Strategy, cuts: Cuts | None = None) -> Fullest | None:
    """None where the budget does not hold the text before a chunk and a piece more. Cuts that do with more text before do with less."""
    if budget.rest <= context:
        return None
    cuts = cuts or _cuts(text, budget, context, LEVELS[strategy])
    farthest = _farthest(text, cuts, budget, context)
    return None if farthest is None else Fullest(cuts, farthest, context)


def _farthest(text: Measured, cuts: Cuts, budget: Budget, context: int) -> list[int] | None:
    """The cuts of chunks that are as full as they can be: no way needs fewer. None where a piece between two cuts is too long."""

    def reached(at: Ints) -> list[int]:
        ends = cuts.tokens[at] + _room(text, cuts, budget, context, at)
        return list((cuts.tokens.searchsorted(ends, side="right") - 1).tolist())

    chain, last = [0], len(cuts.tokens) - 1
    known = reached(np.arange(last)) if last <= FEW else None
    while chain[-1] < last:
        at = chain[-1]
        chain.append(known[at] if known else reached(np.array([at]))[0])
        if chain[-1] <= at:
            return None
    return chain


def _evenest(text: Measured, fullest: Fullest, budget: Budget) -> list[int]:
    """Of the ways with as many chunks, the one with the least sum of squared shares and penalties."""
    cuts, farthest, context = fullest
    layers = _layers(cuts, farthest, budget)
    tokens = [cuts.tokens[layer] for layer in layers]
    rooms = np.split(_room(text, cuts, budget, context, np.concatenate(layers)), np.cumsum(list(map(len, layers)))[:-1])
    cost, back = np.zeros(1), []
    for number, here in enumerate(layers[1:]):
        held = tokens[number + 1] - tokens[number][:, None]
        room = rooms[number][:, None]
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
    last, most = len(cuts.tokens) - 1, max(budget.first, budget.rest)
    layers, earliest = [np.array([last])], last
    whole = budget.first + budget.rest * (len(farthest) - 2)
    for number in range(len(farthest) - 2, 0, -1):
        earliest = int(cuts.tokens.searchsorted(cuts.tokens[earliest] - most, side="left"))
        even = cuts.tokens[last] * (budget.first + budget.rest * (number - 1)) / whole
        middle = int(cuts.tokens.searchsorted(even)) - NEAREST // 2
        low = max(earliest, min(middle, farthest[number] - NEAREST))
        layers.append(np.array([*range(low, min(low + NEAREST, farthest[number])), farthest[number]]))
    return [np.array([0]), *layers[::-1]]
