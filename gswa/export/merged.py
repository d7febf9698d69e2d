"""Base and adapter as one ordinary model folder: W + scale · B·A, file by file, for tools that load no adapters."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gswa.errors import DataError
from gswa.export.adapter import Adapter
from gswa.export.bases import Base
from gswa.export.weights import Array, Stored, stored_tensors, weight_files
from gswa.files import write_json

# Copied as they are: what transformers writes anew no longer holds what older loaders and Ollama look for.
COMPANIONS = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
              "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja", "model.safetensors.index.json")  # fmt: skip


def write_merged(adapter: Adapter, base: Base, folder: Path) -> None:
    """fp32 weights stay fp32; fp16 and bf16 become fp16, which keeps more of a small change than bf16.

    Raises DataError for a quantised base, or one that lacks a layer of the adapter.
    """
    if base.quantised:
        raise DataError(f"{base.folder}: its weights are quantised; merge into the model it was made from")
    shards = weight_files(base.folder)
    lacking = set(adapter.pairs) - {name.removesuffix(".weight") for name in stored_tensors(shards)}
    if lacking:
        raise DataError(f"{base.folder}: has no layer {sorted(lacking)[0]}, which the adapter changes; is it the base that was trained?")
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        _write_shard(shard, adapter, folder)
    for name in COMPANIONS:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, folder / name)
    write_json(folder / "config.json", _settings(base))


def _settings(base: Base) -> dict[str, Any]:
    settings = dict(base.config)
    settings |= {key: "float16" for key in ("dtype", "torch_dtype") if settings.get(key) == "bfloat16"}
    if "rope_parameters" in settings:
        settings["rope_theta"] = base.rope_theta  # transformers 5 moved it; mlx-lm and Ollama's converter look for it where it was
    return settings


def merge(name: str, stored: Stored, adapter: Adapter) -> Array:
    """One tensor of the merged model, in the format it is written in."""
    pair = adapter.pairs.get(name.removesuffix(".weight"))
    if pair is None and stored.dtype != "BF16":
        return stored.bits()
    weight = stored.float32()
    if pair is not None:
        if weight.shape != pair.shape:
            raise DataError(f"{stored.file}: {name} is {weight.shape}, the adapter's {pair.shape}; is it the base that was trained?")
        weight += pair.delta()
    fits = stored.dtype != "F32" and bool(np.abs(weight).max(initial=0.0) < np.finfo(np.float16).max)
    return weight.astype(np.float16) if fits else weight


def _write_shard(shard: Path, adapter: Adapter, folder: Path) -> None:
    from safetensors.numpy import save_file

    target = folder / shard.name
    save_file(dict(_merged_tensors(shard, adapter)), target, metadata={"format": "pt"})
    target.chmod(0o644)  # the library writes for the owner only


def _merged_tensors(shard: Path, adapter: Adapter) -> Iterator[tuple[str, Array]]:
    for name, stored in stored_tensors([shard]).items():
        yield name, np.ascontiguousarray(merge(name, stored, adapter))
