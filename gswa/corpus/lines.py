"""What a page is made of before it has paragraphs: lines with their place, in points, y growing upwards."""

import re
from collections import Counter
from typing import NamedTuple

HYPHEN = "\ufffe"  # a hyphen at a line's end, as PDFium and soft hyphens mark it: kept or dropped when lines are joined
STOP = r"[.!?:;。！？：；][\"'”’»)\]]*"
# A citation may follow the stop: [12], or a superscript number, which reads like the decimals of one ("0.75").
TERMINAL = re.compile(rf"{STOP}\s*(?:\[[\d,\s–-]+\])?$|(?<=[^\W\d]|[)\]”’%]){STOP}\s*\d{{1,3}}(?:[,–-]\d{{1,3}})*$")


class Line(NamedTuple):
    """A run of text on one baseline. `font` is that of its middle, `bold` holds for the whole run."""

    page: int
    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    baseline: float
    size: float
    font: str = ""
    bold: bool = False
    turn: int = 0

    @property
    def width(self) -> float:
        return self.x1 - self.x0


def turned(x: float, y: float, turn: int) -> tuple[float, float]:
    """The point as a reader sees it who turns the page until text set with `turn` is upright."""
    return ((x, y), (y, -x), (-x, -y), (-y, x))[turn]


def upright(lines: list[Line]) -> list[Line]:
    """Without the lines that run across most of the page's text, such as a stamp in the margin."""
    weights: Counter[int] = Counter()
    for line in lines:
        weights[line.turn] += len(line.text)
    return [line for line in lines if line.turn == max(weights, key=lambda turn: weights[turn])]


def ends_sentence(text: str) -> bool:
    return TERMINAL.search(text.rstrip()[-80:]) is not None


def overlap_x(a: Line, b: Line) -> float:
    """Shared width as a share of the narrower line; negative where they are apart."""
    return (min(a.x1, b.x1) - max(a.x0, b.x0)) / max(min(a.width, b.width), 0.1)


def same_row(a: Line, b: Line) -> bool:
    """On one visual line, superscripts and subscripts included."""
    larger = max(a.size, b.size)
    shared = min(a.y1, b.y1) - max(a.y0, b.y0)
    return abs(a.baseline - b.baseline) < 0.6 * larger and shared > 0.25 * min(a.y1 - a.y0, b.y1 - b.y0)


def merge_rows(lines: list[Line], gap: float = 1.6) -> list[Line]:
    """Neighbours in reading order that stand on one visual line, no further apart than `gap` ems, become one."""
    rows: list[Line] = []
    for line in (line for row in _runs_of_rows(lines) for line in sorted(row, key=lambda line: line.x0)):
        last = rows[-1] if rows else None
        if last and same_row(last, line) and -0.4 * last.size < line.x0 - last.x1 < gap * max(last.size, line.size) * _stretch(rows, line):
            rows[-1] = _joined(last, line)
        else:
            rows.append(line)
    return rows


def _runs_of_rows(lines: list[Line]) -> list[list[Line]]:
    """Neighbours of one row together: programs that write by height write a superscript before the line that it is in."""
    runs: list[list[Line]] = []
    for line in lines:
        if runs and same_row(max(runs[-1], key=lambda part: part.width), line):
            runs[-1].append(line)
        else:
            runs.append([line])
    return runs


def _stretch(rows: list[Line], line: Line) -> float:
    """3 in a line of text that was stretched to the column's width: the line above it runs over the gap. Else 1."""
    if len(rows) < 2:
        return 1
    above, last = rows[-2:]
    over = above.x0 < last.x1 and above.x1 > line.x0 and above.font == last.font and abs(above.size - last.size) < 0.1
    return 3 if over and 0 < above.baseline - last.baseline < 1.6 * last.size else 1


def _joined(a: Line, b: Line) -> Line:
    main = a if len(a.text) * a.size >= len(b.text) * b.size else b
    space = "" if a.text.endswith(" ") or b.x0 - a.x1 < 0.15 * main.size else " "
    return main._replace(
        text=a.text + space + b.text,
        x0=min(a.x0, b.x0),
        y0=min(a.y0, b.y0),
        x1=max(a.x1, b.x1),
        y1=max(a.y1, b.y1),
        bold=a.bold and b.bold,
    )
