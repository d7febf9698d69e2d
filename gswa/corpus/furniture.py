"""What the page adds to the text: running heads and feet, page numbers, line numbers in the margin."""

import re
from collections import defaultdict
from itertools import pairwise

from gswa.corpus.lines import Line

PAGE_NUMBER = re.compile(r"\W*(?:page\s+)?\d{1,4}(?:\s*(?:of|/)\s*\d{1,4})?\W*|[ivxl]{1,6}", re.IGNORECASE)
LINE_NUMBER = re.compile(r"\d{1,4}(?=\s|$)")
EDGE_LINES = 3  # a running head or foot stands among this many lines of the page's edge
Place = tuple[bool, int]


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
        [line for line in lines if line not in edge or not _is_furniture(line, edge[line], seen, running)]
        for lines, edge in zip(pages, edges, strict=True)
    ]


def _is_furniture(line: Line, at: tuple[Place, bool], seen: dict[tuple[str, Place], set[int]], running: set[Place]) -> bool:
    place, isolated = at
    near = [(place[0], place[1] + step) for step in (-1, 0, 1)]
    repeated = len(set().union(*(seen.get((_masked(line.text), spot), set()) for spot in near))) >= 2
    return repeated or (isolated and place in running) or PAGE_NUMBER.fullmatch(line.text.strip()) is not None


def _masked(text: str) -> str:
    return re.sub(r"\d+", "#", text.strip().lower())


def _edge_lines(lines: list[Line]) -> dict[Line, tuple[Place, bool]]:
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
    """Those of a manuscript for reviewers: on pages where most lines have one, and in the same margin of the others."""
    margins = [(line.x0, line.x1) for lines in pages for line in _numbered(lines) if line.text.strip().isdigit()]
    left, right = (min(x0 for x0, _ in margins), max(x1 for _, x1 in margins)) if margins else (0.0, 0.0)
    cleaned = []
    for lines in pages:
        marked = set(_numbered(lines))
        kept = [_without_number(line) if line in marked else line for line in lines]
        in_margin = (line.text.isdigit() and left - 1 <= line.x0 and line.x1 <= right + 1 for line in kept)
        cleaned.append([line for line, number in zip(kept, in_margin, strict=True) if line.text and not number])
    return cleaned


def _numbered(lines: list[Line]) -> list[Line]:
    """Lines that begin with their number, where nearly all do and the numbers count up."""
    numbered = [line for line in lines if LINE_NUMBER.match(line.text)]
    bare = sum(line.text.strip().isdigit() for line in numbered)
    counted = len(lines) - bare if bare > len(numbered) / 2 else len(lines)
    values = sorted(int(line.text.split()[0]) for line in numbered)
    counting = sum(b - a == 1 for a, b in pairwise(values))
    return numbered if len(values) >= 8 and len(values) >= 0.6 * counted and counting >= 0.7 * (len(values) - 1) else []


def _without_number(line: Line) -> Line:
    text = LINE_NUMBER.sub("", line.text, count=1).lstrip()
    share = 1 - len(text) / max(len(line.text), 1)
    return line._replace(text=text, x0=line.x0 + share * line.width)
