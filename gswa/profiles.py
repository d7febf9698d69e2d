"""The guide's two tables of settings as data, and what they say for a machine. Its third, of models, is in gswa/models.py."""

from typing import Literal

from gswa.basemodel import smollm2
from gswa.config import BUILTIN_MODEL, Layer, RunConfig, resolve
from gswa.hardware import Hardware
from gswa.memory import predict, read_shape
from gswa.models import APPLE_MODELS, GUIDE_MODELS, Model
from gswa.records import Record


class Profile(Record):
    """Settings for a device of `memory_gb` (VRAM, or RAM on Apple). `num_layers` None: all."""

    memory_gb: int
    batch_size: int
    max_seq_length: int
    quantization: Literal["none", "4bit"] = "none"
    num_layers: int | None = None


# Largest first: the first that fits wins. Apple's base models are published in 4 bits already.
PROFILES: dict[str, tuple[Profile, ...]] = {
    "cuda": (
        Profile(memory_gb=48, batch_size=8, max_seq_length=2048, quantization="none"),
        Profile(memory_gb=24, batch_size=4, max_seq_length=2048, quantization="4bit"),
        Profile(memory_gb=16, batch_size=2, max_seq_length=1536, quantization="4bit"),
        Profile(memory_gb=8, batch_size=1, max_seq_length=1024, quantization="4bit"),
        Profile(memory_gb=4, batch_size=1, max_seq_length=512, quantization="4bit"),
    ),
    "metal": (
        Profile(memory_gb=128, batch_size=8, max_seq_length=4096, num_layers=24),
        Profile(memory_gb=64, batch_size=4, max_seq_length=2048, num_layers=16),
        Profile(memory_gb=32, batch_size=2, max_seq_length=1536, num_layers=12),
        Profile(memory_gb=16, batch_size=1, max_seq_length=1024, num_layers=8),  # the guide: 768 to 1024
        Profile(memory_gb=8, batch_size=1, max_seq_length=512, num_layers=4),
    ),
}
LEARNING_RATES = {BUILTIN_MODEL: 5e-3, smollm2.NAME: 1e-3}  # measured; the second in docs/recipe.md
ROW_SHARE = 0.9  # a 24 GB card reports 23.99 GB, an A40 of 48 reports 44.99
SAFE_MARGIN = 0.7
MINIMUM_RATE = 1e-4
FASTER = 1.3  # times: so much faster a number format must be measured to be worth its rounding


# -- which row ---------------------------------------------------------------------------------------------------------
def row_for(device: str, memory_gb: float) -> Profile:
    """The largest row that the memory holds, or else the smallest."""
    table = PROFILES[device]
    return next((row for row in table if holds(memory_gb, row.memory_gb)), table[-1])


def holds(memory_gb: float, row_gb: float) -> bool:
    return memory_gb >= ROW_SHARE * row_gb


