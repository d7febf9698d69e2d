"""What a death means: out of memory, or something else. One table of types, messages and exit codes, each row with its source;
nothing but it is ever taken for want of memory.

Messages are looked for in the text of the exception or, where a library ends the process without one (by exit, std::terminate or
abort), in the last 64 kB that the child wrote to stderr. An exit code alone says little: each has what it needs besides.
"""

import errno
import re
import signal
from typing import Literal, NamedTuple

STDERR_TAIL = 64 * 1024  # bytes


class Signature(NamedTuple):
    device: str
    pattern: re.Pattern[str]
    source: str


def _row(device: str, pattern: str, source: str) -> Signature:
    return Signature(device, re.compile(pattern, re.MULTILINE), source)


class OomType(NamedTuple):
    device: str
    name: str
    source: str


class OomExit(NamedTuple):
    """`needs`: evidence of the kernel's or the group's counters and of sampled memory, or a memory limit of our own."""

    device: str
    code: int
    needs: Literal["evidence", "our limit"]
    source: str


TYPES = (
    OomType("cuda", "torch.OutOfMemoryError", "torch's caching allocator; torch.cuda.OutOfMemoryError is the same class"),
    OomType("cpu", "builtins.MemoryError", "Python; numpy's _ArrayMemoryError is one"),
)
EXITS = (
    OomExit("cpu", -signal.SIGKILL, "evidence", "the kernel's out-of-memory killer, which leaves no word"),
    OomExit("mlx on cpu", -signal.SIGSEGV, "our limit", "MLX writes to the null that its allocator got (mlx/backend/no_gpu/allocator.cpp)"),
    OomExit("cpu", -signal.SIGSEGV, "our limit", "oneDNN writes a kernel that it compiles to where it got no memory; seen in bf16"),
)
SIGNATURES = (
    _row("cuda", r"(CUDA|HIP|XPU) out of memory\. Tried to allocate", "torch.OutOfMemoryError"),
    _row("cuda", r"(CUDA (driver )?|HIP )error: out of memory", "torch.AcceleratorError: outside the caching allocator, and asynchronous"),
    _row("cuda", r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY", "CUDA runtime and driver"),
    _row("cuda", r"CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED", "cuBLAS, cuDNN, cuSOLVER"),
    _row("cuda", r"Triton Error \[CUDA\]: out of memory", "Triton"),
    _row("cuda", r"Cuda failure (\d+ )?'out of memory'", "NCCL's last error, some lines below torch's own (NVIDIA/nccl#1410)"),
    _row("cuda", r"^Error out of memory at line \d+ in file", "bitsandbytes CUDA_CHECK_RETURN: printed, then exit(1)"),
    _row("mps", r"MPS backend out of memory", "torch MPSAllocator.mm"),
    _row("mps", r"Invalid buffer size: [\d.]+ [KMGT]i?B", "torch MPSAllocator.mm"),
    _row("metal", r"Command buffer execution failed: Insufficient Memory", "MLX, by std::terminate: SIGABRT"),
    _row("metal", r"kIOGPUCommandBufferCallbackErrorOutOfMemory", "Metal"),
    _row("metal", r"\[malloc(_or_wait)?\] Unable to allocate \d+ bytes", "MLX allocator"),
    _row(
        "metal", r"\[metal::malloc\] (Resource limit \(\d+\) exceeded|Attempting to allocate \d+ bytes which is greater)", "MLX allocator"
    ),
    _row("cuda", r"cudaMalloc(Managed|Async)? failed: out of memory", "MLX on CUDA"),
    _row("cpu", r"DefaultCPUAllocator: (can't allocate|not enough) memory", "torch c10/core/impl/alloc_cpu.cpp"),
    _row("cpu", r"Unable to allocate [\d.]+ [KMGTP]?i?B for an array", "numpy _ArrayMemoryError"),
    _row("cpu", r"^MemoryError\b", "Python"),
    _row("cpu", r"std::bad_alloc", "C++ operator new"),
    _row("cpu", r"^memory allocation of \d+ bytes failed", "Rust (tokenizers, safetensors): SIGABRT"),
    _row("cpu", r"(\[Errno 12\]|Error code 12).*Cannot allocate memory", "errno ENOMEM"),
    _row("cpu", r"Cannot allocate memory \((os error )?12\)", "errno ENOMEM, as Rust (safetensors) and torch's mmap say it"),
)

# Only under a limit of our own on the data segment are these want of memory: a thread's stack is memory too, and an
# allocation that fails while a library sets itself up leaves odd faults behind.
UNDER_OUR_LIMIT = (
    _row("cpu", r"^libgomp: Thread creation failed: Resource temporarily unavailable", "libgomp: printed, then exit(1)"),
    _row("cpu", r"RuntimeError: can't start new thread", "Python"),
    _row("cpu", r"could not (create|execute) a (primitive|memory object)", "oneDNN (oneapi/dnnl/dnnl.hpp), whose status says no more"),
    _row(
        "cpu",
        r"SystemError: .* returned NULL without setting an exception",
        "CPython, of C code whose allocation failed; seen while loading",
    ),
    _row("cpu", r"RuntimeError: unknown parameter type", "torch's argument parser, half built; seen while weights were loading"),
)


def signature_in(text: str, limited: bool = False) -> Signature | None:
    """The row that a text is an instance of, if any; `limited` where we held the process to a memory limit."""
    return next((row for row in (*SIGNATURES, *(UNDER_OUR_LIMIT if limited else ())) if row.pattern.search(text)), None)


def is_oom(error: BaseException, limited: bool = False) -> bool:
    """Whether an exception, by its type or its text, is want of memory; its causes are asked too."""
    names = {row.name for row in TYPES}
    seen: BaseException | None = error
    while seen is not None:
        if names & {f"{kind.__module__}.{kind.__qualname__}" for kind in type(seen).__mro__}:
            return True
        named = isinstance(seen, OSError) and seen.errno not in (None, errno.ENOMEM)  # what it says besides is a file's name
        if not named and (signature_in(f"{type(seen).__name__}: {seen}", limited) or signature_in(str(seen), limited)):
            return True
        seen = seen.__cause__
    return False


def exit_in(code: int, backend: str, device: str, evidence: str, limited: bool) -> str:
    """Why an exit without a word was for want of memory; empty where nothing says so. `evidence` is what the counters say;
    `limited`: under a limit of ours, half of which at least was taken."""
    place = f"mlx on {device}" if backend == "mlx" else device
    if any(row.code == code and row.needs == "evidence" for row in EXITS) and evidence:
        return f"killed by the kernel for want of memory: {evidence}"
    ours = [row for row in EXITS if row.code == code and row.needs == "our limit" and row.device == place]
    return f"ended by {signal.Signals(-code).name} under the memory limit ({ours[0].source})" if ours and limited else ""
