"""Which settings train fastest here: candidates around the profile, each tried for a few steps, the best one chosen.

Candidates, their order and the breaking of ties follow from the seed; tokens per second and memory are measured.
"""

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import product
from typing import NamedTuple

from gswa.config import EFFECTIVE_BATCH, RunConfig
from gswa.errors import DataError, OutOfMemory, TrainingError
from gswa.records import Plan, Trial

# What a plan settles, all of it: a batch size without the evaluation batch measured beside it would be another plan.
PLANNED = ("batch_size", "gradient_accumulation", "eval_batch_size", "max_seq_length", "gradient_checkpointing")
BATCH_FACTORS = (1.0, 2.0, 4.0, 0.5)
LENGTHS = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)  # tokens; one notch is a step to a neighbour
NOT_MEASURED = "not tried: no dry runs were asked for"
# At the margin itself a plan keeps 0.9 of its score, so that the one chosen is never slower than 0.9 of the fastest.
SCORE_AT_MARGIN = 0.9


class Measured(NamedTuple):
    """What one dry run showed: non-padding tokens per second, and the peak in GB over training and evaluation."""

    tokens_per_sec: float
    peak_memory_gb: float


DryRun = Callable[[RunConfig], Measured]


# -- candidates --------------------------------------------------------------------------------------------------------
def candidates(base: RunConfig, max_candidates: int, seed: int, fixed: Collection[str] = ()) -> list[RunConfig]:
    """The base first, then its neighbours, those that change least first; equally near ones in the seed's order.

    Micro-batches of 1, 2, 4 and 1/2 times the base's at its effective batch, with and without gradient checkpointing, one
    notch shorter and longer. Settings named in `fixed`, those the user gave, stay as they are.
    """
    shapes = product(_batches(base, fixed), _checkpointing(base, fixed), _lengths(base, fixed))
    neighbours = [
        base.replace(
            batch_size=batch, gradient_accumulation=base.effective_batch_size // batch, gradient_checkpointing=on, max_seq_length=n
        )
        for batch, on, n in shapes
    ]
    neighbours = [config for config in neighbours if config != base]
    random.Random(seed).shuffle(neighbours)
    neighbours.sort(key=lambda config: _distance(config, base))
    return [base, *neighbours][: max(1, max_candidates)]


def _batches(base: RunConfig, fixed: Collection[str]) -> list[int]:
    if "batch_size" in fixed or "gradient_accumulation" in fixed:
        return [base.batch_size]
    sizes = [base.batch_size * factor for factor in BATCH_FACTORS]
    return [int(size) for size in sizes if size.is_integer() and base.effective_batch_size % size == 0]


def _checkpointing(base: RunConfig, fixed: Collection[str]) -> list[bool]:
    on = base.gradient_checkpointing
    return [on] if "gradient_checkpointing" in fixed else [on, not on]


def _lengths(base: RunConfig, fixed: Collection[str]) -> list[int]:
    length = base.max_seq_length
    if "max_seq_length" in fixed:
        return [length]
    shorter = [notch for notch in LENGTHS if notch < length][-1:]
    longer = [notch for notch in LENGTHS if notch > length][:1]
    return [length, *shorter, *longer]


def _distance(config: RunConfig, base: RunConfig) -> int:
    """How many of the three choices differ."""
    return sum(getattr(config, name) != getattr(base, name) for name in ("batch_size", "gradient_checkpointing", "max_seq_length"))


# -- scores ------------------------------------------------------------------------------------------------------------
def throughput_score(tokens_per_sec: float, best: float) -> float:
    """Tokens per second over those of the fastest trial that was not rejected: 1 for that one."""
    return tokens_per_sec / best if best > 0 else 0.0


def stability_score(peak_memory_gb: float, allowed_gb: float) -> float:
    """Head-room below the allowed memory (margin × memory): 1 up to half of it, then falling linearly to 0.9 at all of it."""
    used = peak_memory_gb / allowed_gb
    return 1.0 - (1.0 - SCORE_AT_MARGIN) * min(1.0, max(0.0, 2.0 * used - 1.0))


def effective_batch_factor(effective_batch_size: float) -> float:
    """How near the effective batch is to 8 sequences per step, as a ratio: 1 at 8, one half at 4 (noisy) and at 16 (few steps)."""
    return min(effective_batch_size, EFFECTIVE_BATCH) / max(effective_batch_size, EFFECTIVE_BATCH)


def rank(trials: Iterable[Trial], memory_gb: float, margin: float, seed: int, dry_run_steps: int) -> Plan:
    """Trials best first: score = throughput_score * stability_score * effective_batch_factor.

    Rejected, with the reason and after the others: those that come with one, and those whose peak passes margin × memory.
    Ties go to the smaller peak, then to the earlier trial. `chosen` is None when nothing is left.
    """
    judged = [_within(trial, margin * memory_gb) for trial in trials]
    best = max((trial.tokens_per_sec or 0.0 for trial in judged if not trial.rejected), default=0.0)
    scored = [trial if trial.rejected else _scored(trial, best, margin * memory_gb) for trial in judged]
    accepted = sorted((trial for trial in scored if not trial.rejected), key=lambda trial: (-trial.score, trial.peak_memory_gb or 0.0))
    return Plan(
        margin=margin,
        memory_gb=memory_gb,
        seed=seed,
        dry_run_steps=dry_run_steps,
        trials=(*accepted, *(trial for trial in scored if trial.rejected)),
        chosen=accepted[0].changes if accepted else None,
    )


