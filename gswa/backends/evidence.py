"""Whether the kernel killed a child for want of memory, or a person did: what its counters and the sampled memory say.

A SIGKILL alone says nothing. It is taken for want of memory only where a counter of such kills rose meanwhile, where the
child stood at its limit, or where the machine had next to nothing left. Without evidence it is "killed".
"""

from pathlib import Path
from typing import NamedTuple

from gswa.cgroup import GB, folders, memory_limits

NEAR_LIMIT = 0.9  # of the limit: so much of it resident counts as standing at it
NOTHING_LEFT = 0.03  # of the machine's memory


class Sample(NamedTuple):
    """GB: the child's resident memory, what the machine has left and has in all, and the group's limit and use (0: none)."""

    resident: float
    available: float
    total: float
    limit: float = 0.0
    used: float = 0.0


class Evidence:
    """Counters as they stood at the child's start, and the worst of the samples since."""

    def __init__(self, child: int) -> None:
        self._child = child
        self._kills = kill_counters()
        self.peak_gb = 0.0
        self._reason = ""

    def sample(self) -> None:
        """Look at the child while it lives; cheap enough for once a second."""
        seen = read_sample(self._child)
        self.peak_gb = max(self.peak_gb, seen.resident)
        self._reason = self._reason or pressure(seen)

    def of_oom(self) -> str:
        """Why a SIGKILL was the kernel's for want of memory; empty where nothing says so."""
        now = kill_counters()
        risen = [name for name, count in now.items() if count > self._kills.get(name, count)]
        if risen:
            return f"the kernel's counter of out-of-memory kills rose ({risen[0]})"
        return self._reason


def pressure(seen: Sample) -> str:
    """What one sample says of memory running out; empty for nothing."""
    if seen.limit and seen.used > NEAR_LIMIT * seen.limit and seen.resident > 0.5 * seen.used:
        return f"its group used {seen.used:.1f} of {seen.limit:.1f} GB"
    if seen.total and seen.available < NOTHING_LEFT * seen.total and seen.resident > 0.5 * (seen.total - seen.available):
        return f"the machine had {seen.available:.1f} of {seen.total:.1f} GB left"
    return ""


def kill_counters() -> dict[str, int]:
    """Out-of-memory kills so far, by where they are counted: the kernel as a whole, and this process's control groups."""
    places = [Path("/proc/vmstat"), *(folder / name for folder in folders("memory") for name in ("memory.events", "memory.oom_control"))]
    return {str(place): count for place in places if (count := parse_counter(_text(place))) is not None}


def parse_counter(text: str) -> int | None:
    """The `oom_kill` line of /proc/vmstat, memory.events or memory.oom_control."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), None)


def read_sample(child: int) -> Sample:
    memory = parse_kilobytes(_text(Path("/proc/meminfo")))
    resident = parse_kilobytes(_text(Path(f"/proc/{child}/status"))).get("VmRSS", 0.0)
    group = min(memory_limits(folders("memory")), default=None)
    limit, used = (group.limit, group.used) if group else (0.0, 0.0)
    return Sample(resident, memory.get("MemAvailable", 0.0), memory.get("MemTotal", 0.0), limit, used)


def parse_kilobytes(text: str) -> dict[str, float]:
    """`Name:   123 kB` lines, in GB."""
    rows = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {row[0].rstrip(":"): int(row[1]) * 1024 / GB for row in rows}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # not Linux, not permitted, or the child is gone