def lower(device: str, row: Profile) -> Profile:
    """The next smaller row; below the smallest, that row with sequences a quarter shorter."""
    table = PROFILES[device]
    place = table.index(row) + 1
    return table[place] if place < len(table) else row.model_copy(update={"max_seq_length": row.max_seq_length * 3 // 4})


# -- settings ----------------------------------------------------------------------------------------------------------
def profile_for(hardware: Hardware, memory_safe: bool = False) -> Layer:
    """Settings for this machine, with the row that they come from as origin.

    `memory_safe`: one row lower for the same model, evaluation batch 1, and a plan may use 0.7 of memory.
    """
    origin, settings = row_settings(hardware, memory_safe)
    if memory_safe:
        origin += ", memory-safe"
        settings |= {"eval_batch_size": 1, "margin": SAFE_MARGIN}
    return Layer(origin, {"model_id": default_model(hardware), **settings})


def row_settings(hardware: Hardware, memory_safe: bool = False) -> tuple[str, dict[str, object]]:
    """Name and settings of this machine's row, or of the one below it; all but the model."""
    if hardware.device == "cpu":
        return "profile cpu", _cpu_settings(hardware, memory_safe)
    row = row_for(hardware.device, hardware.memory_gb)
    return f"profile {hardware.device} {row.memory_gb} GB", _device_settings(hardware, lower(hardware.device, row) if memory_safe else row)


def _cpu_settings(hardware: Hardware, memory_safe: bool) -> dict[str, object]:
    batch_size = 2 if memory_safe else 4
    return {
        "backend": "torch",
        "device": "cpu",
        "batch_size": batch_size,
        "eval_batch_size": 4,
        "max_seq_length": 1024,
        "number_format": number_format(hardware),
        "gradient_checkpointing": False,
    }


def _device_settings(hardware: Hardware, row: Profile) -> dict[str, object]:
    return {
        "backend": "mlx" if hardware.device == "metal" else "torch",
        "device": hardware.device,
        "batch_size": row.batch_size,
        "max_seq_length": row.max_seq_length,
        "quantization": row.quantization,
        "num_layers": row.num_layers,
        "number_format": number_format(hardware),
        "gradient_checkpointing": True,
    }


def number_format(hardware: Hardware) -> Literal["fp32", "bf16", "fp16"]:
    """The format that was measured to be fast here; fp32 unless another one is clearly faster.

    Before the measurement NVIDIA's compute capability is asked (bf16 from 8.0 on), and a CPU gets fp32. On a CPU fp16 is left
    out: its gradients would need a scaler, and no CPU is faster in it than in bf16.
    """
    speeds = hardware.number_formats
    if hardware.device == "metal":
        return "bf16"
    if not speeds:
        return "fp32" if hardware.device == "cpu" else "bf16" if hardware.gpus[0].compute_capability >= (8, 0) else "fp16"
    bf16, fp16 = speeds.get("bf16", 0.0), speeds.get("fp16", 0.0) if hardware.device == "cuda" else 0.0
    if max(bf16, fp16) < FASTER * speeds["fp32"]:
        return "fp32"
    return "bf16" if FASTER * bf16 >= fp16 else "fp16"


def model_layer(model_id: str) -> Layer:
    """What the base model itself asks for: the smaller a base, the higher the rate at which it learns best."""
    return Layer("base model", {"learning_rate": LEARNING_RATES[model_id]} if model_id in LEARNING_RATES else {})


# -- models ------------------------------------------------------------------------------------------------------------
def default_model(hardware: Hardware) -> str:
    """The first of the guide's models for this memory that the memory model lets train; on a CPU the built-in one."""
    if hardware.device == "cpu":
        return BUILTIN_MODEL
    table = APPLE_MODELS if hardware.device == "metal" else GUIDE_MODELS
    for model in table:
        if holds(hardware.memory_gb, model.memory_gb or 0) and fits(model, hardware):
            return model.model_id
    return table[-1].model_id


def fits(model: Model, hardware: Hardware) -> bool:
    """Whether the row's settings, with micro-batches of one row at need, are predicted to stay within the default margin."""
    config = config_for(model, hardware).replace(batch_size=1, eval_batch_size=1)
    return predict(read_shape(model.config), config).peak_gb <= config.margin * hardware.memory_gb


def config_for(model: Model, hardware: Hardware) -> RunConfig:
    """This machine's row with another model."""
    return resolve(Layer("row", {"model_id": model.model_id, **row_settings(hardware)[1]})).config


# -- what to tell ------------------------------------------------------------------------------------------------------
def learning_rate_warning(config: RunConfig) -> str | None:
    """learning rate × alpha / rank is how far a step can move the model; under 1e-4 nothing was learnt (measured)."""
    reach = config.learning_rate * config.alpha / config.lora_rank
    if reach >= MINIMUM_RATE:
        return None
    return (
        f"learning rate {config.learning_rate:g} × alpha {config.alpha:g} / rank {config.lora_rank} = {reach:.1e} is below "
        f"{MINIMUM_RATE:g}: the run will learn almost nothing; try --learning-rate 2e-4"
    )
