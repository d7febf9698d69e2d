"""What a run recorded, as tables of text for the page and the dashboard. A table whose data the run lacks is None."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gswa import planner
from gswa.records import LengthStats
from gswa.report.findings import gb
from gswa.report.measures import HELD_OUT, memory_limit_gb, padding_share, predicted_memory_gb
from gswa.rundir import RunDir

PROVENANCE = {
    "id": "Run",
    "created": "Created",
    "started": "Started",
    "ended": "Ended",
    "attempts": "Attempts",
    "model_id": "Base model",
    "model_revision": "Revision of the base model",
    "corpus_fingerprint": "Fingerprint of the corpus",
    "chosen_step": "Adapter taken after step",
    "batching": "Batching",
    "cross_entropy": "Cross-entropy",
    "git_commit": "Git commit",
    "flow_run_id": "Prefect flow run",
}


class Table(NamedTuple):
    """Cells as text; columns named in `numeric` are set flush right."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numeric: tuple[str, ...] = ()


def table(columns: Iterable[str], rows: Iterable[tuple[str, ...]], numeric: Iterable[str] = ()) -> Table | None:
    """None without rows."""
    kept = list(rows)
    return Table(tuple(columns), kept, tuple(numeric)) if kept else None


def held_out_table(run: RunDir) -> Table | None:
    """Tokens are those of the figures shown: of the test read back from adapters/ where that was done."""
    evaluation = run.evaluation()
    last = {"valid": run.evaluations("valid")[-1:], "test": run.evaluations("test")[-1:]}
    counts = {split: metrics.eval_tokens for split, found in last.items() for metrics in found}
    if evaluation is not None and evaluation.test_loss_after is not None:
        counts["test"] = evaluation.test_tokens
    losses = {split: measure(run) for split, measure in HELD_OUT.items()}
    rows = [_held_out(split, before, after, counts.get(split)) for split, (before, after) in losses.items() if before is not None]
    columns = ("Documents", "Loss before", "Loss after", "Difference", "Perplexity before", "Perplexity after", "Tokens")
    return table(columns, rows, columns[1:])


def _held_out(split: str, before: float, after: float | None, tokens: int | None) -> tuple[str, ...]:
    def shown(value: float | None, form: str = ".4f") -> str:
        return "" if value is None else format(value, form)

    difference = None if after is None else after - before
    return (
        "valid (chooses the checkpoint)" if split == "valid" else "test (only reported)",
        shown(before),
        shown(after),
        shown(difference, "+.4f"),
        _perplexity(before),
        "" if after is None else _perplexity(after),
        shown(tokens, ","),
    )


def _perplexity(loss: float) -> str:
    return f"{math.exp(loss):,.1f}" if loss < 700 else "over 1e300"


def evaluations_table(run: RunDir) -> Table | None:
    measured = sorted([*run.evaluations("valid"), *run.evaluations("test")], key=lambda metrics: (metrics.step, metrics.split != "valid"))
    rows = [
        (f"{m.step:,}", m.split, f"{m.eval_loss:.4f}", f"{m.perplexity:,.1f}", f"{m.eval_tokens:,}", gb(m.peak_memory_gb)) for m in measured
    ]
    columns = ("After step", "Split", "Loss", "Perplexity", "Tokens", "Peak memory")
    return table(columns, rows, ("After step", *columns[2:]))


def fallbacks_table(run: RunDir) -> Table | None:
    rows = [
        (
            event.time[:19].replace("T", " "),
            f"{event.phase}, step {event.step} of attempt {event.attempt}",
            _settings(event.before),
            _settings(event.after),
            event.reason,
            "" if event.peak_memory_gb is None else gb(event.peak_memory_gb),
        )
        for event in run.fallbacks()
    ]
    return table(("Time", "Where", "Before", "After", "Reason", "Peak memory"), rows, ("Peak memory",))


def memory_table(run: RunDir) -> Table | None:
    measured, predicted, limit = run.summary().peak_memory_gb, predicted_memory_gb(run), memory_limit_gb(run)
    if measured is None:
        return None
    rows = [("Measured peak", gb(measured), f"{100 * measured / limit:.0f} % of the limit" if limit else "")]
    if predicted:
        rows.append(
            ("Predicted peak", gb(predicted), f"{100 * (predicted - measured) / measured:+.0f} % off the measured one" if measured else "")
        )
    plan = run.plan()
    if plan is not None and plan.counted_memory_gb is not None and not run.fallbacks():
        counted = plan.counted_memory_gb
        rows.append(
            ("Counted on tensors without data", gb(counted), f"{100 * (counted - measured) / measured:+.0f} % off the measured one")
        )
    if limit:
        rows.append(("Limit", gb(limit), ""))
    return table(("Memory", "Size", "Share"), rows, ("Size",))


def plan_table(run: RunDir) -> Table | None:
    plan = run.plan()
    if plan is None:
        return None
    header, *rows = planner.plan_table(plan)
    return table(header, map(tuple, rows), ("predicted peak", "measured peak", "predicted speed", "tok/s", "score"))


