"""A PDFium text page → lines. Its text comes in one call, boxes only for the ends of words: calls are what reading costs."""

import ctypes
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium_c

from gswa.corpus.guards import SetAside
from gswa.corpus.lines import HYPHEN, Line, turned, upright

MAX_CHARACTERS = 200_000  # on one page; the densest real ones (indices, newspapers) have about 20,000
GAP = 0.8  # ems between the parts of a row: a gutter may be narrower than the spaces of a stretched line
NOTHING = "\0"  # stands for what is left out, so that places in the text are PDFium's
CHARACTERS = {code: " " for code in (*range(1, 33), 0xA0)} | {0x0A: "\n", 0x0D: NOTHING, 0x02: HYPHEN, 0xAD: HYPHEN}
SEGMENT = re.compile("[^\n]+")
WORD = re.compile(f"[^ {NOTHING}{HYPHEN}]*{HYPHEN}|[^ {NOTHING}{HYPHEN}]+")
COMBINING = dict(
    zip("´`¨ˆ˜˘ˇ˝˚¸¯", "\u0301\u0300\u0308\u0302\u0303\u0306\u030c\u030b\u030a\u0327\u0304", strict=True)
)  # TeX sets accents as spacing marks
DOTLESS = {"ı": "i", "ȷ": "j"}  # what an accent goes on
EXTENSION = re.compile("cmex|lmmathextension", re.IGNORECASE)  # TeX's large operators, which hang below their origin
OPERATORS = dict(zip("PQRXYZ", "∑∏∫∑∏∫", strict=True))  # at the places of these letters, in text and in displayed formulas
BOLD_FLAG = 1 << 18
BOLD_NAMES = ("bold", "black", "heavy", "semibold", "demi", "cmbx", "medi")


class Box(NamedTuple):
    """Of a character or a word, in points."""

    x0: float
    y0: float
    x1: float
    y1: float


class Word(NamedTuple):
    """Characters `start` to `end` of the page; its box spans those of its first and last one."""

    start: int
    end: int
    box: Box


class Glyph(NamedTuple):
    at: int
    text: str
    x0: float
    x1: float


def page_lines(textpage: Any, page: int) -> list[Line]:
    """The lines of one page in the order of its content stream, upright: on a page set sideways, turned with it.

    Lines that run across the rest (a stamp in the margin) are left out.
    """
    count = pdfium_c.FPDFText_CountChars(textpage.raw)
    if count > MAX_CHARACTERS:
        raise SetAside("too_big", f"page {page} holds {count:,} characters; no paper has more than {MAX_CHARACTERS:,}")
    source = _Characters(textpage.raw, count)
    return upright([_line(source, run, page, turn) for run, turn in _with_late_accents(source, _runs(source))])


class _Characters:
    """What PDFium says of the characters of a page, by their place in its text."""

    def __init__(self, raw: Any, count: int) -> None:
        self.raw = raw
        self.text = self._all(count).translate(CHARACTERS)
        self.doubles = tuple(ctypes.c_double() for _ in range(4))
        self.matrix = pdfium_c.FS_MATRIX()
        self.name, self.flags = ctypes.create_string_buffer(128), ctypes.c_int()

    def _all(self, count: int) -> str:
        """One character for each of PDFium's, halves of surrogate pairs apart, so that places agree."""
        units = (ctypes.c_ushort * (count + 1))()
        if pdfium_c.FPDFText_GetText(self.raw, 0, count, units) == count + 1:
            return "".join(map(chr, units[:count]))
        return "".join(chr(pdfium_c.FPDFText_GetUnicode(self.raw, index)) for index in range(count))  # GetText leaves NULs out

    def box(self, at: int) -> Box | None:
        """None for what PDFium made up itself, such as spaces between words."""
        left, right, bottom, top = self.doubles
        found = pdfium_c.FPDFText_GetCharBox(self.raw, at, left, right, bottom, top)
        return Box(left.value, bottom.value, right.value, top.value) if found else None

    def turn(self, at: int) -> int:
        """Quarter turns of the text, counter-clockwise."""
        return round(float(pdfium_c.FPDFText_GetCharAngle(self.raw, at)) / (math.pi / 2)) % 4

    def size(self, at: int) -> float:
        """In points: the size as set times the scale of the text matrix."""
        pdfium_c.FPDFText_GetMatrix(self.raw, at, self.matrix)
        scale = math.hypot(self.matrix.b, self.matrix.d) or 1.0
        return float(pdfium_c.FPDFText_GetFontSize(self.raw, at) * scale) or 10.0

    def origin(self, at: int) -> tuple[float, float]:
        x, y = self.doubles[:2]
        pdfium_c.FPDFText_GetCharOrigin(self.raw, at, x, y)
        return x.value, y.value

    def font(self, at: int) -> tuple[str, bool]:
        """Its name, and whether it is bold."""
        pdfium_c.FPDFText_GetFontInfo(self.raw, at, self.name, 128, self.flags)
        font = self.name.value.decode("latin-1").split("+")[-1]
        return font, bool(self.flags.value & BOLD_FLAG) or any(word in font.lower() for word in BOLD_NAMES)


