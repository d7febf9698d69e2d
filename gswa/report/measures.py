"""Single figures of a run, each from its records: limits, peaks, losses, time. None where the run has none."""

import statistics
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

from pydantic import ValidationError

from gswa.config import RunConfig
from gswa.hardware import Hardware
from gswa.report.findings import change, count, elapsed, gb
from gswa.rundir import RunDir


def config_of(run: RunDir) -> RunConfig | None:
    """The configuration as it is now; None before one was settled."""
    return run.current_config() if run.config_file.is_file() else None


def memory_limit_gb(run: RunDir) -> float | None:
    """What the run may use: the limit it was given, else what the probe found. None where neither is recorded."""
    config = config_of(run)
    if config is not None and config.memory_limit_gb is not None:
        return config.memory_limit_gb
    try:
        return Hardware.model_validate(run.hardware()).memory_gb if run.hardware() else None
    except ValidationError:  # of another version: the rest of the report does not need it
        return None


def padding_share(run: RunDir) -> float | None:
    """Of all places in the training batches, those that held no token."""
    steps = run.steps()
    tokens = [after - before for before, after in pairwise([0, *(step.trained_tokens for step in steps)])]
    places = sum(count / (1 - step.padding_fraction) for count, step in zip(tokens, steps, strict=True) if step.padding_fraction < 1)
    return 1 - sum(tokens) / places if places else None


def predicted_memory_gb(run: RunDir) -> float | None:
    """Peak predicted for the configuration that ran to the end: metadata's, else the chosen plan's. None where nobody predicted."""
    predicted = run.metadata().get("predicted_memory_gb")
    if isinstance(predicted, int | float):
        return float(predicted)
    plan = run.plan()
    chosen = [trial for trial in plan.trials if trial.changes == plan.chosen] if plan and not run.fallbacks() else []
    return chosen[0].predicted_memory_gb if chosen else None


def seconds_taken(run: RunDir) -> float | None:
    """From start to end by the clock; to the last step of a run that has no end yet."""
    metadata, steps = run.metadata(), run.steps()
    end = metadata.get("ended") or (steps[-1].timestamp if steps else None)
    if not metadata.get("started") or not end:
        return None
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(metadata["started"])).total_seconds()
    except (TypeError, ValueError):
        return None


def losses_on_test(run: RunDir) -> tuple[float | None, float | None]:
    """Before and after: computed anew from adapters/ where that was done, else as measured in training."""
    evaluation, summary = run.evaluation(), run.summary()
    if evaluation is not None and evaluation.test_loss_after is not None:
        return evaluation.test_loss_before, evaluation.test_loss_after
    return summary.test_loss_before, summary.test_loss_after


def losses_on_valid(run: RunDir) -> tuple[float | None, float | None]:
    """Before training, and of the checkpoint that became the adapter; after is None while there is one evaluation only."""
    summary = run.summary()
    return summary.valid_loss_before, summary.valid_loss_after if len(run.evaluations("valid")) > 1 else None


HELD_OUT: dict[str, Callable[[RunDir], tuple[float | None, float | None]]] = {"valid": losses_on_valid, "test": losses_on_test}


def headline(run: RunDir) -> list[tuple[str, str]]:
    """The metrics summary: label and value, of what the run has."""
    summary, fallbacks = run.summary(), run.fallbacks()
    held_out = [(f"Held-out loss, {split}", _before_after(*losses(run))) for split, losses in HELD_OUT.items()]
    peak = summary.peak_memory_gb
    rows = [
        ("Status", summary.status),
        *_training_figures(run),
        *held_out,
        ("Time", _elapsed(seconds_taken(run))),
        ("Peak memory", "" if peak is None else _memory(peak, predicted_memory_gb(run), memory_limit_gb(run))),
        ("Out of memory", f"{count(len(fallbacks), 'time')}: {'; '.join(map(change, fallbacks))}" if fallbacks else ""),
    ]
    return [(label, value) for label, value in rows if value]


def _training_figures(run: RunDir) -> list[tuple[str, str]]:
    steps = run.steps()
    if not steps:
        return []
    losses, rates = [step.train_loss for step in steps], [step.tokens_per_sec for step in steps]
    return [
        ("Train loss", f"{losses[-1]:.4f} final · {min(losses):.4f} min · {statistics.fmean(losses):.4f} mean"),
        ("Throughput", f"{statistics.median(rates):,.0f} tok/s median · {min(rates):,.0f} min · {max(rates):,.0f} max"),
        ("Trained", f"{count(len(steps), 'step')} · {steps[-1].trained_tokens:,} tokens"),
    ]


def _elapsed(seconds: float | None) -> str:
    return "" if seconds is None else elapsed(seconds)


def _before_after(before: float | None, after: float | None) -> str:
    if before is None:
        return ""
    return f"{before:.4f}" if after is None else f"{before:.4f} → {after:.4f} ({after - before:+.4f})"


def _memory(peak: float, predicted: float | None, limit: float | None) -> str:
    beside = [f"predicted {gb(predicted)}"] if predicted else []
    beside += [f"limit {gb(limit)}"] if limit else []
    return gb(peak) + (f" ({', '.join(beside)})" if beside else "")
