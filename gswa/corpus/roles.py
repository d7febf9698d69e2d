"""What a group of lines is by its type and place: a title, a heading, a caption, small print, or text."""

import re
import statistics
from collections import Counter
from typing import NamedTuple

from gswa.corpus.headings import BARE_CAPTION, RUN_IN_NOTE, is_abstract, is_caption, is_known_heading, is_numbered_heading, zone_of
from gswa.corpus.lines import Line, ends_sentence, overlap_x
from gswa.corpus.zones import Hint

SMALL = 0.9  # of the body's size and less: footnotes, tables, captions
MONOSPACED = re.compile(r"mono|courier|typewriter|cmtt|consol|lettergothic|txtt|inconsol|menlo", re.IGNORECASE)


class Body(NamedTuple):
    """The type that most of the document is set in."""

    size: float
    font: str
    bold: bool


class Piece(NamedTuple):
    """Lines of one page that belong together, and what is known of them."""

    lines: list[Line]
    hint: Hint

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)

    @property
    def size(self) -> float:
        return statistics.median(line.size for line in self.lines)

    @property
    def page(self) -> int:
        return self.lines[0].page


def body_of(lines: list[Line]) -> Body:
    """By the text before the list of references, where that leaves enough to tell."""
    ends = [at for at, line in enumerate(lines) if zone_of(line.text) == "reference"]
    if ends and sum(len(line.text) for line in lines[: ends[-1]]) > 0.3 * sum(len(line.text) for line in lines):
        lines = lines[: ends[-1]]
    weights: Counter[tuple[float, str, bool]] = Counter()
    sizes: Counter[float] = Counter()
    for line in lines:
        weights[round(line.size * 2) / 2, line.font, line.bold] += len(line.text)
        sizes[round(line.size * 2) / 2] += len(line.text)
    size = sizes.most_common(1)[0][0]
    _, font, bold = max((key for key in weights if key[0] == size), key=lambda key: weights[key])
    return Body(size, font, bold)


def with_roles(groups: list[list[Line]], body: Body) -> list[Piece]:
    """The pieces of a document, in reading order, each with what it is."""
    pieces = [Piece(lines, _hint(lines, body)) for lines in groups]
    return _with_sure_headings(_with_whole_captions(_with_title(pieces, body), body), body)


def _hint(lines: list[Line], body: Body) -> Hint:
    piece = Piece(lines, "")
    text, size = piece.text, piece.size
    if is_caption(text) or (BARE_CAPTION.match(text) and (size < 0.95 * body.size or lines[0].font != body.font)):
        return "caption"
    if _is_named(piece, body) or _is_set_apart(piece, body) or _is_in_another_font(piece, body):
        return "heading"
    if sum(MONOSPACED.search(line.font) is not None for line in lines) > 0.5 * len(lines) and not MONOSPACED.search(body.font):
        return "other"  # a listing of code
    return "small" if size <= SMALL * body.size else ""


def _is_named(piece: Piece, body: Body) -> bool:
    """By what it says. Small print may name the parts that are not body text, and the abstract."""
    if not is_known_heading(piece.text):
        return False
    ends_body = zone_of(piece.text) in ("reference", "acknowledgement") or (is_abstract(piece.text) and piece.page <= 2)
    return piece.size > (0.7 if ends_body and _is_distinct(piece, body) else SMALL) * body.size


def _is_distinct(piece: Piece, body: Body) -> bool:
    first = piece.lines[0]
    return first.bold != body.bold or first.font != body.font or abs(piece.size - body.size) > 0.05 * body.size or piece.text.isupper()


def _is_set_apart(piece: Piece, body: Body) -> bool:
    """Numbered, or bold, or in larger type: short, and no sentence."""
    text, size = piece.text, piece.size
    bold = all(line.bold for line in piece.lines) and not body.bold
    if len(text) > 160 or len(piece.lines) > 3 or size < (0.75 if bold else 0.95) * body.size or not text[:1].isalnum() or "@" in text:
        return False
    if is_numbered_heading(text) and not (ends_sentence(text) and len(text.split()) > 8):
        return True
    return _reads_as_heading(text) and (bold or size > 1.08 * body.size)


def _is_in_another_font(piece: Piece, body: Body) -> bool:
    """A line in italics, in capitals, or in a typeface that the text is not in; `_with_sure_headings` looks for the text below it."""
    same_size = 0.9 * body.size < piece.size <= 1.08 * body.size
    other = piece.lines[0].font != body.font and not MONOSPACED.search(piece.lines[0].font)
    capitals = piece.text.isupper() and sum(map(str.isalpha, piece.text)) > 3
    plain = not piece.lines[0].bold and (other or capitals)
    return same_size and plain and len(piece.lines) <= 2 and len(piece.text.split()) <= 12 and _reads_as_heading(piece.text)


