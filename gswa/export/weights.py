"""Tensors of safetensors files, one at a time: a 14 GB base is read in the memory of its largest matrix.

The library's numpy reader is not used because it fails on bfloat16, which numpy lacks.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gswa.errors import DataError

Array = npt.NDArray[Any]

# BF16 is the upper half of an fp32 number, so its bits travel as integers.
FLOATS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


class Stored(NamedTuple):
    """Where a tensor lies; `dtype` is safetensors' name of it, `offset` is in bytes from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def bits(self) -> Array:
        """As stored; BF16 as unsigned integers. Raises DataError for a format that is no plain float, or a file cut short."""
        if self.dtype not in FLOATS:
            raise DataError(f"{self.file}: holds {self.dtype} tensors; export a base whose weights are fp32, fp16 or bf16")
        try:
            return np.memmap(self.file, FLOATS[self.dtype], "r", self.offset, self.shape)
        except (ValueError, OSError) as error:
            raise DataError(f"{self.file}: shorter than its header says ({error}); download or train it again") from error

    def float32(self) -> npt.NDArray[np.float32]:
        bits = self.bits()
        if self.dtype == "BF16":
            return (bits.astype(np.uint32) << 16).view(np.float32)
        return bits.astype(np.float32)


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """All tensors of the files, by name. Raises DataError where a file has no safetensors header."""
    tensors: dict[str, Stored] = {}
    for file in files:
        header, start = _header(file)
        for name, entry in header.items():
            if name != "__metadata__":
                tensors[name] = Stored(file, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """A model folder's safetensors files: those its index names, or model.safetensors, or all there are."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _header(file: Path) -> tuple[dict[str, Any], int]:
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("header longer than the file")
            return dict(json.loads(content.read(length))), 8 + length
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a readable safetensors file ({error}); download or train it again") from error
