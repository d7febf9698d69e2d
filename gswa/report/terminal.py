"""What the terminal shows: the progress line, the ASCII loss curve, the metrics summary, the list of runs."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence

from pydantic import ValidationError

from gswa.files import read_new_lines
from gswa.records import Evaluation, RunSummary, StepMetrics
from gswa.report.findings import change, gb
from gswa.report.measures import headline
from gswa.rundir import RunDir


def progress_line(step: StepMetrics, total_steps: int) -> str:
    """The guide's `[ 25.0%] Step   250: Loss=1.8234 | 456.7 tok/s | 12.3GB`; without the share where the total is unknown (0)."""
    share = f"[{100 * step.step / total_steps:5.1f}%] " if total_steps > 0 else ""
    return f"{share}Step {step.step:5d}: Loss={step.train_loss:.4f} | {step.tokens_per_sec:.1f} tok/s | {step.peak_memory_gb:.1f}GB"


def ascii_loss_curve(steps: Sequence[StepMetrics], width: int = 32, height: int = 8) -> str:
    """Train loss over time as a filled curve in a box of `width` by `height` characters.

    A column is the mean of the steps that fall into it; the first line gives the lowest and the highest column.
    """
    columns = _columns([step.train_loss for step in steps], width - 2) if steps else []
    finite = [loss for loss in columns if math.isfinite(loss)]
    if not finite:
        return "Loss: no steps recorded" if not steps else f"Loss: not a number in any of {len(steps)} steps"
    low, high = min(finite), max(finite)
    levels = [_level(loss, low, high, height) for loss in columns]
    rows = ["│ " + "".join("█" if level >= row else " " for level in levels) + " │" for row in range(height, 0, -1)]
    broken = sum(not math.isfinite(step.train_loss) for step in steps)
    lost = f" ({broken} of {len(steps)} steps not a number)" if broken else ""
    first, last = f" Step {steps[0].step}", f"Step {steps[-1].step}"
    return "\n".join(
        [
            f"Loss: {low:.3f} - {high:.3f}{lost}",
            "┌" + "─" * width + "┐",
            *rows,
            "└" + "─" * width + "┘",
            first + last.rjust(max(width + 3 - len(first), len(last) + 1)),
        ]
    )


def _columns(losses: Sequence[float], columns: int) -> list[float]:
    """`columns` means of neighbours, in order; a loss is repeated where there are fewer losses than columns."""
    means = []
    for column in range(columns):
        start = column * len(losses) // columns
        end = max(start + 1, (column + 1) * len(losses) // columns)
        finite = [loss for loss in losses[start:end] if math.isfinite(loss)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def _level(loss: float, low: float, high: float, height: int) -> int:
    """Rows to fill, 1 for the smallest loss; 0 where there is none."""
    if math.isnan(loss):
        return 0
    return 1 + round((loss - low) / (high - low) * (height - 1)) if high > low else 1


def metrics_summary(run: RunDir) -> str:
    """Losses, throughput, held-out before and after, peak memory: one line each, those that the run has."""
    rows = headline(run)
    width = max(len(label) for label, _ in rows)
    return "\n".join(["Metrics summary", *(f"  {label.ljust(width)}  {value}" for label, value in rows)])


def run_rows(summaries: Iterable[RunSummary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `list`, newest first as given."""
    return ["Run", "Status", "Model", "Steps", "Train loss", "Test loss", "Peak memory"], [_row(summary) for summary in summaries]


def _row(summary: RunSummary) -> list[str]:
    before, after = summary.test_loss_before, summary.test_loss_after
    return [
        summary.id,
        summary.status,
        summary.model,
        f"{summary.steps:,}",
        _loss(summary.train_loss),
        f"{_loss(before)} → {_loss(after)}" if before is not None and after is not None else _loss(before),
        "" if summary.peak_memory_gb is None else gb(summary.peak_memory_gb),
    ]


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def follow(run: RunDir, seconds: float = 0.5) -> Iterator[StepMetrics]:
    """Every step line of the run, those already there and then new ones as they come, until the run is no longer running.

    After a rung the steps since the last checkpoint come again, with the later attempt's number. Looks every `seconds`.
    """
    offset = 0
    while True:
        running = run.status() == "running"  # asked before reading, so that the last lines are not missed
        lines, offset = read_new_lines(run.train_steps_file, offset)
        for line in lines:
            try:
                yield StepMetrics.model_validate(line)
            except ValidationError:
                continue
        if not running:
            return
        time.sleep(seconds)


def watch(run: RunDir, seconds: float = 0.5) -> Iterator[str]:
    """A progress line per step of a live run; a new attempt is announced, and so is how the run ended."""
    attempt = 0
    for step in follow(run, seconds):
        if step.attempt != attempt and attempt:
            yield f"attempt {step.attempt}, from step {step.step}: {'; '.join(change(event) for event in run.fallbacks()[-1:])}".rstrip(
                ": "
            )
        attempt = step.attempt
        yield progress_line(step, run.metadata().get("total_steps") or 0)
    yield f"{run.id}: {run.status()}"


def evaluation_text(evaluation: Evaluation) -> str:
    """Held-out loss before and after, and the samples one under the other."""
    before, after = evaluation.test_loss_before, evaluation.test_loss_after
    if before is None or after is None:
        lines = ["Test loss: none, the data has no test split"]
    else:
        lines = [f"Test loss  {before:.4f} → {after:.4f} ({after - before:+.4f}) on {evaluation.test_tokens:,} tokens"]
    for number, sample in enumerate(evaluation.samples, 1):
        texts = (("Prompt", sample.prompt), ("Author", sample.author), ("Base", sample.base), ("Tuned", sample.tuned))
        lines += [
            "",
            f"Sample {number} of {len(evaluation.samples)}",
            *(f"  {name + ':':8}{' '.join(text.split())}" for name, text in texts),
        ]
    return "\n".join(lines)
