"""Pieces of text → whole paragraphs: what a column's end, a page's end, a figure or a formula interrupted is joined."""

import re

from gswa.corpus.headings import RUN_IN_ABSTRACT
from gswa.corpus.lines import HYPHEN, ends_sentence
from gswa.corpus.paragraphs import BULLET
from gswa.corpus.roles import Piece
from gswa.sentences import ends_in_short_form

ENUMERATED = re.compile(r"\S \(?(?:i|1|a)\)\s")  # a list inside a sentence: its next item may begin a column


def stitch(pieces: list[Piece]) -> list[Piece]:
    """Join a paragraph that a column's end, a page's end, a figure or a formula interrupts."""
    indents = _share_indented(pieces) > 0.5
    joined: list[Piece] = []
    for piece in pieces:
        at = _open_paragraph(joined) if piece.hint == "" else None
        if at is not None and _continues(joined[at], piece, interrupted=at < len(joined) - 1, indents=indents):
            joined[at] = Piece(joined[at].lines + piece.lines, "")
        else:
            joined.append(piece)
    return joined


def _open_paragraph(pieces: list[Piece]) -> int | None:
    """The last body paragraph, with nothing but captions, notes, formulas and tables since."""
    for at in range(len(pieces) - 1, -1, -1):
        piece = pieces[at]
        if piece.hint == "" and _is_running_text(piece):
            return at
        if piece.hint in ("heading", "title"):
            return None
    return None


def _is_running_text(piece: Piece) -> bool:
    dense = piece.text.replace(" ", "")
    return (
        len(piece.text) > 40
        and sum(c.isalpha() for c in dense) > 0.6 * len(dense)
        and (len(piece.lines) > 1 or len(piece.text.split()) >= 7)
    )


def _continues(before: Piece, after: Piece, interrupted: bool, indents: bool) -> bool:
    last, first = before.lines[-1], after.lines[0]
    moved = last.page != first.page or first.baseline > last.baseline or min(last.x1, first.x1) <= max(last.x0, first.x0)
    if not (moved or interrupted) or abs(before.size - after.size) > 0.06 * before.size or RUN_IN_ABSTRACT.match(after.text):
        return False
    text, start = last.text.strip(), first.text[:1]
    if text.endswith((HYPHEN, "-")):
        return start.isalnum()
    indented = _is_indented(after) and start.isupper()
    if ends_in_short_form(text):
        return _is_running_text(after)
    if not ends_sentence(text) or text.endswith((";", ",")):
        goes_on = start.islower() or (_is_running_text(after) and not (indents and indented))
        return goes_on and not (BULLET.match(first.text) and not ENUMERATED.search(before.text))
    # The sentence ended with the column. After a line that is full one that is not indented goes on: where paragraphs are
    # indented always, elsewhere most likely, since few paragraphs end with a full line.
    full = last.x1 > max(line.x1 for line in before.lines) - 0.03 * max(line.width for line in before.lines)
    return moved and full and not indented and len(after.lines) > 1 and len(before.lines) > 1


def _is_indented(piece: Piece) -> bool:
    return len(piece.lines) > 1 and piece.lines[0].x0 - piece.lines[1].x0 > 0.3 * piece.lines[0].size


def _share_indented(pieces: list[Piece]) -> float:
    long = [piece for piece in pieces if piece.hint == "" and len(piece.lines) > 2]
    indented = [piece for piece in long if _is_indented(piece)]
    return len(indented) / max(len(long), 1)
