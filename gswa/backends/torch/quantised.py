"""A 4-bit base is quantised once, kept as safetensors by revision and settings, and mapped by every attempt and dry run."""

import hashlib
import json
import logging
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gswa.workspace import cache

log = logging.getLogger("gswa")

LEAST_FREE = 2  # times the size of what is kept, so that the cache never fills the disk


def kept(model: str, settings: Any) -> Path:
    """Where the quantised base belongs, whether it is there or not: another weight file or another setting is another place.

    A file of the hub's cache is known by the content that it links to, another by its size and date.
    """
    files = sorted(Path(model).glob("*.safetensors"))
    identity = [(file.name, file.resolve().name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    made_by = [version("bitsandbytes"), version("transformers")]
    key = hashlib.sha256(json.dumps([identity, settings.to_dict(), made_by], default=str).encode()).hexdigest()[:16]
    return cache() / "quantised" / f"{Path(model).name}-{key}"


def keep(base: Any, folder: Path) -> None:
    """Store a base that was just quantised, all of it or nothing; where the disk is too full it is quantised again next time."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in base.state_dict().values())
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < LEAST_FREE * size:
            return
        base.save_pretrained(unfinished)
        unfinished.rename(folder)
    except OSError as error:  # another process was first, or the disk is full after all
        log.info("the 4-bit base is not kept: %s", error)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
