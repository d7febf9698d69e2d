"""Whether the kernel killed a child for want of memory, or a person did: what its counters and the sampled memory say.

A SIGKILL alone says nothing. It is taken for want of memory only where in its last seconds a counter of such kills rose, the
child stood at its limit, or the machine had next to nothing left. Without evidence it is "killed".
"""

from collections import deque
from pathlib import Path
from typing import NamedTuple

from gswa.cgroup import GB, folders, memory_limits

NEAR_LIMIT = 0.9  # of the limit: so much of it resident counts as standing at it
NOTHING_LEFT = 0.03  # of the machine's memory
LITTLE_LEFT = 0.15  # with so much of it left, a kill that the kernel counted somewhere may well have been this child's
LARGE = 0.25  # of all that is in use: so large a child is the kernel's choice
LOOKS = 3  # samples that still count: what a tight second hours ago said is no evidence
KERNEL = Path("/proc/vmstat")  # counts the kills of the whole machine, in other programs' groups too


class Sample(NamedTuple):
    """GB: the child's resident memory, what the machine has left and has in all, the group's limit and use (0: none), and the
    child's data segment, which is what RLIMIT_DATA limits."""

    resident: float
    available: float
    total: float
    limit: float = 0.0
    used: float = 0.0
    data: float = 0.0


class Evidence:
    """The last samples of a child's memory, with the counters as they stood then, and the most it held."""

    def __init__(self, child: int) -> None:
        self._child = child
        self._looks: deque[tuple[Sample, dict[str, int]]] = deque(maxlen=LOOKS)
        self.peak_gb = self.peak_data_gb = 0.0
        self.sample()

    def sample(self) -> None:
        """Look at the child while it lives; cheap enough for once a second."""
        seen = read_sample(self._child)
        self.peak_gb, self.peak_data_gb = max(self.peak_gb, seen.resident), max(self.peak_data_gb, seen.data)
        self._looks.append((seen, kill_counters()))

    def of_oom(self) -> str:
        """Why a SIGKILL was the kernel's for want of memory; empty where nothing says so."""
        samples = [seen for seen, _ in self._looks]
        earlier, likely = self._looks[0][1], any(map(could_be_chosen, samples))
        for place, count in kill_counters().items():
            if count > earlier.get(place, count) and (likely or place != str(KERNEL)):
                return f"the kernel's counter of out-of-memory kills rose ({place})"
        return next(filter(None, map(pressure, samples)), "")


def could_be_chosen(seen: Sample) -> bool:
    """Whether a kill that the kernel made at that time, of whatever program, could have been this child's."""
    return seen.available < LITTLE_LEFT * seen.total or seen.resident > LARGE * (seen.total - seen.available)


def pressure(seen: Sample) -> str:
    """What one sample says of memory running out; empty for nothing."""
    if seen.limit and seen.used > NEAR_LIMIT * seen.limit and seen.resident > 0.5 * seen.used:
        return f"its group used {seen.used:.1f} of {seen.limit:.1f} GB"
    if seen.total and seen.available < NOTHING_LEFT * seen.total and seen.resident > 0.5 * (seen.total - seen.available):
        return f"the machine had {seen.available:.1f} of {seen.total:.1f} GB left"
    return ""


def kill_counters() -> dict[str, int]:
    """Out-of-memory kills so far, by where they are counted: the kernel as a whole, and this process's control groups."""
    places = [KERNEL, *(folder / name for folder in folders("memory") for name in ("memory.events", "memory.oom_control"))]
    return {str(place): count for place in places if (count := parse_counter(_text(place))) is not None}


def parse_counter(text: str) -> int | None:
    """The `oom_kill` line of /proc/vmstat, memory.events or memory.oom_control."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), None)


def read_sample(child: int) -> Sample:
    memory = parse_kilobytes(_text(Path("/proc/meminfo")))
    own = parse_kilobytes(_text(Path(f"/proc/{child}/status")))
    group = min(memory_limits(folders("memory")), default=None)
    limit, used = (group.limit, group.used) if group else (0.0, 0.0)
    return Sample(own.get("VmRSS", 0.0), memory.get("MemAvailable", 0.0), memory.get("MemTotal", 0.0), limit, used, own.get("VmData", 0.0))


def parse_kilobytes(text: str) -> dict[str, float]:
    """`Name:   123 kB` lines, in GB."""
    rows = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {row[0].rstrip(":"): int(row[1]) * 1024 / GB for row in rows}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # not Linux, not permitted, or the child is gone
