"""A prompt and its answer, paragraph by paragraph: a rewritten text can be cut in both at once, a question and its answer cannot.

asked       "Rewrite this.\\n\\nFirst, as it was.\\n\\nSecond, as it was."
answer      "The first, better.\\n\\nThe second, better."
aligned     instruction "Rewrite this.", pairs (First, The first) (Second, The second)
"""

import re
from itertools import pairwise
from typing import NamedTuple

from gswa.sentences import PARAGRAPH_GAP

Span = tuple[int, int]
SHARED = 0.3  # of a paragraph's words that its counterpart must hold
_WORD = re.compile(r"\w{4,}")


class Aligned(NamedTuple):
    """Paragraphs of the prompt and of the answer that belong together; the instruction is empty where it is part of the first."""

    instruction: str
    asked: list[str]
    answered: list[Span]


def aligned(asked: str, answer: str) -> Aligned | None:
    """None unless there are as many paragraphs on both sides, beside an instruction, and each answers the one in its place."""
    sources = [asked[start:end] for start, end in paragraphs(asked)]
    targets = paragraphs(answer)
    instruction = sources.pop(0) if len(sources) == len(targets) + 1 else ""
    if len(sources) != len(targets) or len(targets) < 2 or not _answer_in_order(sources, [answer[start:end] for start, end in targets]):
        return None
    return Aligned(instruction, sources, targets)


def paragraphs(text: str) -> list[Span]:
    """Spans of the paragraphs, without the white space around them."""
    gaps = [(0, 0), *(match.span() for match in PARAGRAPH_GAP.finditer(text)), (len(text), len(text))]
    spans = []
    for (_, start), (end, _) in pairwise(gaps):
        piece = text[start:end]
        if piece.strip():
            spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
    return spans


def _answer_in_order(sources: list[str], targets: list[str]) -> bool:
    """Whether each target shares more words with the source in its place than with any other."""
    said = [set(_WORD.findall(source.lower())) for source in sources]
    for place, target in enumerate(targets):
        words = set(_WORD.findall(target.lower()))
        shared = [len(words & one) for one in said]
        if shared[place] < max(1, SHARED * len(words)) or shared[place] < max(shared):
            return False
    return True
