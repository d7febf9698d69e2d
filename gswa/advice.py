"""What `info` tells: the machine, the settings it gets and why, and which base models it can train."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from gswa.config import RunConfig, resolve, settings_in_words
from gswa.errors import ConfigError
from gswa.export.bases import ARCHITECTURES
from gswa.forecast import Forecast, Forecaster, checkpointing_for, forecaster
from gswa.hardware import Hardware
from gswa.memory import read_shape
from gswa.models import APPLE_MODELS, GUIDE_MODELS, MODELS, VLLM_FAMILIES, Model
from gswa.profiles import PROFILES, config_for, holds, profile_for
from gswa.workspace import Workspace

DEVICE_NAMES = {"cuda": "CUDA", "metal": "Apple", "cpu": "CPU"}
SHORTEST = 512  # tokens: a model that needs still fewer is said not to fit
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header, rows


# -- models on this machine ----------------------------------------------------------------------------------------------
class Outlook(NamedTuple):
    """One base model at the settings of this machine's row. `with_less` names smaller ones that fit; "" without need or hope."""

    model: Model
    config: RunConfig
    forecast: Forecast
    verdict: str
    with_less: str


def outlooks(hardware: Hardware, workspace: Workspace) -> list[Outlook]:
    """Every model of our table that this device's backend loads, the largest first."""
    table = APPLE_MODELS if hardware.device == "metal" else [model for model in MODELS if model not in APPLE_MODELS]
    return [outlook(model, hardware, workspace) for model in sorted(table, key=size, reverse=True)]


def outlook(model: Model, hardware: Hardware, workspace: Workspace) -> Outlook:
    config = config_for(model, hardware)
    forecast = forecaster(model.model_id, hardware.compute_name, workspace)
    if forecast is None:
        raise ConfigError(f"{model.model_id}: its row in gswa/models.py has no sizes that memory can be predicted from")
    found = forecast(config)
    verdict = verdict_of(found.peak_gb, config.margin, hardware.memory_gb)
    return Outlook(model, config, found, verdict, "" if verdict == "fits" else with_less(config, forecast, hardware.memory_gb))


def verdict_of(peak_gb: float, margin: float, memory_gb: float) -> str:
    """fits: within the margin that a plan may use. tight: within memory, so that a step down the ladder may be needed."""
    return "fits" if peak_gb <= margin * memory_gb else "tight" if peak_gb <= memory_gb else "does not fit"


def with_less(config: RunConfig, forecast: Forecaster, memory_gb: float) -> str:
    """The first of a few smaller settings that is predicted to fit, in words."""
    for smaller in _smaller(config):
        if forecast(smaller).peak_gb <= config.margin * memory_gb:
            return settings_in_words(smaller.model_dump())
    return ""


def _smaller(config: RunConfig) -> Iterable[RunConfig]:
    """In the order in which they hurt: recomputing, one row at a time, 4 bits, shorter rows."""
    one = {"batch_size": 1, "eval_batch_size": 1, "gradient_accumulation": config.effective_batch_size}
    changes: dict[str, Any] = {}
    for more in ({"gradient_checkpointing": True}, one, {"quantization": "4bit"}, {"max_seq_length": min(SHORTEST, config.max_seq_length)}):
        if "quantization" not in more or config.device == "cuda":
            changes |= more
            yield config.replace(**changes)


def size(model: Model) -> int:
    return read_shape(model.config).parameters


def models_table(found: Iterable[Outlook]) -> Table:
    """Each model, the peak predicted for it, and what that means here."""
    return ("base model", "parameters", "predicted", "verdict", ""), [_model_row(each) for each in found]


def _model_row(each: Outlook) -> tuple[str, ...]:
    remark = f"fits with {each.with_less}" if each.with_less else ""
    return each.model.model_id, _many(size(each.model)), f"{each.forecast.peak_gb:.1f} GB", each.verdict, remark


def _many(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.3g} M"


def truths_table(found: Iterable[Outlook]) -> Table:
    """What is true of each base, whatever the machine."""
    header = ("base model", "4 bits", "export verified", "vLLM", "Ollama", "licence", "chat template")
    return header, [truths(each.model) for each in found]


def truths(model: Model) -> tuple[str, ...]:
    as_gguf = any(name.lower() == f"{model.family}forcausallm" for name in ARCHITECTURES)
    return (
        model.model_id,
        "published so" if "quantization" in model.config else "on CUDA",
        "PEFT, GGUF" if as_gguf else "PEFT",
        "yes" if model.family in VLLM_FAMILIES else "no",
        model.ollama or ("with its own GGUF" if as_gguf else "no"),
        model.licence,
        model.template or "as it is",
    )


# -- the machine ---------------------------------------------------------------------------------------------------------
def info_table(hardware: Hardware, workspace: Workspace) -> list[tuple[str, str]]:
    """The machine, then what is recommended for it and why, then what a person should know."""
    return [*_machine_rows(hardware), *_recommendation_rows(hardware, workspace), *(("note", note) for note in notes(hardware, workspace))]


