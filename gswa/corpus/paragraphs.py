"""Lines in reading order → paragraphs: by leading, indent, and lines that end before the next word would have to wrap."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from gswa.corpus.headings import is_caption, is_known_heading, is_numbered_heading
from gswa.corpus.lines import HYPHEN, Line, ends_sentence, overlap_x

BULLET = re.compile(r"[•▪■●◦‣–*\uf0b7\uf0a7]\s*\S|\(?(?:\d{1,2}|[a-z]|[ivx]{1,4})[.)]\s")
WINDOW = 15  # lines before and after that show where the column's edges are


class Setting(NamedTuple):
    """How the document's text is set: its size, and the distance of baselines for each size, in points."""

    size: float
    leading: dict[float, float]


class Column(NamedTuple):
    left: float
    right: float
    ragged: bool


def leadings(lines: Iterable[Line]) -> dict[float, float]:
    """Median distance of baselines for each font size, in points."""
    steps: dict[float, list[float]] = defaultdict(list)
    last: Line | None = None
    for line in lines:
        if last and last.page == line.page and _half(last.size) == _half(line.size) and overlap_x(last, line) > 0.3:
            step = last.baseline - line.baseline
            if 0.7 * line.size < step < 3.5 * line.size:
                steps[_half(line.size)].append(step)
        last = line
    return {size: statistics.median(found) for size, found in steps.items() if len(found) >= 5}


def _half(size: float) -> float:
    return round(size * 2) / 2


def group(lines: list[Line], setting: Setting) -> list[list[Line]]:
    """The paragraphs of one page; one that runs over a column's end is two, for `stitch` to join."""
    paragraphs: list[list[Line]] = []
    columns = _columns(lines)
    for index, line in enumerate(lines):
        if paragraphs and not _begins(paragraphs[-1], line, columns[index - 1], columns[index], setting):
            paragraphs[-1].append(line)
        else:
            paragraphs.append([line])
    return paragraphs


def _columns(lines: list[Line]) -> list[Column]:
    """Edges of the text around each line: the most frequent left edge, and the right one where lines agree on it."""
    places = [(line.x0, line.x1, line.size, round(line.x0), round(line.x1 / 3) * 3.0) for line in lines]
    found = []
    for index, (x0, _, size, _, _) in enumerate(places):
        near = places[max(0, index - WINDOW) : index + WINDOW + 1]
        peers = [place for place in near if abs(place[0] - x0) < 3 * size and abs(place[2] - size) < 0.1 * size]
        left = _most_common([place[3] for place in peers])
        right = _most_common(edges := [place[4] for place in peers])
        agree = edges.count(right)
        ragged = agree < 0.4 * len(peers) or agree <= 2
        if ragged:  # one line may overflow the column (a URL, a sequence), so not simply the longest
            right = sorted(place[1] for place in peers)[int(0.9 * (len(peers) - 1))]
        found.append(Column(left, right, ragged))
    return found


def _most_common(values: list[float]) -> float:
    """The first of the most frequent ones."""
    return max(dict.fromkeys(values), key=values.count)


def _begins(paragraph: list[Line], line: Line, before: Column, here: Column, setting: Setting) -> bool:
    last = paragraph[-1]
    step = last.baseline - line.baseline
    usual = setting.leading.get(_half(line.size), 1.25 * line.size)
    if overlap_x(last, line) < 0.3 or step < 0.3 * line.size or step > 1.45 * usual:
        return True
    if abs(last.size - line.size) > 0.08 * line.size or _changes_weight(last, line):
        return True
    if is_known_heading(line.text) or is_known_heading(last.text):
        return True
    if line.size > 1.1 * setting.size and line.bold == last.bold:
        return step > 1.4 * line.size  # a title or heading over several lines, often centred
    if len(paragraph) == 1 and _is_heading_over(last, line, before):
        return True
    hangs = len(paragraph) == 1 and (BULLET.match(last.text) is not None or (line.bold and is_numbered_heading(last.text)))
    return _begins_by_shape(last, line, before, here, step > 1.1 * usual, hangs)


def _changes_weight(last: Line, line: Line) -> bool:
    """From bold to plain or back, and not where a sentence goes on or a line merely holds a formula, which is seldom bold."""
    inside = not ends_sentence(last.text) and (line.text[:1].islower() or line.text[:1] in "([“")
    return last.bold != line.bold and last.font != line.font and not inside


def _is_heading_over(last: Line, line: Line, column: Column) -> bool:
    """A line in another typeface that had room for the next line's first word."""
    return last.font != line.font and line.text[:1].isupper() and not ends_sentence(last.text) and _spare_width(last, line, column) > 0


def _begins_by_shape(last: Line, line: Line, before: Column, here: Column, wide_step: bool, hangs: bool) -> bool:
    if _centred(last, line):
        return wide_step and ends_sentence(last.text)
    if line.x0 - here.left > 0.6 * line.size and line.x0 - last.x0 > 0.5 * line.size and not hangs:
        return True
    ended = ends_sentence(last.text)
    if (ended and (wide_step or BULLET.match(line.text))) or ((ended or wide_step) and is_caption(line.text)):
        return True
    spare = _spare_width(last, line, before)
    if spare > 0 and last.text.isupper() and not line.text.isupper():
        return True  # a heading in capitals
    if ended or BULLET.match(line.text):
        return spare > 0
    return line.text[:1].isupper() and spare > 0.25 * (before.right - before.left)


def _centred(last: Line, line: Line) -> bool:
    return abs((last.x0 + last.x1) - (line.x0 + line.x1)) < 0.25 * line.size and abs(last.x0 - line.x0) > 0.25 * line.size


def _spare_width(last: Line, line: Line, column: Column) -> float:
    """What would be left if the next line's first word stood on the last one too: more than 0, and the line was ended on purpose."""
    if last.text.endswith(HYPHEN):
        return 0.0
    first = len(line.text.split(" ", 1)[0]) / max(len(line.text), 1) * line.width
    # Ragged lines are not filled to the last word that fits: typesetters even them out.
    slack = 0.1 * (column.right - column.left) if column.ragged else 0.0
    return column.right - last.x1 - first - 0.75 * line.size - slack
