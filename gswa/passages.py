"""Document → chat examples: each passage of the author's is the answer to one request, of one of three kinds.

continue    Continue the section "Results" of the paper "On Streptomyces".
            … the last sentences of the paragraph before …                          → the passage
rewrite     Rewrite this passage in your own style.
            … plain prose that says the same …                                      → the passage
key_terms   Write a passage of the section "Results" … about these terms: …         → the passage

A passage is whole paragraphs of one section, about 150 to 400 words; only a longer paragraph is cut, at ends of sentences.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise
from typing import NamedTuple

from gswa.recipe import Kind, Recipe
from gswa.records import READABLE, Block, Document, Example, Message
from gswa.sentences import last_sentences, sentence_starts
from gswa.splits import share

CONTINUE_KIND: Kind = "continue"
LONGEST_NAME = 160  # characters; a longer title or heading is most likely no title, and is left out of the request
BEFORE_OPENING = "The text before it ends like this:"
TERMS = 8  # in a request made of key terms
TERM = re.compile(r"[^\W\d_][\w-]{4,}")


class Piece(NamedTuple):
    """Characters `start` to `end` of a block of `length` characters, by its place in the document: all, or part of a long one."""

    block: int
    text: str
    start: int
    end: int
    length: int


class Passage(NamedTuple):
    """Pieces of one section, in order; `opens` where they are the section's first, `before` is the paragraph or part before."""

    section: str
    pieces: tuple[Piece, ...]
    opens: bool
    before: str

    @property
    def text(self) -> str:
        return "\n\n".join(piece.text for piece in self.pieces)

    @property
    def cut(self) -> tuple[int, int] | None:
        """Where it starts in its first block and ends in its last one; None where these are whole."""
        first, last = self.pieces[0], self.pieces[-1]
        return (first.start, last.end) if first.start or last.end < last.length else None

    @property
    def blocks(self) -> tuple[int, ...]:
        return tuple(piece.block for piece in self.pieces)


def count_words(text: str) -> int:
    return len(text.split())


def training_paragraphs(document: Document) -> list[tuple[int, Block]]:
    """The blocks that examples are made of, with their indices: every paragraph of a readable document that has words."""
    if document.status not in READABLE:
        return []
    return [(index, block) for index, block in enumerate(document.blocks) if block.kind == "paragraph" and block.text.strip()]


# -- passages ------------------------------------------------------------------------------------------------------------
def passages(document: Document, recipe: Recipe) -> Iterator[Passage]:
    """Together they hold every training paragraph once, in order."""
    before = ""
    for section, blocks in groupby(training_paragraphs(document), key=lambda paragraph: paragraph[1].section):
        pieces = [piece for at, block in blocks for piece in _pieces(at, block.text, recipe.passage_words[1])]
        for number, group in enumerate(_grouped(pieces, *recipe.passage_words)):
            yield Passage(section, tuple(group), opens=number == 0, before=before)
            before = group[-1].text


def _pieces(block: int, text: str, most: int) -> list[Piece]:
    """The paragraph, or parts of about equal length where it has more than `most` words and sentences to part it at."""
    words = count_words(text)
    parts = math.ceil(words / (0.9 * most)) if words > most else 1  # sentences do not end just where a part should
    starts = sentence_starts(text) if parts > 1 else []
    chosen: list[int] = []
    for number in range(1, parts):
        later = [start for start in starts if start > (chosen[-1] if chosen else 0)]
        if later:
            chosen.append(min(later, key=lambda start: abs(start - number * len(text) / parts)))
    edges = [0, *chosen, len(text)]
    return [Piece(block, text[start:end].strip(), start, end, len(text)) for start, end in pairwise(edges)]


