"""Machines that are not this one: what the probe would say of them."""

from typing import Any

from gswa.hardware import Cpu, Hardware, Memory
from gswa.nvidia import Gpu


def cpu(**changes: Any) -> Hardware:
    fields = {
        "os": "Linux",
        "python": "3.12.1",
        "cpu": Cpu(model="x", cores=2),
        "memory": Memory(total_gb=32, available_gb=31),
        "disk_free_gb": 9,
    }
    return Hardware(**{**fields, **changes})


def cuda(mib: float, capability: tuple[int, int] = (8, 6), name: str = "a card", **changes: Any) -> Hardware:
    return cpu(
        gpus=(Gpu(name=name, total_gb=round(mib / 1024, 2), free_gb=round(mib / 1024, 2), compute_capability=capability),), **changes
    )


def apple(gb: float) -> Hardware:
    return cpu(apple_chip="Apple M3", memory=Memory(total_gb=gb, available_gb=gb * 0.95))
