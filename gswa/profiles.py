"""The guide's three tables as data, and what they say for a machine."""

from collections.abc import Iterable
from typing import Literal

from gswa.cgroup import GB
from gswa.config import BUILTIN_MODEL, EFFECTIVE_BATCH, Layer, RunConfig
from gswa.hardware import Hardware
from gswa.records import Record


class Profile(Record):
    """Settings for a device of `memory_gb` (VRAM, or RAM on Apple). `num_layers` None: all."""

    memory_gb: int
    batch_size: int
    max_seq_length: int
    quantization: Literal["none", "4bit"] = "none"
    num_layers: int | None = None


class Model(Record):
    """A row of the guide's Supported Models, with its size in 10**9 parameters."""

    model_id: str
    memory_gb: int
    quality: str
    parameters: float


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
MODELS = (
    Model(model_id="mistralai/Mistral-Large-Instruct-2407", memory_gb=48, quality="Best", parameters=122.6),
    Model(model_id="Qwen/Qwen2.5-14B-Instruct", memory_gb=24, quality="Excellent", parameters=14.8),
    Model(model_id="Qwen/Qwen2.5-7B-Instruct", memory_gb=16, quality="Very Good", parameters=7.6),
    Model(model_id="mistralai/Mistral-7B-Instruct-v0.3", memory_gb=16, quality="Very Good", parameters=7.2),
    Model(model_id="microsoft/Phi-3.5-mini-instruct", memory_gb=8, quality="Good", parameters=3.8),
    Model(model_id="Qwen/Qwen2.5-1.5B-Instruct", memory_gb=4, quality="Basic", parameters=1.5),
)
APPLE_MODELS = (
    Model(model_id="mlx-community/Qwen2.5-14B-Instruct-4bit", memory_gb=64, quality="Excellent", parameters=14.8),
    Model(model_id="mlx-community/Mistral-7B-Instruct-v0.2-4bit", memory_gb=16, quality="Very Good", parameters=7.2),
    Model(model_id="mlx-community/Qwen2.5-1.5B-Instruct-4bit", memory_gb=8, quality="Basic", parameters=1.5),
)
BUILTIN_LEARNING_RATE = 5e-3
ROW_SHARE = 0.9  # a 24 GB card reports 23.99 GB, an A40 of 48 reports 44.99
SAFE_MARGIN = 0.7
MINIMUM_RATE = 1e-4
BYTES_PER_PARAMETER = {"none": 2.0, "4bit": 0.516}  # bf16; NF4 with double quantisation: 4.127 bits
DEVICE_NAMES = {"cuda": "CUDA", "metal": "Apple", "cpu": "CPU"}


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
    if hardware.device == "cpu":
        origin, settings = "profile cpu", _cpu_settings(memory_safe)
    else:
        row = row_for(hardware.device, hardware.memory_gb)
        origin = f"profile {hardware.device} {row.memory_gb} GB"
        settings = _device_settings(hardware, lower(hardware.device, row) if memory_safe else row)
    if memory_safe:
        origin += ", memory-safe"
        settings |= {"eval_batch_size": 1, "margin": SAFE_MARGIN}
    return Layer(origin, {"model_id": default_model(hardware), **settings})


