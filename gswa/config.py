"""Settings: what was asked (`RunRequest`), what runs (`RunConfig`), and how the one becomes the other (`resolve`)."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Optional, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from gswa.errors import ConfigError

BUILTIN_MODEL = "gswa-tiny"
EFFECTIVE_BATCH = 8
CONFIG_SCHEMA = 1

Runner = Literal["threads", "processes", "dask", "ray"]
Strategy = Literal["auto", "paragraph", "sentence", "token"]
Given = TypeVar("Given", bound=BaseModel)


class RunConfig(BaseModel):
    """One run, every number settled. Frozen; `replace` makes the next one and validates it anew."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_id: str = Field(BUILTIN_MODEL, description="base model: gswa-tiny (built in), smollm2-135m, a local folder, or a hub id")
    backend: Literal["torch", "mlx"] = Field("torch", description="library that trains")
    device: Literal["cuda", "cpu", "metal"] = Field("cpu", description="where it trains")
    batch_size: int = Field(4, ge=1, description="sequences per micro-batch")
    gradient_accumulation: int = Field(2, ge=1, description="micro-batches per optimizer step")
    eval_batch_size: int = Field(4, ge=1, description="sequences per evaluation batch")
    max_seq_length: int = Field(1024, ge=128, description="tokens per sequence, as rendered by the chat template")
    num_layers: int | None = Field(None, ge=1, description="adapted blocks, counted from the last; all when unset")
    epochs: float | None = Field(3.0, gt=0, description="passes over the training data")
    iters: int | None = Field(None, ge=1, description="optimizer steps, in place of epochs")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the run that warms up")
    lora_rank: int = Field(16, ge=1, description="rank of the adapter matrices")
    lora_alpha: float | None = Field(None, gt=0, description="adapter scale times rank; 2 × rank when unset")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of adapter inputs dropped; doubles activation memory")
    quantization: Literal["none", "4bit"] = Field("none", description="format of the frozen base weights")
    number_format: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="format the device computes in")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    evaluations: int = Field(10, ge=0, description="evaluations on the way, each with a checkpoint")
    checkpoint_seconds: int = Field(300, ge=1, description="seconds between checkpoints, at most")
    strategy: Strategy = Field("auto", description="where long examples are split")
    enable_oom_fallback: bool = Field(True, description="step down the ladder when memory runs out")
    preprocess_enabled: bool = Field(True, description="split long examples; off: an example over the limit is an error")
    margin: float = Field(0.8, gt=0, le=1, description="share of memory that a plan may use")
    memory_limit_gb: float | None = Field(None, gt=0, description="behave as on a machine of this size (GB of 2**30 bytes)")
    num_processes: int = Field(1, ge=1, description="processes that train together")
    seed: int = Field(42, ge=0, description="seed of every random choice")

    @field_validator("num_processes")
    @classmethod
    def _one_process(cls, value: int) -> int:
        if value > 1:
            raise ValueError("training on several devices is not built yet; leave it at 1")
        return value

    @property
    def effective_batch_size(self) -> int:
        """Sequences per optimizer step."""
        return self.batch_size * self.gradient_accumulation

    @property
    def alpha(self) -> float:
        """LoRA's alpha; the adapter's output is scaled by alpha / rank."""
        return self.lora_alpha if self.lora_alpha is not None else 2.0 * self.lora_rank

    def replace(self, **changes: Any) -> Self:
        """A validated copy (pydantic's `model_copy(update=...)` checks nothing)."""
        return type(self).model_validate({**self.model_dump(), **changes})


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """Those that decide over memory and speed: 'batch 4 × 2, 1,024 tokens, fp32, gradient checkpointing'."""
    layers = settings.get("num_layers")
    parts = [
        f"batch {settings['batch_size']} × {settings['gradient_accumulation']}",
        f"{settings['max_seq_length']:,} tokens",
        str(settings["number_format"]),
        "4-bit base" if settings.get("quantization") == "4bit" else "",
        f"last {layers} layers" if layers else "",
        "gradient checkpointing" if settings.get("gradient_checkpointing") else "",
    ]
    return ", ".join(part for part in parts if part)


# One optional field per setting, so that the flags, the YAML keys and the dashboard's form all come from RunConfig.
_optional: dict[str, Any] = {
    name: (Optional[field.annotation], Field(None, description=field.description))  # noqa: UP045  (the annotation is a value here)
    for name, field in RunConfig.model_fields.items()
}
if TYPE_CHECKING:

    class Settings(BaseModel):
        """Every setting, optional."""

        def __init__(self, **values: Any) -> None: ...

else:
    Settings = create_model("Settings", __config__=ConfigDict(frozen=True, extra="forbid", protected_namespaces=()), **_optional)


