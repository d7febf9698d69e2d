"""Peak memory since it was last asked for, in GB of 2**30 bytes."""

import resource
from pathlib import Path

import torch

GB = 2**30
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        try:
            _CLEAR.write_text("5", encoding="ascii")  # 5 resets VmHWM, the resident set's high-water mark
        except OSError:
            return  # not Linux, or not permitted: the peak is then the process's whole life


def peak_gb(device: str) -> float:
    """CUDA: the allocator's peak. CPU: the resident set's."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / GB
    try:
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / GB
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def reserved_gb(device: str) -> float | None:
    return torch.cuda.max_memory_reserved() / GB if device == "cuda" else None