def lengths_table(run: RunDir) -> Table | None:
    """One row per split and state, `all` last."""
    stats = run.length_stats()
    rows = [row for split in sorted(stats, key=_split_order) for row in _lengths(split, stats[split])]
    columns = (
        "Split",
        "State",
        "Count",
        "Min",
        "Median",
        "p90",
        "p95",
        "p99",
        "Max",
        "Tokens",
        "Over the limit",
        "Would be cut",
        "Per example",
    )
    return table(columns, rows, columns[2:])


def _split_order(split: str) -> int:
    known = ("train", "valid", "test")
    return known.index(split) if split in known else len(known)


def _lengths(split: str, stats: LengthStats) -> list[tuple[str, ...]]:
    states = (
        ("before", stats.before, stats.over_limit_before, stats.truncated_percent_before, 1.0),
        ("after", stats.after, stats.over_limit_after, stats.truncated_percent_after, stats.chunks_per_example),
    )
    return [
        (
            split,
            state,
            f"{q.count:,}",
            *(f"{value:,.0f}" for value in (q.min, q.median, q.p90, q.p95, q.p99, q.max)),
            f"{q.total:,}",
            f"{over:,}",
            f"{percent:.1f} %",
            f"{each:.2f}",
        )
        for state, q, over, percent, each in states
    ]


def set_aside_table(run: RunDir) -> Table | None:
    stats = run.length_stats().get("all")
    reasons = sorted(stats.set_aside_reasons.items()) if stats else []
    return table(("Set aside because", "Examples"), [(reason, f"{number:,}") for reason, number in reasons], ("Examples",))


def conservation_table(run: RunDir) -> Table | None:
    """What the check of the stored data counted; reasons are left to `set_aside_table`."""
    found = {name: value for name, value in run.conservation().items() if name != "set_aside"}
    return mapping_table(found, ("Checked on the stored data", "Found"))


def config_table(run: RunDir) -> Table | None:
    """Every setting, its value and where it came from; a setting that a rung changed shows both values."""
    if not run.config_file.is_file():
        return None
    settled, now = run.settled(), run.current_config().model_dump()
    rows = []
    for name, value in settled.config.model_dump().items():
        shown, origin = _value(value) or "unset", settled.origin.get(name, "default")
        if now[name] != value:
            shown, origin = f"{shown} → {_value(now[name])}", f"{origin}, then out of memory"
        rows.append((name, shown, origin))
    return table(("Setting", "Value", "From"), rows)


def environment_table(run: RunDir) -> Table | None:
    """Hardware and versions as the probe recorded them."""
    recorded = {name: value for name, value in run.hardware().items() if name != "schema_version"}
    versions = run.metadata().get("versions") or recorded.get("versions")
    content = {**recorded, **({"versions": versions} if versions else {})}
    return table(("What", "Recorded"), [(_label(name), _value(value)) for name, value in _flat(content) if _value(value)])


def provenance_table(run: RunDir) -> Table | None:
    metadata = run.metadata()
    rows = [(label, str(metadata[name])) for name, label in PROVENANCE.items() if metadata.get(name) not in (None, "")]
    padding = padding_share(run)
    rows += [] if padding is None else [("Padding", f"{100 * padding:.1f} % of all places in the batches")]
    return table(("What", "Recorded"), rows)


def exports_table(run: RunDir) -> Table | None:
    """One row per form that was exported: with what it was read back, and what could not be written and why."""
    exports = run.metadata().get("export") or {}
    rows = [
        (form, _value(report.get("files", ())), _value(report.get("checked", ())) or "not read back", _value(report.get("notes", ())))
        for form, report in exports.items()
        if isinstance(report, Mapping)
    ]
    return table(("Exported as", "Files", "Read back and checked", "Notes"), rows)


def prepared_table(run: RunDir) -> Table | None:
    """Counts of the examples made from the corpus."""
    content = run.metadata().get("data")
    return mapping_table(content, ("Prepared", "Count")) if isinstance(content, Mapping) else None


def mapping_table(content: Mapping[str, Any], columns: tuple[str, str]) -> Table | None:
    """Numbers in it are counts."""
    return table(columns, [(_label(name), f"{v:,}" if type(v) is int else _value(v)) for name, v in _flat(content) if _value(v)])


# -- text --------------------------------------------------------------------------------------------------------------
def _flat(content: Any, above: str = "") -> Iterable[tuple[str, Any]]:
    """('memory: total_gb', 7.6) … of nested mappings; lists of plain values stay one value."""
    entries: Iterable[tuple[Any, Any]]
    if isinstance(content, Mapping):
        entries = content.items()
    elif isinstance(content, list | tuple) and any(isinstance(value, Mapping) for value in content):
        entries = enumerate(content, 1)
    else:
        yield above, content
        return
    for name, value in entries:
        yield from _flat(value, f"{above}: {name}" if above else str(name))


def _label(name: str) -> str:
    return name.replace("_gb", " (GB)").replace("_", " ")


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in values.items()) or "as it was"


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
