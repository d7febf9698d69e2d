import signal

import pytest

from gswa.backends.oom import EXITS, SIGNATURES, TYPES, UNDER_OUR_LIMIT, exit_in, is_oom, signature_in

MESSAGES = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
    "NCCL error in: NCCL.cpp:94, unhandled cuda error\nncclUnhandledCudaError: Failed.\nLast error:\nCuda failure 2 'out of memory'",
    "HIP error: out of memory",
    "Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp",
    "MPS backend out of memory (MPS allocated: 9.1 GB)",
    "Invalid buffer size: 24.00 GiB",
    "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",
    "[malloc] Unable to allocate 123 bytes",
    "[metal::malloc] Resource limit (499000) exceeded",
    "cudaMallocManaged failed: out of memory",
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes. Error code 12",
    "Unable to allocate 3.00 GiB for an array with shape (3,)",
    "MemoryError",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "memory allocation of 1600 bytes failed",
    "OSError: [Errno 12] Cannot allocate memory",
    "unable to mmap 538090408 bytes from file <model.safetensors>: Cannot allocate memory (12)",
    "SafetensorError: Error while deserializing header: Cannot allocate memory (os error 12)",
]
LOOK_ALIKES = [
    "peak memory 12.3GB, memory is fine",
    "CUDA error: device-side assert triggered",
    "CUDA error: an illegal memory access was encountered",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "OSError: [Errno 28] No space left on device",
    "index 5 is out of bounds for dimension 0 with size 4",
    "the loss became nan at step 3",
    "KeyboardInterrupt",
    "kIOGPUCommandBufferCallbackErrorTimeout",
    "a paper about out of memory experiences: MemoryErrors in patients",
]


@pytest.mark.parametrize("text", MESSAGES)
def test_want_of_memory_is_known_by_its_text(text):
    assert signature_in(f"some line before\n{text}\n")


UNDER_LIMIT = [
    "libgomp: Thread creation failed: Resource temporarily unavailable",
    "RuntimeError: can't start new thread",
    "RuntimeError: could not create a primitive",
    "SystemError: <function WeightTransform.__init__ at 0x7f81ad853b00> returned NULL without setting an exception",
    "RuntimeError: unknown parameter type",
]


@pytest.mark.parametrize("text", UNDER_LIMIT)
def test_a_thread_that_cannot_start_is_want_of_memory_under_our_own_limit_only(text):
    assert signature_in(text) is None
    assert signature_in(text, limited=True) in UNDER_OUR_LIMIT


def test_every_row_of_the_table_is_reached_and_names_its_source():
    reached = {signature_in(text) for text in MESSAGES}
    assert set(SIGNATURES) == reached
    assert all(row.source for row in SIGNATURES)


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_nothing_else_is_taken_for_it(text):
    assert signature_in(text) is None
    assert not is_oom(RuntimeError(text))


@pytest.mark.parametrize("name", ["CUDA error: out of memory", "std::bad_alloc"])
def test_a_file_whose_name_says_so_is_none(name):
    assert not is_oom(FileNotFoundError(2, "No such file or directory", f"/papers/{name}"))
    assert is_oom(OSError(12, "Cannot allocate memory"))


def test_the_type_and_the_cause_count_too():
    assert is_oom(MemoryError())
    outer = RuntimeError("saving failed")
    outer.__cause__ = MemoryError()
    assert is_oom(outer)


@pytest.mark.backend
def test_every_type_of_the_table_is_one_that_its_library_raises():
    import torch

    known = {"torch.OutOfMemoryError": torch.OutOfMemoryError, "builtins.MemoryError": MemoryError}
    assert {row.name for row in TYPES} == set(known)
    assert all(is_oom(kind("without a word")) for kind in known.values())


@pytest.mark.parametrize(
    ("code", "backend", "evidence", "limited", "oom"),
    [
        (-signal.SIGKILL, "torch", "the group's counter rose", False, True),
        (-signal.SIGKILL, "torch", "", True, False),  # a person's kill
        (-signal.SIGSEGV, "mlx", "", True, True),
        (-signal.SIGSEGV, "mlx", "", False, False),  # a fault of MLX
        (-signal.SIGSEGV, "torch", "", True, True),  # oneDNN's
        (-signal.SIGSEGV, "torch", "", False, False),  # a fault of torch
        (-signal.SIGABRT, "torch", "the group's counter rose", True, False),
        (1, "torch", "the group's counter rose", True, False),
        (130, "torch", "", False, False),
    ],
)
def test_an_exit_without_a_word_is_want_of_memory_only_with_what_its_row_needs(code, backend, evidence, limited, oom):
    assert bool(exit_in(code, backend, "cpu", evidence, limited)) == oom


def test_every_exit_of_the_table_is_reached_and_names_its_source():
    assert {row.code for row in EXITS} == {-signal.SIGKILL, -signal.SIGSEGV}
    assert all(row.source for row in EXITS)