class RunRequest(BaseModel):
    """What a person asks for; the one parameter of the flow `gswa`, and the form in its dashboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("", description="added to the run's folder name")
    description: str = Field("", description="a note for yourself, shown in the report")
    config: Path | None = Field(None, description="YAML or JSON file of settings, or a run's config/run_config.json")
    settings: Settings = Field(default_factory=Settings, description="settings given by hand; unset ones come from file, plan or profile")
    data: Path | None = Field(None, description="folder of train.jsonl, valid.jsonl, test.jsonl in place of the corpus")
    parser: Literal["auto", "unstructured", "pymupdf"] = Field("auto", description="who reads the papers")
    task_runner: Runner = Field("threads", description="who reads the batches of papers")
    auto_plan: bool = Field(False, description="choose settings by dry runs")
    max_candidates: int = Field(5, ge=1, description="dry runs of the planner, at most")
    dry_run_steps: int = Field(3, ge=1, description="optimizer steps per dry run")
    max_plan_seconds: int = Field(600, ge=1, description="seconds that planning may take")
    skip_dry_run: bool = Field(False, description="the planner names its candidates and measures none")
    memory_safe: bool = Field(False, description="one profile lower, evaluation batch 1, margin 0.7")
    skip_plots: bool = Field(False, description="no plots and no HTML report")
    resume: str | None = Field(None, description="id or folder of a run to continue")


def of_flags(model: type[Given], **values: Any) -> Given:
    """A model of what the command line gave; pydantic's faults as one ConfigError that names the flags."""
    try:
        return model(**values)
    except ValidationError as error:
        faults = [f"--{str(fault['loc'][0]).replace('_', '-')} {fault['input']}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError("\n".join(faults)) from error


class Layer(NamedTuple):
    """Settings from one source. A value of None is unset and overrides nothing."""

    origin: str
    values: Mapping[str, Any]


class Settled(NamedTuple):
    config: RunConfig
    origin: dict[str, str]


def resolve(*layers: Layer) -> Settled:
    """Merge layers, weakest first, into one valid configuration and say where each value came from.

    Raises ConfigError with every fault at once: unknown names with the nearest right one, values out of range, and
    `iters` beside `epochs` in one layer. Of two layers the stronger one's `iters` or `epochs` replaces the other's.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = dict.fromkeys(RunConfig.model_fields, "default")
    faults: list[str] = []
    for layer in layers:
        given = {name: value for name, value in layer.values.items() if value is not None}
        faults += unknown_keys(given, layer.origin)
        if "iters" in given and "epochs" in given:
            faults.append(f"{layer.origin}: iters and epochs are both given; leave one of them out")
        for name, other in (("iters", "epochs"), ("epochs", "iters")):
            if name in given and other not in given:
                values[other] = None
                origin[other] = layer.origin
        values.update(given)
        origin.update(dict.fromkeys(given, layer.origin))
    known = {name: value for name, value in values.items() if name in RunConfig.model_fields}
    for name, value in _derived(known).items():
        known[name] = value
        origin[name] = "derived"
    try:
        config = RunConfig.model_validate(known)
    except ValidationError as error:
        faults += [_fault(detail, origin) for detail in error.errors()]
    if faults:
        raise ConfigError("\n".join(faults))
    return Settled(config, origin)


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from other settings where nobody gave it: accumulation fills up the effective batch."""
    derived: dict[str, Any] = {}
    batch = values.get("batch_size", RunConfig.model_fields["batch_size"].default)
    if not str(batch).isdigit() or int(batch) < 1:
        return derived
    if "gradient_accumulation" not in values:
        derived["gradient_accumulation"] = max(1, round(EFFECTIVE_BATCH / int(batch)))
    if "eval_batch_size" not in values:
        derived["eval_batch_size"] = int(batch)
    return derived


def unknown_keys(given: Iterable[str], origin: str, known: Iterable[str] = RunConfig.model_fields) -> list[str]:
    """One fault per name that is no setting, with the nearest right name."""
    faults = []
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else f"; the settings are: {', '.join(known)}"
            faults.append(f"{origin}: unknown setting {name}{hint}")
    return faults


def _fault(detail: Any, origin: Mapping[str, str]) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else "settings"
    reason = detail["msg"].removeprefix("Value error, ")
    return f"{origin.get(name, 'settings')}: {name} = {detail['input']!r}: {reason}"


def read_config_file(path: Path) -> Layer:
    """A YAML or JSON mapping of settings; of a run's run_config.json, what it settled. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give --config a YAML or JSON file of settings") from error
    try:
        # JSON first: YAML would read a number like 1e-05 as text.
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not valid {'JSON' if path.suffix == '.json' else 'YAML'}: {error}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of settings was expected, such as 'batch_size: 2'")
    if "settled" in content:
        if content.get("schema", 0) > CONFIG_SCHEMA:
            raise ConfigError(f"{path}: written by a newer GSWA (schema {content['schema']}); update GSWA")
        content = content["settled"]
    if "chosen" in content and "trials" in content:  # a plan
        content = content["chosen"] or {}
    return Layer(str(path), {str(name): value for name, value in content.items()})


def parse_memory(text: str) -> float:
    """GB of 2**30 bytes from '8GB', '8 GiB', '512MB' or '8'. Raises ConfigError."""
    cleaned = text.strip().upper().removesuffix("B").removesuffix("I")
    units = {"T": 1024.0, "G": 1.0, "M": 1 / 1024}
    unit = units.get(cleaned[-1:])
    try:
        size = float(cleaned[:-1] if unit else cleaned) * (unit or 1.0)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise ConfigError(f"--memory-limit {text}: not a size; write it like 8GB or 512MB")
    return size
