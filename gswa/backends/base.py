"""What a backend must do. Only `load_backend` knows which packages there are, and imports one when it is asked for."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

from gswa.errors import ConfigError, Phase
from gswa.records import Answer, EvalMetrics, Evaluation, StepMetrics, TrainJob


class Report(Protocol):
    """Where a backend says how far it is; every figure from the library's own objects."""

    def phase(self, phase: Phase) -> None: ...
    def total_steps(self, steps: int) -> None: ...
    def step(self, metrics: StepMetrics) -> None: ...
    def evaluation(self, metrics: EvalMetrics) -> None: ...
    def answers(self, answers: Sequence[Answer], seconds: float, forward_tokens_per_sec: float) -> None:
        """Answers to some prompts, written together in so many seconds; the speed is that of a forward pass over prompts."""
        ...

    def stop_requested(self) -> bool:
        """True once SIGTERM came: save a checkpoint after this step and return."""
        ...


class Backend(Protocol):
    def train(self, job: TrainJob, report: Report) -> dict[str, Any]:
        """Train, or dry-run for `job.max_steps`. Gives what the parent notes in metadata.json."""
        ...

    def evaluate(self, job: TrainJob, report: Report) -> Evaluation:
        """Losses and samples of what lies in adapters/, read back from there."""
        ...

    def generate(self, job: TrainJob, report: Report) -> dict[str, Any]:
        """Answers of the base, without an adapter, to the prompts of `job.data`, `eval_batch_size` at a time."""
        ...

    def measure_number_formats(self, device: str) -> dict[str, float]:
        """GFLOP/s of a matrix product in each number format that the device has."""
        ...

    def count_memory(self, job: TrainJob) -> dict[str, float]:
        """GB of live tensors in training and in evaluation, without weights or device: `gswa.memory.Alive`. Empty for a base whose
        architecture the library does not know."""
        ...


# What the preload server of a backend loads before it forks: all that a child would spend its first seconds on.
PRELOAD = {"torch": ("gswa.backends.torch", "gswa.backends.worker", "peft", "transformers.models.llama.modeling_llama")}


def load_backend(name: str) -> Backend:
    """Raises ConfigError for one that this version or this machine lacks."""
    package = f"gswa.backends.{name}"
    if find_spec(package) is None:
        raise ConfigError(f"backend {name}: not part of this version of GSWA yet; what is missing is {package}. Train with --backend torch")
    if find_spec(name) is None:
        raise ConfigError(f"backend {name}: {name} is not installed; run 'make setup'")
    return cast(Backend, import_module(package).BACKEND)


def has_backend(name: str) -> bool:
    return (Path(__file__).parent / name).is_dir()
