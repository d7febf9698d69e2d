"""Documents that say nearly the same: a signature for each one's words, and groups of those that share half of them.

MinHash over runs of three words: the share of equal numbers in two signatures estimates the share of runs that the documents
have in common (Broder 1997). Only documents that agree on a band of a few numbers are compared, so that the work grows with
their number and not with its square.
"""

import base64
import re
from collections.abc import Sequence

import numpy as np

NUMBERS = 128  # of a signature: the estimate is good to ± 0.04
RUN = 3  # words
BAND = 3  # numbers; documents that share half of their runs agree on one of the 42 bands with probability 0.996
ALIKE = 0.5
COMPARED = 8  # documents of a band that are not alike are kept for comparison, at most
SEED = 42
WORD = re.compile(r"\w+")


def signature(text: str) -> str:
    """Of the words alone: case, punctuation and spacing do not count. Empty where there are none."""
    from rensa import RMinHash

    words = WORD.findall(text.lower())
    if not words:
        return ""
    sketch = RMinHash(num_perm=NUMBERS, seed=SEED)
    sketch.update([" ".join(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))])
    # Half of each number is enough to tell two apart: a chance match in 65,536.
    return base64.b64encode(np.array(sketch.digest(), np.uint32).astype("<u2").tobytes()).decode()


def alike(signatures: Sequence[str], titles: Sequence[str]) -> list[int]:
    """For each document the first one of its group: the documents that are alike, or that have one long title."""
    groups = _Groups(len(signatures))
    first_of: dict[str, int] = {}
    for index, title in enumerate(titles):
        if title:
            groups.join(first_of.setdefault(title, index), index)
    signed = [index for index, text in enumerate(signatures) if text]
    numbers = np.frombuffer(b"".join(base64.b64decode(signatures[index]) for index in signed), "<u2").reshape(-1, NUMBERS)
    for start in range(0, numbers.shape[1] - BAND + 1, BAND):
        bands: dict[bytes, list[int]] = {}
        for row, band in enumerate(np.ascontiguousarray(numbers[:, start : start + BAND])):
            others = bands.setdefault(band.tobytes(), [])
            like = next((other for other in others if _agree(groups, signed, numbers, row, other)), None)
            if like is not None:
                groups.join(signed[like], signed[row])
            elif len(others) < COMPARED:
                others.append(row)
    return [groups.first(index) for index in range(len(signatures))]


def _agree(groups: "_Groups", signed: Sequence[int], numbers: np.ndarray, row: int, other: int) -> bool:
    return groups.first(signed[row]) == groups.first(signed[other]) or bool(np.mean(numbers[row] == numbers[other]) >= ALIKE)


class _Groups:
    """Union-find; the first member stands for its group."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def first(self, index: int) -> int:
        while self.parent[index] != index:
            self.parent[index] = index = self.parent[self.parent[index]]
        return index

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.first(a), self.first(b)))
        self.parent[high] = low