def _machine_rows(hardware: Hardware) -> Iterable[tuple[str, str]]:
    yield "system", hardware.os + (f" ({hardware.surroundings})" if hardware.surroundings else "")
    yield "Python", hardware.python
    cpu, memory = hardware.cpu, hardware.memory
    yield "CPU", f"{cpu.model}, {cpu.cores} cores" + (f", {', '.join(cpu.features)}" if cpu.features else "")
    limited = " (limited by the control group)" if memory.limited else ""
    yield "memory", f"{memory.total_gb:.1f} GB, {memory.available_gb:.1f} GB free{limited}"
    for number, gpu in enumerate(hardware.gpus):
        capability = ".".join(map(str, gpu.compute_capability))
        shared = ", shared with the CPU" if gpu.unified else ""
        yield f"GPU {number}", f"{gpu.name}, {gpu.total_gb:.1f} GB{shared}, {gpu.free_gb:.1f} GB free, compute capability {capability}"
    if hardware.driver:
        yield "driver", f"{hardware.driver}, CUDA up to {hardware.cuda}"
    if hardware.apple_chip:
        yield "Apple chip", f"{hardware.apple_chip}, {memory.total_gb:.0f} GB of unified memory"
    yield "disk", f"{hardware.disk_free_gb:.1f} GB free"
    yield "installed", ", ".join(f"{name} {version}" for name, version in hardware.versions.items()) or "nothing of the training stack"


def _recommendation_rows(hardware: Hardware, workspace: Workspace) -> Iterable[tuple[str, str]]:
    layer = profile_for(hardware)
    config = resolve(layer).config
    config = config.replace(gradient_checkpointing=checkpointing_for(config, hardware, workspace))
    yield "recommended model", config.model_id
    yield "settings", settings_in_words(config.model_dump())
    limit = " (the given limit)" if hardware.memory_limit_gb is not None else ""
    yield "because", f"{layer.origin}: {DEVICE_NAMES[hardware.device]} with {hardware.memory_gb:.1f} GB{limit}"
    forecast = forecaster(config.model_id, hardware.compute_name, workspace)
    if forecast is not None:
        found = forecast(config)
        allowed = config.margin * hardware.memory_gb
        yield "predicted peak", f"{found.peak_gb:.2f} GB, of {allowed:.1f} GB that the margin of {config.margin:.0%} leaves"
        yield "correction", str(found.correction) if found.correction else "none yet: it is fitted from the third run or dry run here on"


def notes(hardware: Hardware, workspace: Workspace) -> list[str]:
    """What a person should know before training on this machine."""
    return [*_device_notes(hardware), *_memory_notes(hardware), *_contradictions(hardware, workspace)]


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


def _contradictions(hardware: Hardware, workspace: Workspace) -> Iterable[str]:
    """Where the memory model disagrees with a row of the guide that this machine would use: both numbers."""
    if hardware.device == "cpu":
        return
    layer = profile_for(hardware)
    chosen = str(layer.values["model_id"])
    for model in APPLE_MODELS if hardware.device == "metal" else GUIDE_MODELS:
        if not holds(hardware.memory_gb, model.memory_gb or 0):
            continue
        each = outlook(model, hardware, workspace)
        less = f"; it fits with {each.with_less}" if each.with_less else ""
        if model.model_id == chosen and each.verdict != "fits":
            allowed = each.config.margin * hardware.memory_gb
            yield (
                f"{layer.origin} ({settings_in_words(each.config.model_dump())}) is predicted to take {each.forecast.peak_gb:.1f} GB "
                f"with {chosen}, more than the {allowed:.1f} GB that the margin leaves{less}"
            )
        elif each.verdict == "does not fit":
            yield (
                f"{model.model_id}: the guide says {model.memory_gb} GB, {each.forecast.peak_gb:.0f} GB are predicted "
                f"({each.forecast.prediction.weights_gb:.0f} GB of them weights){less or f'; use {chosen}'}"
            )


def info_json(hardware: Hardware, workspace: Workspace) -> dict[str, Any]:
    """All of it, for a program."""
    layer = profile_for(hardware)
    found = outlooks(hardware, workspace)
    return {
        "hardware": hardware.model_dump(mode="json"),
        "recommended": {"origin": layer.origin, **dict(layer.values)},
        "models": [
            {
                "model_id": each.model.model_id,
                "parameters": size(each.model),
                "predicted_memory_gb": round(each.forecast.peak_gb, 2),
                "verdict": each.verdict,
                "fits_with": each.with_less,
                **dict(zip(("4bit", "export", "vllm", "ollama", "licence", "template"), truths(each.model)[1:], strict=True)),
            }
            for each in found
        ],
        "notes": notes(hardware, workspace),
    }