def _runs(source: _Characters) -> Iterator[tuple[list[Word], int]]:
    """Words cut where PDFium breaks the line, after a hyphen it swallowed the break of, and at gaps wider than `GAP`."""
    for segment in SEGMENT.finditer(source.text):
        run: list[Word] = []
        em, turn = 10.0, 0
        for match in WORD.finditer(source.text, *segment.span()):
            word = _word(source, *match.span())
            if word is None:
                run[-1:] = [last._replace(end=match.end()) for last in run[-1:]]
                continue
            if run and not turn and _jumps(source, run[-1], word, em):
                yield run, turn
                run = []
            if not run:
                em, turn = source.size(word.start), source.turn(word.start)
            run.append(word)
        if run:
            yield run, turn


def _with_late_accents(source: _Characters, runs: Iterable[tuple[list[Word], int]]) -> list[tuple[list[Word], int]]:
    """Accents that the file draws after the line, or that PDFium takes for one of their own, belong to the line they stand in."""
    kept: list[tuple[list[Word], int]] = []
    for run, turn in runs:
        over = kept and kept[-1][1] == turn and any(_covers(word.box, run[0].box) for word in kept[-1][0])
        if over and all(char in COMBINING for char in source.text[run[0].start : run[-1].end]):
            kept[-1][0].extend(run)
        else:
            kept.append((run, turn))
    return kept


def _covers(word: Box, mark: Box) -> bool:
    x, y = (mark.x0 + mark.x1) / 2, (mark.y0 + mark.y1) / 2
    return word.x0 <= x <= word.x1 and word.y0 - 1 <= y <= word.y1 + 4


def _word(source: _Characters, start: int, end: int) -> Word | None:
    first, last = source.box(start), source.box(end - 1)
    if first is None or last is None:  # a ligature's second letter, or a mark that PDFium made up
        boxes = [box for at in range(start, end) if (box := source.box(at))]
        if not boxes:
            return None
        first, last = first or boxes[0], last or boxes[-1]
    box = Box(min(first.x0, last.x0), min(first.y0, last.y0), max(first.x1, last.x1), max(first.y1, last.y1))
    return Word(start, end, box)


def _jumps(source: _Characters, last: Word, word: Word, em: float) -> bool:
    if source.text[last.end - 1] == HYPHEN and (hyphen := source.box(last.end - 1)):
        above, below = word.box.y0 > hyphen.y1 + 0.5 * em, word.box.y1 < hyphen.y0 - 0.3 * em
        if above or below or word.box.x0 < hyphen.x0 - em:
            return True
    return word.box.x0 - last.box.x1 > GAP * em or word.box.x0 < last.box.x1 - 3 * em


def _line(source: _Characters, run: list[Word], page: int, turn: int) -> Line:
    samples = [run[len(run) * k // 5].start for k in range(5)]
    baseline = sorted(turned(*source.origin(at), turn)[1] for at in samples)[2]
    size = sorted(map(source.size, samples))[2]
    corners = [turned(word.box.x0, word.box.y0, turn) for word in run] + [turned(word.box.x1, word.box.y1, turn) for word in run]
    xs, ys = zip(*corners, strict=True)
    bold = source.font(run[0].start)[1] and source.font(run[-1].start)[1]
    font, text = source.font(samples[2])[0], _text(source, run)
    if EXTENSION.match(font) or text == "√":
        baseline = (run[0].box.y0 + run[0].box.y1) / 2 - size / 4  # the axis of formulas is a quarter of an em above the baseline
        text = OPERATORS.get(text[:1], text[:1]) + text[1:]
    return Line(page, text, min(xs), min(ys), max(xs), max(ys), baseline, size, font, bold, turn)


def _text(source: _Characters, run: list[Word]) -> str:
    start, end = run[0].start, run[-1].end
    text = source.text[start:end]
    if any(mark in text for mark in COMBINING):
        text = _with_accents(source, start, end)
    # Letters beyond U+FFFF come as surrogates, some PDFs' as two halves of which the file names one only.
    text = text.replace(NOTHING, "").strip().encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text)


def _with_accents(source: _Characters, start: int, end: int) -> str:
    """Put each spacing accent on the letter that it is printed over."""
    boxes = ((at, source.box(at) or Box(*[math.nan] * 4)) for at in range(start, end))
    run = [Glyph(at, source.text[at], box.x0, box.x1) for at, box in boxes]
    accents = [glyph for glyph in run if glyph.text in COMBINING]
    letters = [glyph for glyph in run if glyph.text.isalpha() and glyph.text not in COMBINING]  # "ˆ" counts as a letter
    over: dict[int, str] = {}
    for accent in accents:
        middle = (accent.x0 + accent.x1) / 2
        below = [letter for letter in letters if letter.x0 <= middle <= letter.x1]
        if below:
            over[below[0].at] = over.get(below[0].at, "") + COMBINING[accent.text]
            over[accent.at] = ""
    out: list[str] = []
    for glyph in run:
        if over.get(glyph.at) == "":
            while out and out[-1] in " \n":
                out.pop()
        else:
            out.append(DOTLESS.get(glyph.text, glyph.text) + over[glyph.at] if glyph.at in over else glyph.text)
    return "".join(out)
