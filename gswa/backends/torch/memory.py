"""Memory of this process in GB of 2**30 bytes: now, its peak since it was last asked for, and its peak over the whole job."""

import ctypes
import resource
from pathlib import Path

import torch

from gswa.config import RunConfig

GB = 2**30
CUDA_CONTEXT_GB = 0.6  # of the driver and its kernels, outside the allocator's count
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
OWN_PAGES_FROM, LARGEST_IN_HEAP, NEVER = 128 * 2**10, 32 * 2**20, 2**31 - 1  # bytes; the second is what glibc arrives at by itself
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def limit_memory(config: RunConfig) -> None:
    """Hold this process to `memory_limit_gb`: what is beyond it fails as it would on a machine of that size.

    CUDA: a share of the card for the caching allocator, less what the context takes outside it. CPU: the data segment, and each
    large tensor gets pages of its own, which go back when it is freed: glibc's heap grew to 1.8 times what was alive. That took 31
    to 75 % more CPU time (15.7 M and 0.9 M parameters, measured 2026-11), so it is for machines where memory is short.
    """
    if config.memory_limit_gb is None:
        return
    if config.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory / GB
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.01, (config.memory_limit_gb - CUDA_CONTEXT_GB) / total)))
        return
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_PAGES_FROM)
    torch.ones(1 << 16).sum()  # starts the threads: their stacks would otherwise fail later, and end the process without a word
    limit = int(config.memory_limit_gb * GB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def keep_heap(config: RunConfig) -> None:
    """What a step frees stays in this process for the next one: asked for anew, page by page, it took 3 % of a step's CPU time.

    To be called once a step has run: from the start of the process on, peaks of 18 small models were up to 8 % higher (2026-11).
    Not for machines where memory is short, nor where the C library is not glibc.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change and config.device == "cpu" and config.memory_limit_gb is None:
        change(M_TRIM_THRESHOLD, NEVER)
        change(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)


_highest_gb = 0.0  # of the peaks that were reset


def now_gb(device: str) -> float:
    """CUDA: what the context takes outside the allocator. CPU: the resident set."""
    return CUDA_CONTEXT_GB if device == "cuda" else _status_gb("VmRSS")


def job_peak_gb(device: str) -> float:
    """The most that this process has held of the device: on CUDA what the allocator reserved, and the context beside it."""
    if device == "cuda":
        return max(_highest_gb, torch.cuda.max_memory_reserved() / GB + CUDA_CONTEXT_GB)
    return max(_highest_gb, peak_gb(device))


def reset_peak(device: str) -> None:
    global _highest_gb
    _highest_gb = job_peak_gb(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        try:
            _CLEAR.write_text("5", encoding="ascii")  # 5 resets VmHWM, the resident set's high-water mark
        except OSError:
            return  # not Linux, or not permitted: the peak is then the process's whole life


def give_back(device: str) -> None:
    """What the heap still holds of freed tensors, as it does between steps, so that the next phase has a peak
    of its own."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if device == "cpu" else None  # glibc's
    if trim:
        trim(0)


def peak_gb(device: str) -> float:
    """CUDA: the allocator's peak. CPU: the resident set's."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / GB
    return _status_gb("VmHWM")


def _status_gb(name: str) -> float:
    try:
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024 / GB
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def reserved_gb(device: str) -> float | None:
    return torch.cuda.max_memory_reserved() / GB if device == "cuda" else None
