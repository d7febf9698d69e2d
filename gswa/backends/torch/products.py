"""The matrix product of frozen weights in fp32 on a CPU, by whichever library multiplies faster there.

MKL, which torch asks, takes its AVX2 kernels on AMD's processors even where they have AVX-512; oneDNN, which torch brings along,
does not. GFLOP/s of one core of an EPYC, 2048 × 384 · 384 × 1024 and back (2026-11): MKL 88 and 90, oneDNN 101 and 106; with
AVX2 alone both about 90.
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

FILLED = 256  # oneDNN compiles and keeps a kernel for every count of rows (0.6 MB each); those of filled batches are few


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., in) · weightᵀ (out, in) + bias (out). The product is no part of autograd's graph."""
    rows = x.numel() // x.shape[-1]
    if x.dtype != torch.float32 or x.device.type != "cpu" or rows % FILLED or not onednn_is_faster():
        return F.linear(x, weight, bias)
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


@cache
def onednn_is_faster() -> bool:
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's own
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _cpu_says("AuthenticAMD")
    )


def by_amx(x: torch.Tensor) -> bool:
    """Whether oneDNN multiplies it with AMX."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and _cpu_says("amx_bf16")


@cache
def _cpu_says(word: str) -> bool:
    """Of itself, on Linux; nothing elsewhere."""
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and word in cpu.read_text(encoding="utf-8")
