"""What the control group leaves of the machine: its memory and its cores. Linux; elsewhere there is no group to ask."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

GB = 2**30
MOUNT = Path("/sys/fs/cgroup")


class CgroupMemory(NamedTuple):
    """GB; `used` is without the page cache that the kernel gives back when asked."""

    limit: float
    used: float


def folders(controller: str) -> list[Path]:
    """Where limits of this process may stand."""
    return parse_membership(read_text(Path("/proc/self/cgroup")), controller)


def parse_membership(text: str, controller: str) -> list[Path]:
    """The process's own group and those above it, of version 1 where the controller is mounted so, else of version 2.

    A container may be told the path on the host while its mount starts at its own group: missing folders are usual.
    """
    base, own = MOUNT, "/"
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            base, own = MOUNT / controller, path
            break
        if not controllers:
            own = path
    group = PurePosixPath("/" if ".." in own else own)
    return [base / str(path).lstrip("/") for path in (group, *group.parents)]


def memory_limits(groups: Sequence[Path]) -> list[CgroupMemory]:
    return [memory for group in groups if (memory := read_memory(group))]


def read_memory(group: Path) -> CgroupMemory | None:
    """The limit set in one group of version 2 or 1; None where there is none."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        if (group / limit).is_file():
            return parse_memory(read_text(group / limit), read_text(group / used), read_text(group / "memory.stat"))
    return None


def parse_memory(limit: str, used: str, stat: str) -> CgroupMemory | None:
    """None for version 2's "max"; version 1 says 'no limit' with a number above any machine's total."""
    if not limit.strip().isdigit():
        return None
    counters = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    cache = int(counters.get("total_inactive_file", counters.get("inactive_file", "0")))
    return CgroupMemory(int(limit) / GB, max(0, int(used.strip() or 0) - cache) / GB)


def cpu_quotas(groups: Sequence[Path]) -> list[float]:
    """Cores that the groups' quotas allow; empty without a quota."""
    return [quota for group in groups if (quota := read_cpu_quota(group))]


def read_cpu_quota(group: Path) -> float | None:
    version1 = f"{read_text(group / 'cpu.cfs_quota_us')} {read_text(group / 'cpu.cfs_period_us')}"
    return parse_cpu_quota(read_text(group / "cpu.max") or version1)


def parse_cpu_quota(text: str) -> float | None:
    """Cores from 'quota period' in microseconds; None for 'max', for -1 and for what is no quota."""
    quota, _, period = " ".join(text.split()).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def read_text(path: Path) -> str:
    """'' where the file is missing or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
