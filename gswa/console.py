"""How the command line shows what the library logs: lines, and one live line for the steps on a terminal."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0  # of progress in a log; on a terminal every step is shown


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
