"""Every path outside a run. The project's folder is the current one, or GSWA_HOME."""

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gswa.errors import ConfigError
from gswa.rundir import RunDir

SAMPLE_CORPUS = Path("data") / "sample_corpus"

log = logging.getLogger("gswa")


def _home() -> Path:
    return Path(os.environ.get("GSWA_HOME") or Path.cwd()).resolve()


def _readable(run: Path) -> bool:
    try:
        RunDir(run).metadata()
    except ConfigError as error:
        _warn_once(f"{error} It is passed over.")
        return False
    return True


@functools.cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def cache() -> Path:
    """What can be made anew and serves every project of this user: fetched and quantised base models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gswa"


@dataclass(frozen=True)
class Workspace:
    """Names and places under the project's folder. Reading creates nothing."""

    root: Path = field(default_factory=_home)

    @property
    def corpus(self) -> Path:
        """The author's papers; `important_examples/` in it holds the priority ones."""
        return self.root / "data" / "corpus" / "raw"

    @property
    def sample_corpus(self) -> Path:
        return self.root / SAMPLE_CORPUS

    @property
    def parsed(self) -> Path:
        return self.root / "data" / "corpus" / "parsed"

    @property
    def recipe(self) -> Path:
        """How examples are made."""
        return self.root / "configs" / "examples.yaml"

    @property
    def pairs(self) -> Path:
        """Plain versions of passages, by who wrote them."""
        return self.root / "data" / "pairs"

    @property
    def training(self) -> Path:
        return self.root / "data" / "training"

    def preprocessed(self, max_seq_length: int) -> Path:
        return self.root / "data" / "preprocessed" / str(max_seq_length)

    @property
    def plan(self) -> Path:
        return self.root / "data" / "plan.json"

    @property
    def calibration(self) -> Path:
        """What memory was predicted and measured on this machine, one line per run and dry run."""
        return self.root / ".gswa" / "memory.jsonl"

    @property
    def dry_runs(self) -> Path:
        """What the planner measured before."""
        return self.root / ".gswa" / "dry_runs.jsonl"

    @property
    def number_formats(self) -> Path:
        """How fast this machine multiplies in each format, as measured."""
        return self.root / ".gswa" / "number_formats.json"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def run_dirs(self) -> Iterator[RunDir]:
        """All runs, newest first; one whose metadata cannot be read is passed over, with a warning."""
        if self.runs.is_dir():
            for path in sorted(self.runs.iterdir(), reverse=True):
                if (path / "metadata.json").is_file() and _readable(path):
                    yield RunDir(path)

    def find_run(self, name: str | Path) -> RunDir:
        """A run by id or folder. Raises ConfigError with the newest ids when there is none."""
        for path in (Path(name), self.runs / Path(name).name):
            if (path / "metadata.json").is_file():
                return RunDir(path.resolve())
        known = [run.path.name for run, _ in zip(self.run_dirs(), range(3), strict=False)]
        hint = f"the newest are {', '.join(known)}" if known else f"there is none in {self.runs} yet"
        raise ConfigError(f"{name}: no such run; {hint}")

    def latest_run(self) -> RunDir:
        """The newest run. Raises ConfigError when there is none."""
        for run in self.run_dirs():
            return run
        raise ConfigError(f"{self.runs}: no run yet; start one with 'make train-linux'")
