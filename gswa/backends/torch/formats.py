"""How fast this device multiplies in each number format: measured, since a flag says only what a processor can do."""

import time

import torch

ROWS, INTO, OUT = 256, 512, 1024  # of the product that is timed: 0.27 GFLOP
REPETITIONS = 5
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure(device: str) -> dict[str, float]:
    """GFLOP/s of a linear layer by format, the best of a few; a format that the device refuses is left out."""
    speeds = {}
    for name, dtype in FORMATS.items():
        try:
            seconds = min(_seconds(device, dtype) for _ in range(REPETITIONS + 1))
        except RuntimeError:  # not implemented for this device and format
            continue
        speeds[name] = round(2 * ROWS * INTO * OUT / seconds / 1e9, 1)
    return speeds


def _seconds(device: str, dtype: torch.dtype) -> float:
    x, weight = (torch.randn(n, INTO, device=device).to(dtype) for n in (ROWS, OUT))
    _finished(device)
    start = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    _finished(device)
    return time.perf_counter() - start


def _finished(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
