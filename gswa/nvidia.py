"""NVIDIA GPUs through NVML, the driver's own library: no CUDA, no torch, no text to parse."""

import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from gswa.cgroup import GB
from gswa.records import Record

log = logging.getLogger("gswa")


class Gpu(Record):
    """One CUDA device. `compute_capability` is (major, minor); on `unified` devices memory is the machine's own."""

    name: str
    total_gb: float
    free_gb: float
    compute_capability: tuple[int, int]
    uuid: str = ""
    unified: bool = False


class Nvidia(NamedTuple):
    """`cuda` is the highest version that the driver serves."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None


def read_nvidia(ram_gb: float, available_gb: float) -> Nvidia:
    """GPUs that CUDA would see; none without the library, the driver or a card."""
    try:
        import pynvml
    except ImportError:
        return Nvidia()
    return ask_nvml(pynvml, ram_gb, available_gb, os.environ.get("CUDA_VISIBLE_DEVICES"))


def ask_nvml(nvml: Any, ram_gb: float, available_gb: float, visible: str | None = None) -> Nvidia:
    """The answer of an NVML binding; a card that does not answer is left out, with a warning."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return Nvidia()
    try:
        gpus = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                gpus.append(_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(index), ram_gb, available_gb))
            except nvml.NVMLError as error:
                log.warning("GPU %d does not answer (%s); it is not used", index, error)
        cuda = parse_cuda_version(nvml.nvmlSystemGetCudaDriverVersion_v2())
        return Nvidia(tuple(visible_gpus(gpus, visible)), nvml.nvmlSystemGetDriverVersion(), cuda)
    except nvml.NVMLError as error:
        log.warning("the NVIDIA driver does not answer (%s); no GPU is used", error)
        return Nvidia()
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any, ram_gb: float, available_gb: float) -> Gpu:
    try:
        answer = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free, unified = answer.total / GB, answer.free / GB, False
    except nvml.NVMLError_NotSupported:  # GB10 and its kin have no memory of their own to report
        total, free, unified = ram_gb, available_gb, True
    return Gpu(
        name=nvml.nvmlDeviceGetName(handle),
        total_gb=round(total, 2),
        free_gb=round(free, 2),
        compute_capability=nvml.nvmlDeviceGetCudaComputeCapability(handle),
        uuid=nvml.nvmlDeviceGetUUID(handle),
        unified=unified,
    )


def visible_gpus(gpus: Sequence[Gpu], setting: str | None) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES leaves, in its order: as in CUDA, the first name that fits no device ends the list.

    MIG names stand for parts of a card, which are not listed here: with one of them all cards are kept.
    """
    if setting is None or "MIG-" in setting:
        return list(gpus)
    chosen: list[Gpu] = []
    for name in (part.strip() for part in setting.split(",")):
        named = [gpu for i, gpu in enumerate(gpus) if name == str(i) or (name.startswith("GPU-") and gpu.uuid.startswith(name))]
        if len(named) != 1:
            break
        chosen += named
    return chosen


def parse_cuda_version(number: int) -> str:
    """'12.4' from NVML's 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
