"""The trained adapter, as PEFT stores it: y = Wx + scale · B(Ax)."""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gswa.errors import DataError
from gswa.export.weights import stored_tensors

PREFIX = "base_model.model."
Matrix = npt.NDArray[np.float32]


class LoraPair(NamedTuple):
    """The matrices of one linear layer: a is (rank, in), b is (out, rank)."""

    a: Matrix
    b: Matrix
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Of the layer's weight: (out, in)."""
        return self.b.shape[0], self.a.shape[1]

    def delta(self) -> Matrix:
        """What is added to the layer's weight, (out, in)."""
        delta: Matrix = (self.b @ self.a) * np.float32(self.scale)
        return delta


class Adapter(NamedTuple):
    """`pairs` are keyed by the layer's name in the base, such as model.layers.0.self_attn.q_proj."""

    pairs: dict[str, LoraPair]
    rank: int
    alpha: float

    def common_alpha(self) -> float | None:
        """The alpha that is right for every pair as alpha / rank; None where ranks or scales differ."""
        alphas = {round(pair.scale * pair.a.shape[0], 6) for pair in self.pairs.values()}
        return alphas.pop() if len(alphas) == 1 else None


def read_adapter(folder: Path) -> Adapter:
    """PEFT's two files. Raises DataError where they are absent, damaged, or no plain LoRA."""
    settings = _settings(folder)
    tensors = stored_tensors([folder / "adapter_model.safetensors"])
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    strange = [name for name in tensors if not re.search(r"\.lora_[AB]\.weight$", name)]
    lone = [name for name in names if f"{name}.lora_B.weight" not in tensors]
    if not names or strange or lone:
        fault = (strange or lone or ["no tensor"])[0]
        raise DataError(f"{folder / 'adapter_model.safetensors'}: {fault} is no LoRA pair; train the run again")
    pairs = {}
    for name in names:
        a, b = tensors[f"{name}.lora_A.weight"].float32(), tensors[f"{name}.lora_B.weight"].float32()
        module = name.removeprefix(PREFIX)
        pairs[module] = LoraPair(a, b, _scale(settings, module, a.shape[0]))
    return Adapter(pairs, int(settings["r"]), float(settings["lora_alpha"]))


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    if not file.is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise DataError(f"{folder}: no adapter here (adapter_config.json and adapter_model.safetensors); train the run to its end first")
    try:
        settings = dict(json.loads(file.read_text(encoding="utf-8")))
        float(settings["r"]), float(settings["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); train the run again") from error
    for key, plain in (("peft_type", "LORA"), ("use_dora", False), ("bias", "none"), ("modules_to_save", None), ("fan_in_fan_out", False)):
        if settings.get(key, plain) not in (plain, None, []):
            raise DataError(f"{file}: {key} is {settings[key]}; only plain LoRA can be exported")
    return settings


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    alpha = float(settings["lora_alpha"])
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
