"""The dashboard's `report` artifact: one markdown text with the plots inline."""

import base64
import re

from gswa.report import figures, tables
from gswa.report.measures import config_of, headline
from gswa.report.tables import Table
from gswa.report.terminal import ascii_loss_curve
from gswa.rundir import RunDir

DPI = 80  # four plots in about 100 KB: the dashboard keeps every version of an artifact
HIGHLIGHTS = (
    "model_id", "device", "batch_size", "gradient_accumulation", "max_seq_length", "num_layers", "lora_rank", "learning_rate",
    "epochs", "iters", "quantization", "gradient_checkpointing", "seed",
)  # fmt: skip


def report_markdown(run: RunDir) -> str:
    """Metrics, plots, out-of-memory events, settings, the ASCII curve and where the report lies. Text from outside is escaped."""
    fallbacks = tables.fallbacks_table(run)
    parts = [
        f"# {escaped(run.id)}",
        markdown_table(Table(("Metric", "Value"), headline(run))),  # type: ignore[arg-type]  # pairs are rows
        *(f"![{escaped(finding)}](data:image/png;base64,{content})" for finding, content in _plots(run)),
        *(["## Out of memory", markdown_table(fallbacks)] if fallbacks else []),
        *_settings(run),
        f"## Train loss\n\n```\n{ascii_loss_curve(run.steps())}\n```",
        f"Report: {code(str(run.report_file))}" if run.report_file.is_file() else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plots(run: RunDir) -> list[tuple[str, str]]:
    drawn = [draw(run) for draw in figures.PLOTS.values()]
    return [(figure.get_suptitle(), base64.b64encode(figures.png(figure, DPI)).decode()) for figure in drawn]


def _settings(run: RunDir) -> list[str]:
    every = tables.config_table(run)
    if config_of(run) is None or every is None:
        return []
    return ["## Settings", markdown_table(every._replace(rows=[row for row in every.rows if row[0] in HIGHLIGHTS]))]


def markdown_table(table: Table) -> str:
    marks = ["---:" if column in table.numeric else "---" for column in table.columns]
    rows = [table.columns, *table.rows]
    lines = ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join(marks) + " |", *lines[1:]])


def escaped(text: str) -> str:
    """On one line, with every character that markdown or HTML would read as its own made plain."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#!|~])", r"\\\1", plain)


def code(text: str) -> str:
    """Code text, fenced by more backticks than stand in it."""
    fence = "`" * (max((len(found) for found in re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"
