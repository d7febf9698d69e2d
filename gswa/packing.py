"""Which rows share a micro-batch."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices by bin: the longest row first, each into the fullest bin that has room for it. No length may be over the capacity.

    Best-fit decreasing takes at most 11/9 of the fewest bins, plus one (Johnson et al., SIAM J. Comput. 3, 1974). Where the
    capacity is n times the longest row, there are never more than ceil(rows / n): a bin that has no room holds at least n rows.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, bin), the fullest first
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(rooms, (lengths[row], -1))
        room, into = rooms.pop(place) if place < len(rooms) else (capacity, len(bins))
        if into == len(bins):
            bins.append([])
        bins[into].append(row)
        insort(rooms, (room - lengths[row], into))
    return bins


def micro_batches(step: Sequence[int], size: int, lengths: Sequence[int], capacity: int | None = None) -> list[list[int]]:
    """A step's rows in micro-batches of `size`, or, with a capacity in tokens, in the fewest that hold them.

    Both give ceil(rows / size) of them, so that a run goes on after a change of one into the other; those left over are empty.
    """
    if capacity is None:
        return [list(step[i : i + size]) for i in range(0, len(step), size)]
    packed = [[step[i] for i in rows] for rows in best_fit([lengths[row] for row in step], capacity)]
    return packed + [[] for _ in range(-(-len(step) // size) - len(packed))]
