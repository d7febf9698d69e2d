"""What a run's records say, as numbers and one-line findings. Pure: no drawing, no files."""

import math
import statistics
from collections.abc import Sequence

from gswa.records import LengthStats, StepMetrics
from gswa.rundir import OomFallback

NO_STEPS = "No steps recorded"


def gb(value: float) -> str:
    """'12.3 GB', '0.41 GB' (GB of 2**30 bytes)."""
    return f"{value:,.1f} GB" if value >= 10 else f"{value:.2f} GB"


def elapsed(seconds: float) -> str:
    """'42 s', '3 min 20 s', '2 h 05 min'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def smoothing_window(steps: int) -> int:
    """Steps in the moving average: odd, about a tenth of the run, at most 51; 1 means that nothing is smoothed."""
    return min(51, steps // 10 | 1)


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Centred mean of `window` values, of fewer towards the ends so that they stay centred; what is not finite is passed over."""
    smooth = []
    for at in range(len(values)):
        half = min(window // 2, at, len(values) - 1 - at)
        near = [value for value in values[max(0, at - half) : at + half + 1] if math.isfinite(value)]
        smooth.append(sum(near) / len(near) if near else math.nan)
    return smooth


def direction(before: float, after: float) -> str:
    """'fell from 5.62 to 4.41'; 'stayed at 5.62' when the two print alike."""
    first, last = f"{before:.2f}", f"{after:.2f}"
    if first == last:
        return f"stayed at {first}"
    return f"{'fell' if after < before else 'rose'} from {first} to {last}"


def loss_finding(steps: Sequence[StepMetrics]) -> str:
    if not steps:
        return NO_STEPS
    first, last = steps[0], steps[-1]
    if not math.isfinite(last.train_loss):
        return f"Train loss is not a number at step {last.step}"
    if len(steps) == 1:
        return f"Train loss was {first.train_loss:.2f} in the only step recorded"
    return f"Train loss {direction(first.train_loss, last.train_loss)} in {count(len(steps), 'step')}"


def held_out_finding(split: str, before: float | None, after: float | None) -> str:
    """'' where nothing was measured."""
    if before is None:
        return ""
    return f"{split} loss {direction(before, after) if after is not None else f'was {before:.2f}'}"


def throughput_finding(steps: Sequence[StepMetrics]) -> str:
    if not steps:
        return NO_STEPS
    rates = [step.tokens_per_sec for step in steps]
    middle = f"Median throughput {statistics.median(rates):,.0f} tok/s"
    if len(steps) < 10:
        return middle if len(steps) > 1 else f"Throughput was {rates[0]:,.0f} tok/s in the only step recorded"
    tenths = statistics.quantiles(rates, n=10, method="inclusive")
    return f"{middle}; 8 of 10 steps within {tenths[0]:,.0f} to {tenths[-1]:,.0f}"


def memory_finding(peaks: Sequence[float], limit_gb: float | None) -> str:
    if not peaks:
        return NO_STEPS
    share = f", {100 * max(peaks) / limit_gb:.0f} % of the {gb(limit_gb)} it may use" if limit_gb else ""
    return f"Memory peaked at {gb(max(peaks))}{share}"


def length_finding(stats: LengthStats | None, limit: int | None) -> str:
    if stats is None or not stats.before.count:
        return "No lengths recorded"
    tokens = f"{limit:,} tokens" if limit else "the limit"
    if not stats.over_limit_before:
        return f"All {stats.before.count:,} examples fit into {tokens}"
    after = f"{stats.over_limit_after:,} still are" if stats.over_limit_after else "none is"
    return f"{stats.over_limit_before:,} of {stats.before.count:,} examples were over {tokens}; after splitting, {after}"


def change(event: OomFallback) -> str:
    """'batch_size 4 → 2, gradient_accumulation 2 → 4'."""
    return ", ".join(f"{name} {event.before.get(name)} → {value}" for name, value in event.after.items())
