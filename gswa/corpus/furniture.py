"""What the page adds to the text: running heads and feet, page numbers, line numbers in the margin."""

import re
from collections import Counter, defaultdict
from itertools import pairwise

from gswa.corpus.lines import Line, same_row

PAGE_NUMBER = re.compile(r"\W*(?:page\s+)?\d{1,4}(?:\s*(?:of|/)\s*\d{1,4})?\W*|[ivxl]{1,6}", re.IGNORECASE)
LINE_NUMBER = re.compile(r"\d{1,4}(?=\s|$)")
LEAST_NUMBERED = 8  # lines of a page
EDGE_LINES = 3  # a running head or foot stands among this many lines of the page's edge
Place = tuple[bool, int]
Edge = dict[Line, tuple[Place, bool]]


def without_furniture(pages: list[list[Line]]) -> list[list[Line]]:
    """Drop what stands at the same height of the edge on two pages or more, and bare page numbers there."""
    edges = [_edge_lines(lines) for lines in pages]
    seen: dict[tuple[str, Place], set[int]] = defaultdict(set)
    lonely: dict[Place, set[int]] = defaultdict(set)
    for number, edge in enumerate(edges):
        for line, (place, isolated) in edge.items():
            seen[_masked(line.text), place].add(number)
            if isolated:
                lonely[place].add(number)
    # A head that names the section differs from page to page: known by standing apart, at one height, on most pages.
    running = {place for place, numbers in lonely.items() if len(numbers) >= max(3, 0.5 * len(pages))}
    return [
        [line for line in lines if line not in edge or not _is_furniture(line, edge, seen, running)]
        for lines, edge in zip(pages, edges, strict=True)
    ]


def _is_furniture(line: Line, edge: Edge, seen: dict[tuple[str, Place], set[int]], running: set[Place]) -> bool:
    place, isolated = edge[line]
    near = [(place[0], place[1] + step) for step in (-1, 0, 1)]
    repeated = len(set().union(*(seen.get((_masked(line.text), spot), set()) for spot in near))) >= 2
    return repeated or (isolated and place in running) or (PAGE_NUMBER.fullmatch(line.text.strip()) is not None and _is_alone(line, edge))


def _is_alone(line: Line, edge: Edge) -> bool:
    """No text beside it that it could be a word of."""
    return not any(
        other is not line and same_row(other, line) and max(other.x0 - line.x1, line.x0 - other.x1) < 3 * other.size for other in edge
    )


def _masked(text: str) -> str:
    return re.sub(r"\d+", "#", text.strip().lower())


def _edge_lines(lines: list[Line]) -> Edge:
    """Lines near the top and bottom: (at the top?, height in steps of 3 points), and whether blank space parts them from the text."""
    heights = sorted({round(line.baseline) for line in lines})
    if len(heights) < 2 * EDGE_LINES + 1:
        return {}
    steps = sorted(b - a for a, b in pairwise(heights) if b - a > 2)
    leading = steps[len(steps) // 2] if steps else 12
    found = {}
    for line in lines:
        for top, edge in ((False, heights[:EDGE_LINES]), (True, heights[-EDGE_LINES:][::-1])):
            if round(line.baseline) in edge:
                found[line] = ((top, round(line.baseline / 3)), _isolated(heights, round(line.baseline), top, leading))
    return found


def _isolated(heights: list[int], at: int, top: bool, leading: float) -> bool:
    inner = [height for height in heights if (height < at if top else height > at) and abs(height - at) > 2]
    outer = [height for height in heights if (height > at if top else height < at)]
    nearest = max(inner) if top else min(inner)
    return len(outer) <= 1 and abs(nearest - at) > 1.6 * leading


def without_line_numbers(pages: list[list[Line]]) -> list[list[Line]]:
    """Those of a manuscript for reviewers: numbers that count down a margin, or that begin most lines of a page."""
    counters = [_counters(lines) for lines in pages]
    margins = [(line.x0, line.x1) for counted in counters for line in counted]
    left, right = (min(x0 for x0, _ in margins), max(x1 for _, x1 in margins)) if margins else (0.0, 0.0)
    cleaned = []
    for lines, counted in zip(pages, counters, strict=True):
        begun = _chain([line for line in lines if LINE_NUMBER.match(line.text)])
        begun = begun if len(begun) >= max(LEAST_NUMBERED, 0.6 * len(lines)) else set()
        kept = [line for line in lines if line not in counted]
        # A last page has too few lines to show that its numbers count; they stand where those of the other pages do.
        kept = [line for line in kept if not (line.text.isdigit() and left - 1 <= line.x0 and line.x1 <= right + 1 and margins)]
        cleaned.append([line for line in (_without_number(line) if line in begun else line for line in kept) if line.text])
    return cleaned


def _counters(lines: list[Line]) -> set[Line]:
    """Bare numbers that count by one step (1, 5, 10) down a margin, left or right of the text that they number."""
    bare = [line for line in lines if line.text.isdigit()]
    sides: dict[int, list[Line]] = defaultdict(list)
    for line in bare:
        sides[round(line.x1 / 4)].append(line)
    found: set[Line] = set()
    for side in sides.values():
        side.sort(key=lambda line: -line.baseline)
        steps = Counter(int(b.text) - int(a.text) for a, b in pairwise(side))
        step, agree = steps.most_common(1)[0] if steps else (0, 0)
        if step in (1, 5, 10) and len(side) >= LEAST_NUMBERED and agree >= 0.7 * (len(side) - 1):
            found.update(side)
    return found


def _chain(lines: list[Line]) -> set[Line]:
    """The longest run of lines, from the top down, whose first numbers count up by one."""
    ends: dict[int, tuple[int, int]] = {}  # number → length of the run that ends with it, and where that stands in `runs`
    runs: list[tuple[Line, int]] = []  # a line, and where the one before it stands
    for line in sorted(lines, key=lambda line: -line.baseline):
        value = int(line.text.split()[0])
        length, at = ends.get(value - 1, (0, -1))
        if length + 1 > ends.get(value, (0, -1))[0]:
            runs.append((line, at))
            ends[value] = (length + 1, len(runs) - 1)
    at = max(ends.values(), default=(0, -1))[1]
    chain = set()
    while at >= 0:
        line, at = runs[at]
        chain.add(line)
    return chain


def _without_number(line: Line) -> Line:
    text = LINE_NUMBER.sub("", line.text, count=1).lstrip()
    share = 1 - len(text) / max(len(line.text), 1)
    return line._replace(text=text, x0=line.x0 + share * line.width)
