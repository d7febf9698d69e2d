"""Which settings train fastest here: candidates around the profile, the best by prediction tried for a few steps, the best one chosen.

Candidates, their order and the breaking of ties follow from the seed; tokens per second and memory are measured.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from gswa.candidates import PLANNED, UNKNOWN, Foretell, Surroundings, candidates
from gswa.config import EFFECTIVE_BATCH, RunConfig, settings_in_words
from gswa.errors import DataError, OutOfMemory, TrainingError
from gswa.records import Plan, Trial

# At the margin itself a plan keeps 0.9 of its score, so that the one chosen is never slower than 0.9 of the fastest.
SCORE_AT_MARGIN = 0.9
OUT_OF_MEMORY, NOT_TRIED = "out of memory", "not tried"


class Measured(NamedTuple):
    """What one dry run showed: non-padding tokens per second, and the peak in GB over loading, training, evaluation and saving.

    `at` says when, of one that was taken from an earlier plan.
    """

    tokens_per_sec: float
    peak_memory_gb: float
    at: str = ""


DryRun = Callable[[RunConfig, float], Measured]  # settings, seconds it may take


# -- scores --------------------------------------------------------------------------------------------------------------
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

    The figures are the measured ones; where no trial has any, the predicted ones. Rejected, with the reason and after the others:
    those that come with one, and those whose peak passes margin × memory. Ties go to the smaller peak, then to the earlier trial.
    `chosen` is None when nothing is left.
    """
    judged = [_within(trial, margin * memory_gb) for trial in trials]
    accepted = [trial for trial in judged if not trial.rejected]
    best = max((_speed(trial) for trial in accepted), default=0.0)
    scored = sorted((_scored(trial, best, margin * memory_gb) for trial in accepted), key=lambda trial: (-trial.score, _peak(trial)))
    return Plan(
        margin=margin,
        memory_gb=memory_gb,
        seed=seed,
        dry_run_steps=dry_run_steps,
        trials=(*scored, *(trial for trial in judged if trial.rejected)),
        chosen=scored[0].changes if scored else None,
    )


def _speed(trial: Trial) -> float:
    return trial.tokens_per_sec if trial.tokens_per_sec is not None else trial.predicted_speed or 0.0


def _peak(trial: Trial) -> float:
    return trial.peak_memory_gb if trial.peak_memory_gb is not None else trial.predicted_memory_gb or 0.0


def _within(trial: Trial, allowed_gb: float) -> Trial:
    """The trial itself, or rejected for its peak."""
    if trial.rejected or _peak(trial) <= allowed_gb:
        return trial
    kind = "peak" if trial.peak_memory_gb is not None else "predicted peak"
    return trial.model_copy(update={"rejected": f"{kind} {_peak(trial):.2f} GB is above the {allowed_gb:.2f} GB that the margin leaves"})


def _scored(trial: Trial, best: float, allowed_gb: float) -> Trial:
    """Scores from the figures; a trial without any keeps a score of 0."""
    effective = int(trial.changes["batch_size"] or 1) * int(trial.changes["gradient_accumulation"] or 1)
    factors = {
        "throughput_score": throughput_score(_speed(trial), best),
        "stability_score": stability_score(_peak(trial), allowed_gb),
        "effective_batch_factor": effective_batch_factor(effective),
    }
    score = factors["throughput_score"] * factors["stability_score"] * factors["effective_batch_factor"]
    return trial.model_copy(update={**factors, "score": score}) if best else trial