def _within(trial: Trial, allowed_gb: float) -> Trial:
    """The trial itself, or rejected for its peak."""
    peak = trial.peak_memory_gb
    if trial.rejected or peak is None or peak <= allowed_gb:
        return trial
    return trial.model_copy(update={"rejected": f"peak {peak:.2f} GB is above the {allowed_gb:.2f} GB that the margin leaves"})


def _scored(trial: Trial, best: float, allowed_gb: float) -> Trial:
    """Scores from the figures; a trial without figures keeps a score of 0."""
    if trial.tokens_per_sec is None or trial.peak_memory_gb is None:
        return trial
    effective = int(trial.changes["batch_size"] or 1) * int(trial.changes["gradient_accumulation"] or 1)
    factors = {
        "throughput_score": throughput_score(trial.tokens_per_sec, best),
        "stability_score": stability_score(trial.peak_memory_gb, allowed_gb),
        "effective_batch_factor": effective_batch_factor(effective),
    }
    score = factors["throughput_score"] * factors["stability_score"] * factors["effective_batch_factor"]
    return trial.model_copy(update={**factors, "score": score})


# -- the plan ----------------------------------------------------------------------------------------------------------
def plan(
    base: RunConfig,
    *,
    memory_gb: float,
    max_candidates: int,
    steps: int,
    max_seconds: float,
    seed: int,
    dry_run: DryRun | None,
    fixed: Collection[str] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Try the candidates with `dry_run`, which runs one in a child for `steps` steps, and rank them by what it measured.

    A dry run that fails (TrainingError, OutOfMemory, DataError) is a rejected trial with its reason. No dry run starts that
    could not end within `max_seconds`, taking the longest so far for its length; the first one always starts. Without
    `dry_run` nothing is known of the candidates, so that the base is chosen and the others are listed as not tried.
    """
    configs = candidates(base, max_candidates, seed, fixed)
    if dry_run is None:
        trials = [Trial(changes=_changes(config), rejected=NOT_MEASURED if number else "") for number, config in enumerate(configs)]
        return rank(trials, memory_gb, base.margin, seed, 0)
    return rank(_try_all(configs, dry_run, max_seconds, clock), memory_gb, base.margin, seed, steps)


def _try_all(configs: list[RunConfig], dry_run: DryRun, max_seconds: float, clock: Callable[[], float]) -> Iterator[Trial]:
    start, longest = clock(), 0.0
    for number, config in enumerate(configs):
        began = clock()
        if number and began - start + longest > max_seconds:
            yield Trial(changes=_changes(config), rejected=f"not tried: out of time ({max_seconds:g} s for all dry runs)")
            continue
        yield _try(config, dry_run)
        longest = max(longest, clock() - began)


def _try(config: RunConfig, dry_run: DryRun) -> Trial:
    changes = _changes(config)
    try:
        measured = dry_run(config)
    except OutOfMemory as error:
        reason = f"out of memory ({error.phase}, step {error.step}): {error}"
        return Trial(changes=changes, peak_memory_gb=error.peak_memory_gb, rejected=reason)
    except (TrainingError, DataError) as error:
        return Trial(changes=changes, rejected=str(error) or type(error).__name__)
    return Trial(changes=changes, tokens_per_sec=measured.tokens_per_sec, peak_memory_gb=measured.peak_memory_gb)


def _changes(config: RunConfig) -> dict[str, int | float | str | bool | None]:
    return {name: getattr(config, name) for name in PLANNED}


# -- for people --------------------------------------------------------------------------------------------------------
def refusal(plan: Plan) -> str:
    """Why nothing was chosen, and what would help; '' when something was."""
    if plan.chosen is not None:
        return ""
    allowed = plan.margin * plan.memory_gb
    peaks = [trial.peak_memory_gb for trial in plan.trials if trial.peak_memory_gb is not None and trial.peak_memory_gb > allowed]
    if not peaks:
        return f"no candidate could be trained; the first one: {plan.trials[0].rejected}"
    return (
        f"no candidate fits: the smallest measured peak is {min(peaks):.2f} GB, {min(peaks) - allowed:.2f} GB above the {allowed:.2f} GB "
        f"that the margin of {plan.margin:.0%} leaves of {plan.memory_gb:.2f} GB; choose a smaller --model or --max-seq-length, "
        "or close other programs"
    )


def plan_table(plan: Plan) -> list[list[str]]:
    """A header and a row per trial, for the terminal, the report and the artifact."""
    header = ["", "batch", "tokens", "checkpointing", "tok/s", "peak", "throughput", "stability", "effective batch", "score", "verdict"]
    return [header, *(_row(number, trial, trial.changes == plan.chosen) for number, trial in enumerate(plan.trials, start=1))]


def _row(number: int, trial: Trial, chosen: bool) -> list[str]:
    setting, measured = trial.changes, trial.tokens_per_sec is not None
    scores = (trial.throughput_score, trial.stability_score, trial.effective_batch_factor, trial.score)
    return [
        str(number),
        f"{setting['batch_size']} × {setting['gradient_accumulation']}",
        f"{setting['max_seq_length']:,}",
        "on" if setting["gradient_checkpointing"] else "off",
        f"{trial.tokens_per_sec:,.1f}" if measured else "–",
        f"{trial.peak_memory_gb:.2f} GB" if trial.peak_memory_gb is not None else "–",
        *(f"{score:.3f}" if measured and not trial.rejected else "–" for score in scores),
        _verdict(trial, chosen),
    ]


def _verdict(trial: Trial, chosen: bool) -> str:
    if trial.rejected:
        reason = trial.rejected.splitlines()[0]
        return reason if reason.startswith("not tried") else f"rejected: {reason}"
    if trial.tokens_per_sec is None:
        return "chosen as it is: not measured"
    return "chosen" if chosen else "fits"
