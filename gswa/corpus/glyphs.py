"""Characters of a PDFium page → lines. One call of PDFium per character for its box, the costly ones once per line."""

import ctypes
import math
import statistics
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium_c

from gswa.corpus.guards import SetAside
from gswa.corpus.lines import HYPHEN, Line, turned, upright

MAX_CHARACTERS = 200_000  # on one page; the densest real ones (indices, newspapers) have about 20,000
HYPHENS = {0xFFFE, 0x02, 0xAD}
COMBINING = dict(
    zip("´`¨ˆ˜˘ˇ˝˚¸¯", "\u0301\u0300\u0308\u0302\u0303\u0306\u030c\u030b\u030a\u0327\u0304", strict=True)
)  # TeX sets accents as spacing marks
BOLD_FLAG = 1 << 18
BOLD_NAMES = ("bold", "black", "heavy", "semibold", "demi", "cmbx", "medi")


class Glyph(NamedTuple):
    at: int  # its place in PDFium's text page
    text: str
    x0: float
    y0: float
    x1: float
    y1: float


def page_lines(textpage: Any, page: int) -> list[Line]:
    """The lines of one page in the order of its content stream, upright: on a page set sideways, turned with it.

    Lines that run across the rest (a stamp in the margin) are left out.
    """
    count = pdfium_c.FPDFText_CountChars(textpage.raw)
    if count > MAX_CHARACTERS:
        raise SetAside("too_big", f"page {page} holds {count:,} characters; no paper has more than {MAX_CHARACTERS:,}")
    lines = [_line(textpage.raw, run, page, turn) for run, turn in _runs(textpage.raw, count) if any(not g.text.isspace() for g in run)]
    return upright(lines)


def _glyphs(raw: Any, count: int) -> Iterator[Glyph]:
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    get_unicode, get_box = pdfium_c.FPDFText_GetUnicode, pdfium_c.FPDFText_GetCharBox
    for index in range(count):
        code = get_unicode(raw, index)
        if code in HYPHENS:
            text = HYPHEN
        elif code <= 0x20 or code == 0xA0:
            text = "\n" if code == 0x0A else "" if code in (0, 0x0D) else " "
        else:
            text = chr(code)
        if text > " " and get_box(raw, index, left, right, bottom, top):
            yield Glyph(index, text, left.value, bottom.value, right.value, top.value)
        elif text:
            yield Glyph(index, text, math.nan, math.nan, math.nan, math.nan)


def _runs(raw: Any, count: int) -> Iterator[tuple[list[Glyph], int]]:
    """Glyphs cut where PDFium breaks the line, after a hyphen it swallowed the break of, and at gaps wider than 1.6 em."""
    run: list[Glyph] = []
    last: Glyph | None = None
    em, turn = 10.0, 0
    for glyph in _glyphs(raw, count):
        placed = glyph.x0 == glyph.x0
        if run and (glyph.text == "\n" or (placed and last and _jumps(last, glyph, em, turn))):
            yield run, turn
            run, last = [], None
        if glyph.text == "\n" or (not run and not placed):
            continue
        if not run:
            em, turn = _font_size(raw, glyph.at), _turn(raw, glyph.at)
        run.append(glyph)
        last = glyph if placed else last
    if run:
        yield run, turn


def _jumps(last: Glyph, glyph: Glyph, em: float, turn: int) -> bool:
    if turn:
        return False
    if last.text == HYPHEN and (glyph.x0 < last.x0 - em or glyph.y1 < last.y0 - 0.3 * em or glyph.y0 > last.y1 + 0.5 * em):
        return True
    return glyph.x0 - last.x1 > 1.6 * em or glyph.x0 < last.x0 - 3 * em


def _turn(raw: Any, index: int) -> int:
    """Quarter turns of the text, counter-clockwise."""
    return round(float(pdfium_c.FPDFText_GetCharAngle(raw, index)) / (math.pi / 2)) % 4


def _font_size(raw: Any, index: int) -> float:
    """In points: the size as set times the scale of the text matrix."""
    matrix = pdfium_c.FS_MATRIX()
    pdfium_c.FPDFText_GetMatrix(raw, index, matrix)
    return float(pdfium_c.FPDFText_GetFontSize(raw, index) * (math.hypot(matrix.b, matrix.d) or 1.0)) or 10.0


def _font(raw: Any, index: int) -> tuple[str, bool]:
    name, flags = ctypes.create_string_buffer(128), ctypes.c_int()
    pdfium_c.FPDFText_GetFontInfo(raw, index, name, 128, flags)
    font = name.value.decode("latin-1").split("+")[-1]
    return font, bool(flags.value & BOLD_FLAG) or any(word in font.lower() for word in BOLD_NAMES)


def _line(raw: Any, run: list[Glyph], page: int, turn: int) -> Line:
    placed = [glyph for glyph in run if glyph.x0 == glyph.x0]
    samples = [placed[len(placed) * k // 5] for k in range(5)]
    x, y = ctypes.c_double(), ctypes.c_double()
    origins = []
    for glyph in samples:
        pdfium_c.FPDFText_GetCharOrigin(raw, glyph.at, x, y)
        origins.append(turned(x.value, y.value, turn)[1])
    low = [turned(g.x0, g.y0, turn) for g in placed]
    high = [turned(g.x1, g.y1, turn) for g in placed]
    xs, ys = [p[0] for p in (*low, *high)], [p[1] for p in (*low, *high)]
    size = statistics.median(_font_size(raw, glyph.at) for glyph in samples)
    bold = _font(raw, placed[0].at)[1] and _font(raw, placed[-1].at)[1]
    font = _font(raw, samples[2].at)[0]
    return Line(page, _text(run), min(xs), min(ys), max(xs), max(ys), statistics.median(origins), size, font, bold, turn)


def _text(run: list[Glyph]) -> str:
    if any(glyph.text in COMBINING for glyph in run):
        run = _with_accents(run)
    text = "".join(glyph.text for glyph in run).strip()
    # Letters beyond U+FFFF come as surrogates, some PDFs' as two halves of which PDFium lost one.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text)


def _with_accents(run: list[Glyph]) -> list[Glyph]:
    """Put each spacing accent on the letter that it is printed over."""
    accents = [glyph for glyph in run if glyph.text in COMBINING]
    letters = [glyph for glyph in run if glyph.text.isalpha()]
    over: dict[int, str] = {}
    for accent in accents:
        middle = (accent.x0 + accent.x1) / 2
        below = [letter for letter in letters if letter.x0 <= middle <= letter.x1]
        if below:
            over[below[0].at] = over.get(below[0].at, "") + COMBINING[accent.text]
            over[accent.at] = ""
    out: list[Glyph] = []
    for glyph in run:
        if over.get(glyph.at) == "":
            while out and out[-1].text == " ":
                out.pop()
        else:
            out.append(glyph._replace(text=glyph.text + over.get(glyph.at, "")))
    return out