def _cpu_settings(memory_safe: bool) -> dict[str, object]:
    batch_size = 2 if memory_safe else 4
    return {
        "backend": "torch",
        "device": "cpu",
        "batch_size": batch_size,
        "eval_batch_size": 4,
        "max_seq_length": 1024,
        "number_format": "fp32",
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
    """NVIDIA computes in bf16 from compute capability 8.0 on."""
    if hardware.device == "cuda":
        return "bf16" if hardware.gpus[0].compute_capability >= (8, 0) else "fp16"
    return "bf16" if hardware.device == "metal" else "fp32"


def model_layer(model_id: str) -> Layer:
    """What the base model itself asks for: the small built-in one learns at a higher rate than any real one."""
    return Layer("built-in base", {"learning_rate": BUILTIN_LEARNING_RATE} if model_id == BUILTIN_MODEL else {})


# -- models ------------------------------------------------------------------------------------------------------------
def default_model(hardware: Hardware) -> str:
    """The first of the guide's models for this memory whose weights leave room to train; on a CPU the built-in one."""
    if hardware.device == "cpu":
        return BUILTIN_MODEL
    if hardware.device == "metal":
        table = APPLE_MODELS
        return next((model.model_id for model in table if holds(hardware.memory_gb, model.memory_gb)), table[-1].model_id)
    quantization = row_for("cuda", hardware.memory_gb).quantization
    for model in MODELS:
        if holds(hardware.memory_gb, model.memory_gb) and fits(model, quantization, hardware.memory_gb):
            return model.model_id
    return MODELS[-1].model_id


def weights_gb(model: Model, quantization: str) -> float:
    """GB of the base's weights alone; embeddings, which stay in 16 bits, add a little to the 4-bit figure."""
    return model.parameters * 1e9 * BYTES_PER_PARAMETER[quantization] / GB


def fits(model: Model, quantization: str, memory_gb: float) -> bool:
    """Room for the weights within the default margin: necessary, not sufficient."""
    return weights_gb(model, quantization) <= float(RunConfig.model_fields["margin"].default) * memory_gb


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


def notes(hardware: Hardware) -> list[str]:
    """What a person should know before training on this machine."""
    return [*_device_notes(hardware), *_memory_notes(hardware), *_model_notes(hardware)]


def _device_notes(hardware: Hardware) -> Iterable[str]:
    if hardware.gpus and hardware.cpu_only_torch:
        yield f"{hardware.gpus[0].name} is not used: the installed torch has no CUDA; run 'make setup-cuda'"
    elif hardware.device == "cpu":
        yield "no GPU found: the small built-in base model trains on the CPU"
    if hardware.device == "cuda" and len(hardware.gpus) > 1:
        yield f"{len(hardware.gpus)} GPUs found; a run trains on the first, CUDA_VISIBLE_DEVICES chooses another"


def _memory_notes(hardware: Hardware) -> Iterable[str]:
    limit, total = hardware.memory_limit_gb, hardware.total_gb
    if limit is not None and limit > total:
        yield f"the memory limit of {limit:g} GB is above the {total:.1f} GB that are there"
    if limit is None and hardware.crowded and hardware.device != "cpu":
        yield (
            f"other processes hold {total - hardware.free_gb:.1f} of {total:.1f} GB: settings are for the "
            f"{hardware.free_gb:.1f} GB that are free; close programs to use more"
        )
    if hardware.device != "cpu":
        smallest = PROFILES[hardware.device][-1]
        if not holds(hardware.memory_gb, smallest.memory_gb):
            yield (
                f"{hardware.memory_gb:.1f} GB is less than the smallest profile of {smallest.memory_gb} GB, which is used: "
                "memory may run out; choose a smaller --model or --max-seq-length"
            )


def _model_notes(hardware: Hardware) -> Iterable[str]:
    if hardware.device != "cuda":
        return
    for model in MODELS:
        if holds(hardware.memory_gb, model.memory_gb) and not fits(model, "4bit", hardware.memory_gb):
            yield (
                f"{model.model_id} ({model.parameters:.0f} B parameters, {weights_gb(model, '4bit'):.0f} GB in 4 bits before anything "
                f"is trained) does not fit {hardware.memory_gb:.0f} GB, whatever the guide's table says; use {default_model(hardware)}"
            )


def info_table(hardware: Hardware) -> list[tuple[str, str]]:
    """What `info` shows: the machine, then what is recommended for it and why."""
    return [*_machine_rows(hardware), *_recommendation_rows(hardware), *(("note", note) for note in notes(hardware))]


def _machine_rows(hardware: Hardware) -> Iterable[tuple[str, str]]:
    yield "system", hardware.os + (f" ({hardware.surroundings})" if hardware.surroundings else "")
    yield "Python", hardware.python
    cpu, memory = hardware.cpu, hardware.memory
    yield "CPU", f"{cpu.model}, {cpu.cores} cores" + (f", {', '.join(cpu.features)}" if cpu.features else "")
    yield (
        "memory",
        f"{memory.total_gb:.1f} GB, {memory.available_gb:.1f} GB free" + (" (limited by the control group)" if memory.limited else ""),
    )
    for number, gpu in enumerate(hardware.gpus):
        capability = ".".join(map(str, gpu.compute_capability))
        yield f"GPU {number}", f"{gpu.name}, {gpu.total_gb:.1f} GB, {gpu.free_gb:.1f} GB free, compute capability {capability}"
    if hardware.driver:
        yield "driver", f"{hardware.driver}, CUDA up to {hardware.cuda}"
    if hardware.apple_chip:
        yield "Apple chip", hardware.apple_chip
    yield "disk", f"{hardware.disk_free_gb:.1f} GB free"
    yield "installed", ", ".join(f"{name} {version}" for name, version in hardware.versions.items()) or "nothing of the training stack"


def _recommendation_rows(hardware: Hardware) -> Iterable[tuple[str, str]]:
    layer = profile_for(hardware)
    settings = layer.values
    yield "recommended model", str(settings["model_id"])
    accumulation = max(1, EFFECTIVE_BATCH // int(settings["batch_size"]))
    described = [f"batch {settings['batch_size']} × {accumulation}", f"{settings['max_seq_length']} tokens", str(settings["number_format"])]
    if settings.get("quantization") == "4bit":
        described.append("4-bit base")
    if settings.get("num_layers"):
        described.append(f"last {settings['num_layers']} layers")
    if settings["gradient_checkpointing"]:
        described.append("gradient checkpointing")
    yield "settings", ", ".join(described)
    limit = " (the given limit)" if hardware.memory_limit_gb is not None else ""
    yield "because", f"{layer.origin}: {DEVICE_NAMES[hardware.device]} with {hardware.memory_gb:.1f} GB{limit}"
