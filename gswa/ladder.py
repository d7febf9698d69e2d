"""The ladder: what to give up when memory runs out. Pure functions over one table per backend."""

from collections.abc import Callable
from typing import NamedTuple

from gswa.config import RunConfig
from gswa.errors import Phase

Step = Callable[[RunConfig], RunConfig | None]


class Rung(NamedTuple):
    """`step` gives the smaller configuration, or None when there is nothing left to give up on this rung."""

    name: str
    step: Step
    reason: str


def halve_eval_batch(config: RunConfig) -> RunConfig | None:
    return config.replace(eval_batch_size=config.eval_batch_size // 2) if config.eval_batch_size > 1 else None


def shrink_batch(config: RunConfig) -> RunConfig | None:
    """To the largest divisor of the effective batch that is at most half, with accumulation to match: 8 → 4 → 2 → 1."""
    effective = config.effective_batch_size
    smaller = [size for size in range(1, config.batch_size // 2 + 1) if effective % size == 0]
    if not smaller:
        return None
    return config.replace(batch_size=smaller[-1], gradient_accumulation=effective // smaller[-1])


def checkpoint_activations(config: RunConfig) -> RunConfig | None:
    return None if config.gradient_checkpointing else config.replace(gradient_checkpointing=True)


EVALUATION = Rung("eval_batch_size", halve_eval_batch, "evaluation ran out of memory: its batch gives way before the training batch")
LADDERS: dict[str, tuple[Rung, ...]] = {
    "torch": (
        Rung("batch_size", shrink_batch, "a smaller micro-batch, with more accumulation: the effective batch stays"),
        Rung("gradient_checkpointing", checkpoint_activations, "activations computed twice in place of kept: the result stays"),
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
