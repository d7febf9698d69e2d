"""The candidates of the planner: the profile's neighbours, or those of the first step down the ladder that is predicted to fit."""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

from gswa.config import RunConfig
from gswa.ladder import LADDERS, halve_layers

# What a plan settles, all of it: a batch size without the evaluation batch measured beside it would be another plan.
PLANNED = (
    "batch_size", "gradient_accumulation", "eval_batch_size", "max_seq_length", "num_layers", "gradient_checkpointing", "quantization",
    "number_format",
)  # fmt: skip
CHOICES = ("batch_size", "max_seq_length", "gradient_checkpointing", "quantization", "number_format")  # what neighbours differ in
BATCH_FACTORS = (1.0, 2.0, 4.0, 0.5)
LENGTHS = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)  # tokens; one notch is a step to a neighbour
SLOW_FORMAT = 0.8  # of the fastest format's speed: below it a number format is not tried


class Foretold(NamedTuple):
    """What is predicted for a candidate: its peak in GB, and tokens per second up to a factor."""

    peak_gb: float
    speed: float


Foretell = Callable[[RunConfig], Foretold]


class Surroundings(NamedTuple):
    """What candidates depend on beside the base.

    `fixed`: settings that the user gave. `formats`: GFLOP/s by number format, as measured. `longest`: tokens of the longest example.
    """

    fixed: Collection[str] = ()
    foretell: Foretell | None = None
    formats: Mapping[str, float] = MappingProxyType({})
    longest: int | None = None


UNKNOWN = Surroundings()


def candidates(base: RunConfig, seed: int, here: Surroundings = UNKNOWN, allowed_gb: float = float("inf")) -> list[RunConfig]:
    """The base and its neighbours: those that change least first, equally near ones in the seed's order.

    Micro-batches of 1, 2, 4 and 1/2 times the base's at its effective batch, with and without gradient checkpointing, one notch
    longer where an example is, without 4 bits where the base has them, and in the number formats that the device was measured to
    be fast at. Nothing that costs quality is tried for speed: shorter rows, 4 bits and fewer layers only where no neighbour is
    predicted to stay within `allowed_gb`; the base is then the first step down the ladder that has one. What the user gave stays
    as it is. Evaluation takes no more rows than a smaller micro-batch.
    """
    for start in _descent(base, here.fixed):
        found = _neighbourhood(start, seed, here)
        if here.foretell is None or any(here.foretell(config).peak_gb <= allowed_gb for config in found):
            return found
    return _neighbourhood(base, seed, here)


def _descent(base: RunConfig, fixed: Collection[str]) -> Iterator[RunConfig]:
    """The base, each step down its backend's ladder that leaves the fixed settings alone, and then fewer and fewer layers."""
    config: RunConfig | None = base
    while config is not None:
        yield config
        steps = (*(rung.step for rung in LADDERS[base.backend]), halve_layers)
        smaller = [_with_evaluation(each, base, fixed) for step in steps if (each := step(config)) is not None]
        config = next((each for each in smaller if not changed(config, each) & set(fixed)), None)


def _with_evaluation(config: RunConfig, base: RunConfig, fixed: Collection[str]) -> RunConfig:
    """With an evaluation batch that takes less than training does: without activations to keep, no more rows always do."""
    if "eval_batch_size" in fixed or config.batch_size >= base.batch_size:
        return config
    return config.replace(eval_batch_size=min(config.eval_batch_size, config.batch_size))


def changed(before: RunConfig, after: RunConfig) -> set[str]:
    return {name for name in PLANNED if getattr(before, name) != getattr(after, name)}


def _neighbourhood(base: RunConfig, seed: int, here: Surroundings) -> list[RunConfig]:
    values: dict[str, Sequence[object]] = {
        "batch_size": _batches(base, here.fixed),
        "max_seq_length": _lengths(base, here.longest),
        "gradient_checkpointing": [base.gradient_checkpointing, not base.gradient_checkpointing],
        "quantization": [base.quantization, *(["none"] if base.quantization == "4bit" else [])],
        "number_format": [base.number_format, *_fast_formats(base, here.formats)],
    }
    values |= {name: values[name][:1] for name in here.fixed if name in values}
    found = [base.replace(**dict(zip(CHOICES, choice, strict=True))) for choice in product(*(values[name] for name in CHOICES))]
    found = [config.replace(gradient_accumulation=base.effective_batch_size // config.batch_size) for config in found]
    neighbours = [_with_evaluation(config, base, here.fixed) for config in found if config != base]
    random.Random(seed).shuffle(neighbours)
    neighbours.sort(key=lambda config: len(changed(base, config) & set(CHOICES)))
    return [base, *neighbours]


def _batches(base: RunConfig, fixed: Collection[str]) -> list[int]:
    if "gradient_accumulation" in fixed:
        return [base.batch_size]
    sizes = [base.batch_size * factor for factor in BATCH_FACTORS]
    return [int(size) for size in sizes if size.is_integer() and base.effective_batch_size % size == 0]


def _lengths(base: RunConfig, longest: int | None) -> list[int]:
    longer = [notch for notch in LENGTHS if notch > base.max_seq_length][:1]
    return [base.max_seq_length, *(longer if longest is None or longest > base.max_seq_length else [])]


def _fast_formats(base: RunConfig, formats: Mapping[str, float]) -> list[str]:
    """fp32 and bf16, as far as they were measured to be fast; fp16 needs a gradient scaler, and is left to the profile."""
    fast = [name for name in ("fp32", "bf16") if formats.get(name, 0.0) >= SLOW_FORMAT * max(formats.values(), default=0.0) > 0.0]
    return [name for name in fast if name != base.number_format]