def _reads_as_heading(text: str) -> bool:
    sentence = ends_sentence(text) and not text.endswith("?")
    labelled = (note := RUN_IN_NOTE.match(text)) is not None and note[0].endswith((":", "—", "–"))
    return (
        not sentence
        and not labelled
        and text[:1].isalnum()
        and not text[:1].islower()
        and sum(c.isalpha() for c in text) >= 0.6 * len(text)
    )


def _with_title(pieces: list[Piece], body: Body) -> list[Piece]:
    """The largest type in the upper part of the first page that has text, where it is larger than any body."""
    page = pieces[0].page
    first = [piece for piece in pieces if piece.page == page and piece.hint in ("heading", "")]
    largest = max((piece.size for piece in first if len(piece.text.split()) > 1 and len(piece.text) < 400), default=0.0)
    if largest < 1.15 * body.size:
        return pieces
    marked: list[Piece] = []
    for piece in pieces:
        is_title = piece.page == page and abs(piece.size - largest) < 0.3 and len(piece.text) < 400 and not is_known_heading(piece.text)
        if is_title and marked and marked[-1].hint == "title":
            marked[-1] = Piece(marked[-1].lines + piece.lines, "title")
        elif is_title and all(earlier.hint != "title" for earlier in marked):
            marked.append(piece._replace(hint="title"))
        else:
            marked.append(piece)
    return marked


def _with_whole_captions(pieces: list[Piece], body: Body) -> list[Piece]:
    """A caption of several paragraphs: what follows right below it in its own size."""
    marked: list[Piece] = []
    for piece in pieces:
        above = marked[-1] if marked and marked[-1].hint == "caption" and piece.hint in ("", "small") else None
        goes_on = above and _is_below(above, piece) and abs(above.size - piece.size) < 0.04 * piece.size
        own_type = above and (piece.size < 0.97 * body.size or above.lines[0].font == piece.lines[0].font != body.font)
        marked.append(piece._replace(hint="caption") if goes_on and own_type else piece)
    return marked


def _is_below(above: Piece, piece: Piece, leadings: float = 2.5) -> bool:
    last, first = above.lines[-1], piece.lines[0]
    return last.page == first.page and 0 < last.baseline - first.baseline < leadings * first.size and overlap_x(last, first) > 0.3


def _with_sure_headings(pieces: list[Piece], body: Body) -> list[Piece]:
    """A heading stands over text: what only looks like one (a table's head, a figure's label) is none."""
    checked: list[Piece] = []
    text_follows = False
    for before, piece in zip([None, *pieces][-2::-1], reversed(pieces), strict=True):
        if piece.hint == "heading" and before and checked and _heads_table(before, piece, checked[-1]):
            piece = piece._replace(hint="small")
        elif piece.hint == "heading" and not (_is_named(piece, body) or _is_set_apart(piece, body)):
            piece = piece if checked and _is_over_text(piece, checked[-1], body) else piece._replace(hint="")
        elif piece.hint == "heading" and not text_follows and not (is_known_heading(piece.text) and _is_distinct(piece, body)):
            piece = piece._replace(hint="other")
        if piece.hint not in ("caption", "heading"):
            count = len(piece.text.split())
            text_follows = count >= 15 or (count >= 6 and ends_sentence(piece.text))
        checked.append(piece)
    return checked[::-1]


def _heads_table(caption: Piece, piece: Piece, below: Piece) -> bool:
    """The first cell of a table: between its caption and small print, whatever it is called ("Method")."""
    under = caption.hint == "caption" and caption.text[:5].lower() == "table" and _is_below(caption, piece, 4)
    return under and below.hint == "small" and zone_of(piece.text) is None


def _is_over_text(piece: Piece, below: Piece, body: Body) -> bool:
    """At the left edge of a paragraph right below, or centred over it; the paragraph set in the body's type."""
    first, own = below.lines[0], piece.lines[0]
    in_type = below.hint == "" and len(below.lines) > 1 and any(line.font == body.font for line in below.lines)
    left, right = min(line.x0 for line in below.lines), max(line.x1 for line in below.lines)
    at_edge, centred = abs(own.x0 - first.x0) < 2.5 * first.size, abs(own.x0 + own.x1 - left - right) < 2 * first.size
    return in_type and _is_below(piece, below, 3.5) and (at_edge or centred)
