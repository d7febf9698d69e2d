"""Lines of all pages → drafts: paragraphs with what their place and type tell of them, joined over columns and pages."""

import statistics
from collections import Counter
from typing import NamedTuple

from gswa.corpus.columns import reading_order
from gswa.corpus.furniture import without_furniture, without_line_numbers
from gswa.corpus.headings import BARE_CAPTION, RUN_IN_ABSTRACT, is_caption, is_known_heading, is_numbered_heading
from gswa.corpus.hyphens import join_lines, vocabulary
from gswa.corpus.lines import HYPHEN, Line, ends_sentence, merge_rows, overlap_x
from gswa.corpus.paragraphs import BULLET, Setting, group, leadings
from gswa.corpus.zones import Draft, Hint

SMALL = 0.9  # of the body's size and less: footnotes, tables, captions
SKIPPED: tuple[Hint, ...] = ("caption", "note", "other")


class Body(NamedTuple):
    """The type that most of the document is set in."""

    size: float
    font: str
    bold: bool


class Piece(NamedTuple):
    lines: list[Line]
    hint: Hint

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)

    @property
    def size(self) -> float:
        return statistics.median(line.size for line in self.lines)


def lay_out(pages: list[list[Line]]) -> list[Draft]:
    """Pure: every page's lines in stream order → the document's blocks in reading order."""
    pages = without_line_numbers(without_furniture(pages))
    pages = [merge_rows(reading_order(lines)) for lines in pages]
    everything = [line for lines in pages for line in lines]
    if not everything:
        return []
    body, words = _body(everything), vocabulary(line.text for line in everything)
    setting = Setting(body.size, leadings(everything))
    pieces = [Piece(lines, _hint(lines, body)) for page in pages for lines in group(page, setting)]
    pieces = _without_lone_headings(_with_whole_captions(_with_title(pieces, body), body))
    return [Draft(join_lines((line.text for line in p.lines), words), p.hint, p.lines[0].page) for p in stitch(pieces)]


def _body(lines: list[Line]) -> Body:
    weights: Counter[tuple[float, str, bool]] = Counter()
    sizes: Counter[float] = Counter()
    for line in lines:
        weights[round(line.size * 2) / 2, line.font, line.bold] += len(line.text)
        sizes[round(line.size * 2) / 2] += len(line.text)
    size = sizes.most_common(1)[0][0]
    _, font, bold = max((key for key in weights if key[0] == size), key=lambda key: weights[key])
    return Body(size, font, bold)


def _hint(lines: list[Line], body: Body) -> Hint:
    text = " ".join(line.text for line in lines)
    size = statistics.median(line.size for line in lines)
    if is_caption(text) or (BARE_CAPTION.match(text) and (size < 0.95 * body.size or lines[0].font != body.font)):
        return "caption"
    if (is_known_heading(text) and size > SMALL * body.size) or _looks_like_heading(lines, text, size, body):
        return "heading"
    return "small" if size <= SMALL * body.size else ""


def _looks_like_heading(lines: list[Line], text: str, size: float, body: Body) -> bool:
    bold = all(line.bold for line in lines) and not body.bold
    if len(text) > 160 or len(lines) > 3 or size < (0.75 if bold else 0.95) * body.size or not text[:1].isalnum() or "@" in text:
        return False
    if is_numbered_heading(text) and not (ends_sentence(text) and len(text.split()) > 8):
        return True
    if (ends_sentence(text) and not text.endswith("?")) or text[:1].islower() or sum(c.isalpha() for c in text) < 0.6 * len(text):
        return False
    return bold or size > 1.08 * body.size or (lines[0].font != body.font and "italic" in lines[0].font.lower() and len(text.split()) <= 10)


def _with_title(pieces: list[Piece], body: Body) -> list[Piece]:
    """The largest type in the upper part of the first page that has text, where it is larger than any body."""
    page = pieces[0].lines[0].page
    first = [piece for piece in pieces if piece.lines[0].page == page and piece.hint in ("heading", "")]
    largest = max((piece.size for piece in first if len(piece.text.split()) > 1 and len(piece.text) < 400), default=0.0)
    if largest < 1.15 * body.size:
        return pieces
    marked: list[Piece] = []
    for piece in pieces:
        is_title = (
            piece.lines[0].page == page and abs(piece.size - largest) < 0.3 and len(piece.text) < 400 and not is_known_heading(piece.text)
        )
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
        marked.append(piece._replace(hint="caption") if above and _is_below(above, piece) and piece.size < 0.97 * body.size else piece)
    return marked


def _is_below(above: Piece, piece: Piece) -> bool:
    last, first = above.lines[-1], piece.lines[0]
    near = 0 < last.baseline - first.baseline < 2.5 * first.size and overlap_x(last, first) > 0.3
    return near and last.page == first.page and abs(above.size - piece.size) < 0.04 * piece.size


def _without_lone_headings(pieces: list[Piece]) -> list[Piece]:
    """A heading stands over text: what only looks like one (a table's head, a figure's label) is none."""
    checked: list[Piece] = []
    text_follows = False
    for piece in reversed(pieces):
        if piece.hint == "heading" and not text_follows and not is_known_heading(piece.text):
            piece = piece._replace(hint="other")
        elif piece.hint not in ("caption", "heading"):
            count = len(piece.text.split())
            text_follows = count >= 15 or (count >= 6 and ends_sentence(piece.text))
        checked.append(piece)
    return checked[::-1]


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
    apart = interrupted or last.page != first.page or first.baseline > last.baseline or min(last.x1, first.x1) <= max(last.x0, first.x0)
    if not apart or abs(before.size - after.size) > 0.06 * before.size or RUN_IN_ABSTRACT.match(after.text):
        return False
    text, start = last.text.strip(), first.text[:1]
    if text.endswith((HYPHEN, "-")):
        return start.isalnum()
    if not ends_sentence(text):
        return start.islower() or (_is_running_text(after) and not BULLET.match(first.text))
    # The sentence ended with the column. Where paragraphs are indented, a line that is not, after one that is full, goes on.
    full = last.width > 0.97 * max(line.width for line in before.lines)
    return (
        indents
        and full
        and not interrupted
        and len(after.lines) > 1
        and len(before.lines) > 1
        and abs(first.x0 - after.lines[1].x0) < 0.3 * first.size
    )


def _share_indented(pieces: list[Piece]) -> float:
    long = [piece for piece in pieces if piece.hint == "" and len(piece.lines) > 2]
    indented = [piece for piece in long if piece.lines[0].x0 - piece.lines[1].x0 > 0.5 * piece.lines[0].size]
    return len(indented) / max(len(long), 1)
