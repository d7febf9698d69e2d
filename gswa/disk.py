"""Whether a folder can take what a run will write: asked before the work, so that it is not lost at the end."""

import json
import os
import shutil
from pathlib import Path

from gswa.config import RunConfig
from gswa.errors import ConfigError

GB = 2**30
RESERVE_GB = 0.2  # papers as text, chunks, logs, plots and the report
ADAPTER_COPIES = 3  # adapters/, its GGUF, and one of the two while it is written
CHECKPOINT_COPIES = 12  # four checkpoints (two newest, best, the one being written) of weights and Adam's two moments


def check_writable(folder: Path) -> None:
    """Raises ConfigError where nothing can be written into this folder, or it cannot be made."""
    place = _existing(folder)
    if not place.is_dir():
        raise ConfigError(f"{folder}: cannot be written, since {place} is a file; move it away or choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: cannot be written, {place} gives no permission; change that or choose another folder")


def check_room(folder: Path, needed_gb: float) -> None:
    """Raises ConfigError where the folder's disk has less than `needed_gb` left."""
    free_gb = shutil.disk_usage(_existing(folder)).free / GB
    if free_gb < needed_gb:
        raise ConfigError(
            f"{folder}: a run needs about {needed_gb:,.1f} GB here (checkpoints, adapters, report) and {free_gb:,.1f} GB is free; "
            "free space, or train a smaller adapter (--lora-rank, --num-layers)"
        )


def room_needed_gb(config: RunConfig, base: Path, writes_base: bool) -> float:
    """What a run leaves on disk at its largest, where `base` is the base model's folder.

    `writes_base`: the base itself is exported beside the adapter, as it is where no library has it.
    """
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors")) if writes_base else 0
    written = (ADAPTER_COPIES + CHECKPOINT_COPIES) * adapter_bytes(config, _shape(base)) + 2 * weights  # some tensors in fp32
    return RESERVE_GB + written / GB


def adapter_bytes(config: RunConfig, shape: dict[str, int]) -> int:
    """Of the seven linear layers of each adapted block, in fp32; `shape` is the base model's config.json. 0 for an unknown shape."""
    try:
        hidden, inner, blocks, heads = (
            shape[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        )
    except KeyError:
        return 0
    head = shape.get("head_dim") or hidden // heads
    key_heads = shape.get("num_key_value_heads") or heads
    attention = 4 * hidden + 2 * heads * head + 2 * key_heads * head
    return 4 * config.lora_rank * min(config.num_layers or blocks, blocks) * (attention + 3 * (hidden + inner))


def _shape(base: Path) -> dict[str, int]:
    content = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return {name: value for name, value in content.items() if isinstance(value, int)}


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
