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
        cards = [_devices(nvml, index, ram_gb, available_gb) for index in range(nvml.nvmlDeviceGetCount())]
        cuda = parse_cuda_version(nvml.nvmlSystemGetCudaDriverVersion_v2())
        return Nvidia(tuple(visible_gpus(cards, visible)), nvml.nvmlSystemGetDriverVersion(), cuda)
    except nvml.NVMLError as error:
        log.warning("the NVIDIA driver does not answer (%s); no GPU is used", error)
        return Nvidia()
    finally:
        nvml.nvmlShutdown()


def _devices(nvml: Any, index: int, ram_gb: float, available_gb: float) -> list[Gpu]:
    """What CUDA could use of one card: the card itself, or the MIG devices it is cut into; nothing of one that does not answer."""
    try:
        card = nvml.nvmlDeviceGetHandleByIndex(index)
        capability = nvml.nvmlDeviceGetCudaComputeCapability(card)
        handles = _mig_devices(nvml, card) if _mig_mode(nvml, card) else [card]
        return [_gpu(nvml, handle, capability, ram_gb, available_gb) for handle in handles]
    except nvml.NVMLError as error:
        log.warning("GPU %d does not answer (%s); it is not used", index, error)
        return []


def _mig_mode(nvml: Any, card: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(card)[0])  # (now, after the next reset)
    except nvml.NVMLError_NotSupported:
        return False


def _mig_devices(nvml: Any, card: Any) -> list[Any]:
    handles = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            handles.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place))
        except nvml.NVMLError:  # a place that no instance was made in, or one that this container was not given
            continue
    return handles


def _gpu(nvml: Any, handle: Any, capability: tuple[int, int], ram_gb: float, available_gb: float) -> Gpu:
    try:
        answer = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free, unified = answer.total / GB, answer.free / GB, False
    except nvml.NVMLError_NotSupported:  # GB10 and its kin have no memory of their own to report
        total, free, unified = ram_gb, available_gb, True
    return Gpu(
        name=nvml.nvmlDeviceGetName(handle),
        total_gb=round(total, 2),
        free_gb=round(free, 2),
        compute_capability=capability,  # of the card: a MIG device is not asked
        uuid=nvml.nvmlDeviceGetUUID(handle),
        unified=unified,
    )


def visible_gpus(cards: Sequence[Sequence[Gpu]], setting: str | None) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES leaves of the cards' devices, in its order: as in CUDA, the first name that fits none ends the list.

    A card is named by its number or UUID, a MIG device by its UUID; the number of a card that is cut stands for its first device.
    A process sees one MIG device, and beside it no whole card (NVIDIA's MIG user guide, "CUDA device enumeration").
    """
    if setting is None:
        chosen = [devices[0] for devices in cards if devices]
    else:
        chosen = []
        for name in (part.strip() for part in setting.split(",")):
            named = [gpu for number, devices in enumerate(cards) for gpu in _named(name, number, devices)]
            if len(named) != 1:
                break
            chosen += named
    return next(([gpu] for gpu in chosen if gpu.uuid.startswith("MIG-")), chosen)


def _named(name: str, number: int, devices: Sequence[Gpu]) -> Sequence[Gpu]:
    if name == str(number):
        return devices[:1]
    return [gpu for gpu in devices if name.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(name)]


def parse_cuda_version(number: int) -> str:
    """'12.4' from NVML's 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