def _grouped(pieces: list[Piece], least: int, most: int) -> list[list[Piece]]:
    """Cut where the passages come nearest to `least` to `most` words: the cheapest way to each piece, by those before it."""
    words = [count_words(piece.text) for piece in pieces]
    best: list[tuple[float, int]] = [(0.0, 0)]  # up to each piece: the cost of the best cut, and where its last passage starts
    for end in range(1, len(pieces) + 1):
        options, total = [], 0
        for start in range(end - 1, -1, -1):
            total += words[start]
            if start < end - 1 and (total > 2 * most or pieces[start].block == pieces[start + 1].block):
                break  # parts of one paragraph stay apart: joined they would be two paragraphs
            options.append((best[start][0] + _cost(total, least, most), start))
        best.append(min(options))
    groups: list[list[Piece]] = []
    end = len(pieces)
    while end:
        start = best[end][1]
        groups.insert(0, pieces[start:end])
        end = start
    return groups


def _cost(words: int, least: int, most: int) -> float:
    """More the further a passage is from least to most words; of equal cuts the one with more passages is the cheaper."""
    return (max(0, least - words) / least) ** 2 + (max(0, words - most) / most) ** 2 - 1e-6


# -- examples ------------------------------------------------------------------------------------------------------------
def make_examples(document: Document, recipe: Recipe, seed: int, plain: Mapping[str, str]) -> Iterator[Example]:
    """One example per passage; `plain` is the plain side by the digest of the passage, where there is one.

    A passage whose turn it is to be rewritten and that has no plain side is continued. `weight` is not set yet.
    """
    for passage in passages(document, recipe):
        yield _example(document, passage, recipe, seed, plain.get(digest(passage.text), ""))


def kind_of(passage_text: str, recipe: Recipe, seed: int) -> Kind:
    """By the passage alone, so that neither another paper nor a new name changes it."""
    return recipe.kind_at(share(f"{seed}:kind:{digest(passage_text)}"))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _example(document: Document, passage: Passage, recipe: Recipe, seed: int, plain: str) -> Example:
    kind = kind_of(passage.text, recipe, seed)
    if kind == "rewrite" and not plain:
        kind = "continue"
    cut = passage.cut
    key = f"{document.source}:{document.sha256}:{passage.blocks}{cut or ''}:{kind}"
    identifier = hashlib.sha256(key.encode()).hexdigest()[:16]
    chance = share(f"{seed}:{identifier}")
    place = _place(passage.section, document.title)
    if kind == "rewrite":
        prompt = f"{_chosen(recipe.templates.rewrite, chance).format(place=place)}\n\n{plain}"
    elif kind == "key_terms":
        prompt = _chosen(recipe.templates.key_terms, chance).format(place=place, terms=", ".join(key_terms(passage.text)))
    else:
        prompt = _continuing(passage, recipe, chance, place)
    return Example(
        id=identifier,
        document=document.source,
        group=document.group or document.sha256[:16],
        kind=kind,
        blocks=passage.blocks,
        cut=cut,
        messages=(Message(role="user", content=prompt), Message(role="assistant", content=passage.text)),
    )


def _continuing(passage: Passage, recipe: Recipe, chance: float, place: str) -> str:
    context = last_sentences(passage.before, recipe.context_words) if passage.before and recipe.context_words else ""
    opens = passage.opens or not context
    asked = _chosen(recipe.templates.opening if opens else recipe.templates.continue_, chance).format(place=place)
    asked = f"{asked} {BEFORE_OPENING}" if opens and context else asked
    return f"{asked}\n\n{context}" if context else asked


def _chosen(wordings: tuple[str, ...], chance: float) -> str:
    return wordings[int(chance * len(wordings))]


def _place(section: str, title: str) -> str:
    section, title = (" ".join(name.split()) for name in (section, title))
    named = f'the section "{section}"' if 0 < len(section) <= LONGEST_NAME else ""
    paper = f'the paper "{title}"' if 0 < len(title) <= LONGEST_NAME else ""
    return " of ".join(name for name in (named, paper) if name) or "the paper"


def key_terms(text: str) -> list[str]:
    """The longest of the words that the passage uses most, in the order in which they come."""
    counts = Counter(word.lower() for word in TERM.findall(text))
    chosen = sorted(counts, key=lambda word: (-counts[word] * len(word), word))[:TERMS]
    return sorted(chosen, key=text.lower().index)
