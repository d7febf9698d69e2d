"""Reading order. The content stream's own order is kept where it is one; a page written row by row is cut into columns."""

import statistics
from collections.abc import Callable
from itertools import pairwise

from gswa.corpus.lines import Line, overlap_x, same_row

MAX_DEPTH = 12
Parts = list[list[Line]] | None


def reading_order(lines: list[Line]) -> list[Line]:
    return _cut(lines, 0) if _interleaved(lines) else lines


def _interleaved(lines: list[Line]) -> bool:
    """Neighbours that share no x: one to three on a page in order, most of them when columns are written row by row."""
    jumps = sum(overlap_x(a, b) <= 0 and not _is_stretched(lines, at) for at, (a, b) in enumerate(pairwise(lines)))
    return len(lines) >= 12 and jumps > max(5, 0.22 * len(lines))


def _is_stretched(lines: list[Line], at: int) -> bool:
    """Two parts of one line of text with a wide space between them: a line before or after it runs over the gap."""
    left, right = lines[at], lines[at + 1]
    near = (*lines[max(0, at - 2) : at], *lines[at + 2 : at + 4])
    over = any(line.x0 < left.x1 and line.x1 > right.x0 and abs(line.size - left.size) < 0.1 * left.size for line in near)
    return over and same_row(left, right)


def _cut(lines: list[Line], depth: int) -> list[Line]:
    """Recursive XY-cut: first a clear gutter, then one that few lines cross, then white space between rows."""
    if len(lines) > 1 and depth < MAX_DEPTH:
        for way in (_gutter, _crossed_gutter, _row_gap, _wide_lines):
            parts = way(lines)
            if parts:
                return [line for part in parts for line in _cut(part, depth + 1)]
    return [line for row in _rows(lines) for line in sorted(row, key=lambda line: line.x0)]


def _rows(lines: list[Line]) -> list[list[Line]]:
    """From the top down; a superscript is in the row of its line."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: -line.baseline):
        row = next((row for row in rows[-3:] if same_row(max(row, key=lambda part: part.width), line)), None)
        if row is None:
            rows.append([line])
        else:
            row.append(line)
    return rows


def _widest_gap(lines: list[Line], span: Callable[[Line], tuple[float, float]], least: float) -> float | None:
    """Middle of the widest interval that no line's span covers, None where all are narrower than `least`."""
    spans = sorted(map(span, lines))
    end, best, middle = spans[0][1], least, None
    for low, high in spans[1:]:
        if low - end > best:
            best, middle = low - end, (low + end) / 2
        end = max(end, high)
    return middle


def _line_height(lines: list[Line]) -> float:
    return statistics.median(line.size for line in lines)


def _gutter(lines: list[Line]) -> Parts:
    middle = _widest_gap(lines, lambda line: (line.x0, line.x1), 0.6 * _line_height(lines))
    if middle is None:
        return None
    left, right = [line for line in lines if line.x1 <= middle], [line for line in lines if line.x0 >= middle]
    return [left, right] if min(len(left), len(right)) >= 3 else None


def _crossed_gutter(lines: list[Line]) -> Parts:
    """Two columns under a full-width title or around a wide figure: the lines across divide the page into bands."""
    if len(lines) < 10:
        return None
    low, high = min(line.x0 for line in lines), max(line.x1 for line in lines)
    places = [low + (high - low) * (0.25 + 0.5 * k / 40) for k in range(41)]
    crossings = {x: [line for line in lines if line.x0 < x < line.x1] for x in places}
    fewest = min(len(across) for across in crossings.values())
    candidates = [x for x in places if len(crossings[x]) == fewest]
    middle = candidates[len(candidates) // 2]
    across = crossings[middle]
    sides = [line for line in lines if line.x1 <= middle], [line for line in lines if line.x0 >= middle]
    if not across or len(across) > 0.12 * len(lines) or min(map(len, sides)) < 3:
        return None
    return _bands([*sides[0], *sides[1]], across)


def _row_gap(lines: list[Line]) -> Parts:
    middle = _widest_gap(lines, lambda line: (-line.y1, -line.y0), 0.9 * _line_height(lines))
    if middle is None:
        return None
    upper, lower = [line for line in lines if -line.y0 <= middle], [line for line in lines if -line.y1 >= middle]
    return [upper, lower] if upper and lower and len(upper) + len(lower) == len(lines) else None


def _wide_lines(lines: list[Line]) -> Parts:
    width = max(line.x1 for line in lines) - min(line.x0 for line in lines)
    wide = [line for line in lines if line.width > 0.6 * width]
    rest = [line for line in lines if line.width <= 0.6 * width]
    return _bands(rest, wide) if wide and rest else None


def _bands(lines: list[Line], dividers: list[Line]) -> list[list[Line]]:
    """What is above the first divider, that divider, what is above the second …"""
    parts: list[list[Line]] = []
    for divider in sorted(dividers, key=lambda line: -line.y1):
        above = [line for line in lines if line.baseline > divider.baseline + 0.3 * divider.size]
        lines = [line for line in lines if line.baseline <= divider.baseline + 0.3 * divider.size]
        parts += [above, [divider]] if above else [[divider]]
    return [*parts, lines] if lines else parts
