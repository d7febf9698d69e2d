"""The ladder: what to give up when memory runs out. Pure functions over one table per backend.

Knows configurations, never exceptions: `backends/oom` says what a death was, `next_rung` what to try after it.
"""

from collections.abc import Callable
from typing import NamedTuple

from gswa.config import RunConfig
from gswa.errors import Phase

Step = Callable[[RunConfig], RunConfig | None]

LENGTH_MULTIPLE = 64  # tokens; every length is a multiple of it, on every backend
LAST_LENGTH = 256


class Rung(NamedTuple):
    """`step` gives the smaller configuration, or None when there is nothing left to give up on this rung."""

    name: str
    step: Step
    reason: str


def halve_eval_batch(config: RunConfig) -> RunConfig | None:
    return config.replace(eval_batch_size=config.eval_batch_size // 2) if config.eval_batch_size > 1 else None


def single_eval_row(config: RunConfig) -> RunConfig | None:
    return config.replace(eval_batch_size=1) if config.eval_batch_size > 1 else None


def shrink_batch(config: RunConfig) -> RunConfig | None:
    """To the largest divisor of the effective batch that is at most half, with accumulation to match: 8 → 4 → 2 → 1."""
    effective = config.effective_batch_size
    smaller = [size for size in range(1, config.batch_size // 2 + 1) if effective % size == 0]
    if not smaller:
        return None
    return config.replace(batch_size=smaller[-1], gradient_accumulation=effective // smaller[-1])


def checkpoint_activations(config: RunConfig) -> RunConfig | None:
    return None if config.gradient_checkpointing else config.replace(gradient_checkpointing=True)


def shorten_to(floor: int) -> Step:
    """A quarter off the length, down to a multiple of 64, as long as `floor` tokens are left."""

    def shorten(config: RunConfig) -> RunConfig | None:
        shorter = config.max_seq_length * 3 // 4 // LENGTH_MULTIPLE * LENGTH_MULTIPLE
        return config.replace(max_seq_length=shorter) if shorter >= floor else None

    return shorten


def quantize_base(config: RunConfig) -> RunConfig | None:
    """On CUDA only: a CPU computes in 4 bits without saving what matters there."""
    return config.replace(quantization="4bit") if config.device == "cuda" and config.quantization == "none" else None


def shorten_for_good(config: RunConfig) -> RunConfig | None:
    """The last resort: 256 tokens, and twice the accumulation, so that a step still sees about as many."""
    if config.max_seq_length <= LAST_LENGTH:
        return None
    return config.replace(max_seq_length=LAST_LENGTH, gradient_accumulation=config.gradient_accumulation * 2)


def halve_layers(config: RunConfig) -> RunConfig | None:
    """Layers that are dropped keep what they learned, frozen. Of all layers (unset) half is not known here: the backend's 32."""
    layers = config.num_layers or 32
    return config.replace(num_layers=max(4, layers // 2)) if layers > 4 else None


EVALUATION = Rung("eval_batch_size", halve_eval_batch, "evaluation ran out of memory: its batch gives way before the training batch")
BATCH = Rung("batch_size", shrink_batch, "a smaller micro-batch, with more accumulation: the effective batch stays")
CHECKPOINTING = Rung("gradient_checkpointing", checkpoint_activations, "activations computed twice in place of kept: the result stays")

LADDERS: dict[str, tuple[Rung, ...]] = {
    "torch": (
        BATCH,
        CHECKPOINTING,
        Rung("max_seq_length", shorten_to(512), "a quarter off the length; what is left to train is split anew, not cut"),
        Rung("quantization", quantize_base, "the base in 4 bits"),
        Rung("last_resort", shorten_for_good, "the shortest length at once, and more accumulation for it"),
    ),
    "mlx": (
        Rung("eval_batch_size", single_eval_row, "the smallest evaluation batch: the cheapest thing to give up"),
        BATCH,
        Rung("max_seq_length", shorten_to(LAST_LENGTH), "a quarter off the length; what is left to train is split anew, not cut"),
        Rung("num_layers", halve_layers, "fewer adapted layers; the others keep what they learned"),
        CHECKPOINTING,
    ),
}


class Descent(NamedTuple):
    rung: Rung
    config: RunConfig


def next_rung(config: RunConfig, phase: Phase) -> Descent | None:
    """The first rung that applies; None at the foot of the ladder."""
    rungs = LADDERS[config.backend]
    for rung in (EVALUATION, *rungs) if phase == "evaluate" else rungs:
        smaller = rung.step(config)
        if smaller is not None:
            return Descent(rung, smaller)
    return None