# -- the plan ------------------------------------------------------------------------------------------------------------
def plan(
    base: RunConfig,
    *,
    memory_gb: float,
    max_candidates: int,
    steps: int,
    max_seconds: float,
    seed: int,
    dry_run: DryRun | None,
    here: Surroundings = UNKNOWN,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Try the best `max_candidates` by prediction with `dry_run`, which runs one in a child for `steps` steps, and rank them.

    Candidates predicted to pass the margin are not tried. A dry run that fails (TrainingError, OutOfMemory, DataError) is a
    rejected trial with its reason. None starts that could not end within `max_seconds`, taking the longest so far for its
    length; each may take half of what is left, the last one all of it. Without `dry_run`, and where none of them came to an
    end in time, the prediction decides; where nothing is foretold too the base is chosen, and the others are listed as not tried.
    """
    allowed = base.margin * memory_gb
    trials = [_foretold(config, here.foretell) for config in candidates(base, seed, here, allowed)]
    ranked = rank(trials, memory_gb, base.margin, seed, 0).trials
    hopeful, hopeless = [t for t in ranked if not t.rejected], [t for t in ranked if t.rejected]
    if dry_run is None:
        best, rest = (hopeful, []) if here.foretell else (hopeful[:1], hopeful[1:])
        return rank([*best, *_untried(rest, "no dry runs were asked for"), *hopeless], memory_gb, base.margin, seed, 0)
    tried = list(_try_all(hopeful[:max_candidates], base, dry_run, max_seconds, clock))
    if not any(trial.tokens_per_sec for trial in tried) and here.foretell:
        tried = [trial.model_copy(update={"rejected": ""}) if trial.rejected.startswith(NOT_TRIED) else trial for trial in tried]
    rest = _untried(hopeful[max_candidates:], f"{max_candidates} others are predicted to be better")
    return rank([*tried, *rest, *hopeless], memory_gb, base.margin, seed, steps)


def _foretold(config: RunConfig, foretell: Foretell | None) -> Trial:
    changes = {name: getattr(config, name) for name in PLANNED}
    if foretell is None:
        return Trial(changes=changes)
    found = foretell(config)
    return Trial(changes=changes, predicted_memory_gb=found.peak_gb, predicted_speed=found.speed)


def _untried(trials: Iterable[Trial], reason: str) -> list[Trial]:
    return [trial.model_copy(update={"rejected": f"{NOT_TRIED}: {reason}"}) for trial in trials]


def _try_all(trials: list[Trial], base: RunConfig, dry_run: DryRun, max_seconds: float, clock: Callable[[], float]) -> Iterator[Trial]:
    start, longest = clock(), 0.0
    for number, trial in enumerate(trials):
        began = clock()
        left = max_seconds - (began - start)
        if number and left < longest:
            yield from _untried([trial], f"out of time ({max_seconds:g} s for all dry runs)")
            continue
        tried = _try(trial, base.replace(**trial.changes), dry_run, left if trial is trials[-1] else left / 2)
        if tried.tokens_per_sec is not None:  # how long one hung says nothing of the others
            longest = max(longest, clock() - began)
        yield tried


def _try(trial: Trial, config: RunConfig, dry_run: DryRun, seconds: float) -> Trial:
    try:
        measured = dry_run(config, seconds)
    except OutOfMemory as error:
        reason = f"{OUT_OF_MEMORY} ({error.phase}, step {error.step}): {error}"
        return trial.model_copy(update={"peak_memory_gb": error.peak_memory_gb, "rejected": reason})
    except (TrainingError, DataError) as error:
        return trial.model_copy(update={"rejected": str(error) or type(error).__name__})
    return trial.model_copy(
        update={"tokens_per_sec": measured.tokens_per_sec, "peak_memory_gb": measured.peak_memory_gb, "measured_at": measured.at}
    )


# -- for people ----------------------------------------------------------------------------------------------------------
def refusal(plan: Plan) -> str:
    """Why nothing was chosen: what is missing and by how much, or what each dry run died of; '' when something was."""
    if plan.chosen is not None:
        return ""
    allowed = plan.margin * plan.memory_gb
    peaks = [_peak(trial) for trial in plan.trials if _peak(trial) > allowed]
    if not peaks:
        tried = [trial for trial in plan.trials if not trial.rejected.startswith(NOT_TRIED)]
        return "\n".join(["no candidate could be trained:", *(f"  {settings_in_words(t.changes)}: {t.rejected}" for t in tried)])
    measured = all(trial.peak_memory_gb is not None for trial in plan.trials)
    return (
        f"no candidate fits: the smallest {'measured' if measured else 'predicted'} peak is {min(peaks):.2f} GB, "
        f"{min(peaks) - allowed:.2f} GB above the {allowed:.2f} GB that the margin of {plan.margin:.0%} leaves of {plan.memory_gb:.2f} GB"
    )


def is_short_of_memory(plan: Plan) -> bool:
    """Whether a candidate was rejected for its memory: as foretold, as measured, or since it ran out of it."""
    allowed = plan.margin * plan.memory_gb
    return any(_peak(trial) > allowed or trial.rejected.startswith(OUT_OF_MEMORY) for trial in plan.trials)


# Beside the table, in the terminal, the report and the dashboard: what the factors are.
EXPLAINED = (
    "score = throughput_score * stability_score * effective_batch_factor. Throughput: tokens per second over those of the fastest "
    "candidate that fits. Stability: 1 up to half of the memory that the margin leaves, then falling to 0.9 at all of it. Effective "
    "batch: its ratio to 8 sequences per step. Order and ties follow from the seed; tokens per second and peaks are measured."
)


def explained(plan: Plan) -> str:
    """Below the table: the factors, and the second opinion on the chosen candidate's memory."""
    if plan.counted_memory_gb is None:
        return EXPLAINED
    return f"{EXPLAINED} The chosen one's peak, counted on tensors without data: {plan.counted_memory_gb:.2f} GB."


COLUMNS = ("", "settings", "predicted peak", "measured peak", "predicted speed", "tok/s", "score", "verdict")


def plan_table(plan: Plan) -> list[list[str]]:
    """A header and a row per trial, for the terminal, the report and the artifact."""
    fastest = max((trial.predicted_speed or 0.0 for trial in plan.trials if not trial.rejected), default=0.0)
    rows = (_row(number, trial, fastest, trial.changes == plan.chosen) for number, trial in enumerate(plan.trials, start=1))
    return [list(COLUMNS), *rows]


def _row(number: int, trial: Trial, fastest: float, chosen: bool) -> list[str]:
    factors = f"{trial.throughput_score:.2f} × {trial.stability_score:.2f} × {trial.effective_batch_factor:.2f} = {trial.score:.3f}"
    relative = trial.predicted_speed / fastest if trial.predicted_speed and fastest else None
    return [
        str(number),
        settings_in_words(trial.changes),
        _shown(trial.predicted_memory_gb, ".2f", " GB"),
        _shown(trial.peak_memory_gb, ".2f", " GB"),
        _shown(relative, ".2f", " ×"),
        _shown(trial.tokens_per_sec, ",.1f"),
        factors if trial.score and not trial.rejected else "–",
        _verdict(trial, chosen),
    ]


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def _verdict(trial: Trial, chosen: bool) -> str:
    if trial.rejected:
        reason = trial.rejected.splitlines()[0]
        return reason if reason.startswith(NOT_TRIED) else f"rejected: {reason}"
    known = f"measured {trial.measured_at}" if trial.measured_at else ""
    if trial.tokens_per_sec is None:
        known = "by prediction" if trial.score else "not measured"
    return ("chosen" if chosen else "fits") + (f", {known}" if known else "")
