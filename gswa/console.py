"""How the command line shows things: the library's log, with one live line for the steps on a terminal; tables; a finished run."""

import logging
import shlex
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from gswa.errors import GswaError, TrainingError
from gswa.rundir import RunDir
from gswa.workspace import Workspace

SECONDS_BETWEEN_LINES = 5.0  # of progress in a log; on a terminal every step is shown
NARROWEST = 30  # characters of a wrapped column


class Progress(logging.Handler):
    """Prints records of the `gswa` logger. One that carries `step` and `total` is progress, shown in place on a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.live: Live | None = None
        self.first: tuple[int, float] | None = None
        self.printed = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        step, total = getattr(record, "step", None), getattr(record, "total", None)
        if step is None or total is None:
            self.close_live()
            style = "yellow" if record.levelno >= logging.WARNING else ""
            self.console.print(Text(record.getMessage(), style=style))
            return
        line = f"{record.getMessage()} | {self._time_left(step, total)}"
        if self.console.is_terminal:
            if self.live is None:
                self.live = Live(console=self.console, refresh_per_second=4)
                self.live.start()
            self.live.update(Text(line))
        elif time.monotonic() - self.printed > SECONDS_BETWEEN_LINES or step in (1, total):
            self.printed = time.monotonic()
            self.console.print(Text(line))

    def _time_left(self, step: int, total: int) -> str:
        now = time.monotonic()
        if self.first is None or step <= self.first[0]:
            self.first = (step, now)
            return "-- left"
        seconds = round((now - self.first[1]) / (step - self.first[0]) * (total - step))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left"

    def close_live(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


@contextmanager
def shown(console: Console) -> Iterator[None]:
    """Show the library's log on this console while inside."""
    logger = logging.getLogger("gswa")
    handler = Progress(console)
    level, logger.level = logger.level, logging.INFO
    logger.addHandler(handler)
    try:
        yield
    finally:
        handler.close_live()
        logger.removeHandler(handler)
        logger.setLevel(level)


# -- tables ----------------------------------------------------------------------------------------------------------------
def table(header: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> list[str]:
    """Lines of columns two spaces apart. No cell is cut: the last one is wrapped to `width`, where there is one. No header, no line."""
    cells = [row for row in (header, *rows) if any(row)]
    widths = [2 + max(map(cell_len, column)) for column in list(zip(*cells, strict=True))[:-1]]
    lines = []
    for row in cells:
        left = "".join(set_cell_size(cell, size) for cell, size in zip(row[:-1], widths, strict=True))
        room = max(NARROWEST, width - sum(widths)) if width else len(row[-1]) + 1
        right = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [(start + part).rstrip() for start, part in zip(chain([left], repeat(" " * sum(widths))), right, strict=False)]
    return lines


def rows_of(record: Mapping[str, Any]) -> list[list[str]]:
    """A record's fields in words; what is empty or zero is left out."""
    return [[name.replace("_", " "), in_words(value)] for name, value in record.items() if value]


def in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{in_words(number)} {name}" for name, number in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "unset"}[value]
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def message(error: BaseException) -> str:
    if isinstance(error, GswaError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error} (a fault in GSWA; --debug shows where)"


# -- a finished run --------------------------------------------------------------------------------------------------------
def afterwards(run: RunDir) -> list[list[str]]:
    """Where its adapter and report lie, and what to do with them."""
    modelfile = run.adapters / "Modelfile"
    redo = f"none; make it with: python -m gswa.train visualize --run-dir {named(run)}"
    rows = [
        ["adapter", shown_path(run.adapters)],
        ["report", shown_path(run.report_file) if run.report_file.is_file() else redo],
        ["samples", f"python -m gswa.train evaluate --run-dir {named(run)}"],
    ]
    if modelfile.is_file():
        rows.append(["use it", f"ollama create gswa-gilles -f {shlex.quote(shown_path(modelfile))} && ollama run gswa-gilles"])
    return rows


def with_way_on(error: GswaError, runs: Iterable[RunDir]) -> GswaError:
    """With a note on what to do about each of the runs that it ended."""
    for run in runs:
        for line in way_on(run, error):
            error.add_note(line)
    return error


def way_on(run: RunDir, error: GswaError) -> list[str]:
    """What to do about a run that did not come to its end: `resume` takes no settings, so it helps where the run was not to blame."""
    status = run.status()
    lines = [f"what training printed: {shown_path(run.output_log)}"] if status == "failed" and run.output_log.is_file() else []
    outside = type(error) is TrainingError or "trained" in run.metadata()  # the child was killed, a disk was full; or it is what follows
    if status == "interrupted" or (status == "failed" and outside and any(run.checkpoints.glob("checkpoint-*"))):
        lines.append(f"continue it with: python -m gswa.train resume {named(run)}")
    elif status == "failed" and run.output_log.is_file():
        anew = f"python -m gswa.train train --config {shlex.quote(shown_path(run.config_file))}"
        lines.append(f"resume takes the same settings and would end in the same way; with others, given as flags: {anew}")
    return lines


def named(run: RunDir) -> str:
    """What a command line calls the run: its id, or its folder where that is not among the project's runs."""
    return run.id if run.path.parent == Workspace().runs else shlex.quote(shown_path(run.path))


def shown_path(path: Path) -> str:
    """Relative to the current folder where it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
