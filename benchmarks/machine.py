"""What every benchmark's line says of the machine."""

import os

from gswa import hardware


def machine() -> dict[str, object]:
    found = hardware.probe()
    return {
        "cpu": found.cpu.model,
        "cpu_features": list(found.cpu.features),
        "cores": found.cpu.cores,
        "gpu": found.gpus[0].name if found.gpus else None,
        "memory_gb": round(found.memory.total_gb, 1),
        "load": round(os.getloadavg()[0], 2),
        "versions": found.versions,
    }
