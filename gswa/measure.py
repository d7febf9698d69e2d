"""How many tokens stand before each place of a text, from words that were counted before: a tenth of the cost of encoding it.

A text's words repeat, and a tokenizer splits a word the same way nearly everywhere. Where it does not, the count is a token
or two off, so that it serves to plan cuts and never to promise lengths.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import repeat

import numpy as np

from gswa.sentences import paragraph_starts, sentence_starts
from gswa.tokens import Flags, Ints, Line, Tokenizer, encode, special_marks

LONG = 32  # characters
_PIECE = re.compile(
    r"\s{1,64}|[!-~]{1,24}|[^。！？]{1,6}[。！？]{0,6}|[。！？]{1,6}", re.DOTALL
)  # short where a character may be several tokens
GLUED, LIKE_IT = (
    "\ufdd0",
    "\ufdd1",
)  # before a piece of a longer word: no space stands before it. Where a text has it, another counts for it
_LAST_SPACE = re.compile(" (?! )")
MEMORY = 400_000  # words; some 60 MB


@dataclass(frozen=True)
class Measured:
    """A text, the character at which each of its words ends, and the tokens up to there; both begin with 0.

    `spaced` says of each word whether white space stands before it; pieces of a longer one have none.
    """

    text: str
    ends: Ints
    tokens: Ints
    spaced: Flags

    @property
    def total(self) -> int:
        return int(self.tokens[-1])

    @cached_property
    def paragraphs(self) -> Ints:
        return np.array(paragraph_starts(self.text), dtype=np.int64)

    @cached_property
    def sentences(self) -> Ints:
        """Where sentences start, and the text's two ends; a heading without a full stop ends at its blank line."""
        return np.unique(np.concatenate([[0], sentence_starts(self.text), self.paragraphs, [len(self.text)]]).astype(np.int64))

    @cached_property
    def before_sentences(self) -> Ints:
        """Tokens before each of `sentences`."""
        return self.before(self.sentences)

    def corrected(self, spans: Sequence[tuple[int, int]], more: Sequence[int]) -> "Measured":
        """The same text with so many tokens more in the words of each span: in proportion, the first words' first."""
        steps = np.diff(self.tokens, prepend=0)
        for (start, end), missing in zip(spans, more, strict=True):
            if missing:
                first, last = (int(self.ends.searchsorted(place, side="right")) - 1 for place in (start, end))
                words = slice(first + 1, max(first + 1, last) + 1)
                share = np.cumsum(steps[words]) / max(1, steps[words].sum())
                steps[words] += np.diff(np.ceil(share * missing).astype(np.int64), prepend=0)
        other = replace(self, tokens=np.cumsum(steps))
        vars(other).update(paragraphs=self.paragraphs, sentences=self.sentences)  # which are the text's, and took long to find
        return other

    def before(self, positions: Ints) -> Ints:
        """Tokens before each position. A word goes with the space before it, so at a word's first letter it is still to come."""
        return self.tokens[self.ends.searchsorted(positions, side="right") - 1]


class WordCounts:
    """Tokens and characters of each word seen so far, with the space before it that nearly all have."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, int] = {}  # tokens, characters and `spaced` in one number, so that a text is looked up in one pass

    def measure(self, text: str) -> Measured:
        found = self._look_up(_words(text))
        return measured(text, found // 2 % _PACK, found // 2 // _PACK, found % 2 == 1)

    def _look_up(self, words: list[str]) -> Ints:
        """The number in `known` of each word, of a longer one those of its pieces."""
        if len(self.known) > MEMORY:
            self.known.clear()
        found = self._numbers(words)
        unknown = np.flatnonzero(found == UNKNOWN)
        if not len(unknown):
            return found
        rare = list(map(words.__getitem__, unknown.tolist()))
        sizes = np.ones(len(words), dtype=np.int64)
        for place in np.flatnonzero(np.fromiter(map(len, rare), np.int64, len(rare)) > LONG)[::-1].tolist():
            rare[place : place + 1] = pieces = _pieces(rare[place])
            sizes[unknown[place]] = len(pieces)
        if new := [word for word in dict.fromkeys(rare) if word not in self.known]:
            self._learn(new)
        found = np.repeat(found, sizes)
        found[found == UNKNOWN] = self._numbers(rare)
        return found

    def _numbers(self, words: list[str]) -> Ints:
        return np.fromiter(map(self.known.get, words, repeat(UNKNOWN)), np.int64, len(words))

    def _learn(self, words: list[str]) -> None:
        """All of them in one encode, in which each token counts for the word it ends in."""
        firsts = [word[:1] for word in words]
        each = zip(words, firsts, strict=True)
        spelled = [f" {word}" if first not in WITHOUT_SPACE else word.removeprefix(GLUED) for word, first in each]
        lengths = np.fromiter(map(len, spelled), np.int64, len(spelled))
        line = Line(text := "".join(spelled), special_marks(self.tokenizer, text))
        encode(self.tokenizer, [line])
        edges = np.cumsum(lengths)
        if line.places.in_bytes and not text.isascii():
            begins = (np.frombuffer(text.encode(), dtype=np.uint8) & 0xC0) != 0x80  # of each byte, whether a character begins with it
            edges = np.append(np.flatnonzero(begins), len(begins))[edges]
        passed = np.searchsorted(np.maximum.accumulate(line.places.ends), edges, side="right")
        spaced = np.array([first != GLUED for first in firsts])
        packed = (np.diff(passed, prepend=0) * _PACK + lengths) * 2 + spaced
        self.known.update(zip(words, packed.tolist(), strict=True))


UNKNOWN = -1
WITHOUT_SPACE = frozenset(["\n", GLUED])  # what a word begins with that none stands before
_PACK = 2**16  # above the length of every piece


def _words(text: str) -> list[str]:
    """The text at its spaces and before its line ends; a space goes with the word after it, and is not in it.

    Of several spaces the last one goes with the word after them, and line ends stay together, as tokenizers take them.
    """
    spread = f"{GLUED}{text.replace(GLUED, LIKE_IT)}".replace("\n", " \n").replace("\n \n", "\n\n").replace("\n \n", "\n\n")
    return _LAST_SPACE.split(spread) if "  " in spread else spread.split(" ")


def _pieces(word: str) -> list[str]:
    first, *rest = _PIECE.findall(word)
    return [first, *(GLUED + piece for piece in rest)]


def measured(text: str, lengths: Sequence[int] | Ints, counts: Sequence[int] | Ints, spaced: Sequence[bool] | Flags) -> Measured:
    """`lengths` in characters and `counts` in tokens of the text's words, which leave nothing out."""
    ends, tokens = (np.concatenate([[0], np.cumsum(np.asarray(values, dtype=np.int64))]) for values in (lengths, counts))
    return Measured(text, ends, tokens, np.asarray(spaced, dtype=bool))


@lru_cache(maxsize=4)
def word_counts(tokenizer: Tokenizer) -> WordCounts:
    return WordCounts(tokenizer)
