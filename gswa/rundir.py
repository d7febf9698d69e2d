"""A run's folder: the only module that knows its names and formats.

Files are written once (to a temporary name, then renamed) or appended to by whole lines, so that a crash at any moment
leaves a readable run. What happened is a fold over events.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from gswa.config import CONFIG_SCHEMA, RunConfig, Settled
from gswa.errors import ConfigError, Interrupted
from gswa.files import append_line, read_lines, write_json
from gswa.records import HELD_OUT, Chunk, EvalMetrics, Evaluation, Example, HeldOut, LengthStats, Plan, RunSummary, Split, StepMetrics

RunStatus = Literal["created", "running", "interrupted", "failed", "completed"]
Model = TypeVar("Model", bound=BaseModel)
METADATA_SCHEMA = 1


def now() -> str:
    """ISO 8601 in the guide's form, with the zone added."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


# -- events: what the parent decided -----------------------------------------------------------------------------------
class Event(BaseModel):
    """One line of logs/events.jsonl; `attempt` counts from 1 (0: before the first)."""

    model_config = ConfigDict(frozen=True, extra="allow")
    event: str
    time: str = ""
    attempt: int = 0


class OomFallback(Event):
    """One step down the ladder. `before` and `after` hold the settings that change; memory is in GB."""

    event: str = "oom_fallback"
    phase: str
    step: int
    error: str
    rung: str
    before: dict[str, Any]
    after: dict[str, Any]
    reason: str
    predicted_memory_gb: float | None = None
    peak_memory_gb: float | None = None


@dataclass(frozen=True)
class RunDir:
    """One run. Holds a path and nothing else, so that it may cross to another process."""

    path: Path

    # -- places ------------------------------------------------------------------------------------------------------
    @classmethod
    def create(cls, runs: Path, name: str = "", description: str = "") -> "RunDir":
        """A new folder <timestamp>[-name]; two runs of one second get two. Raises ConfigError where none can be made."""
        stem = time.strftime("%Y%m%d-%H%M%S") + (f"-{_slug(name)}" if _slug(name) else "")
        for number in range(1, 1000):
            run = cls((runs / (stem if number == 1 else f"{stem}-{number}")).absolute())
            try:
                run.path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ConfigError(f"{runs}: no run can be made here ({error.strerror}); free space or choose another folder") from error
            run.update(
                schema=METADATA_SCHEMA, id=run.path.name, name=name, description=description, status="created", created=now(), attempts=0
            )
            return run
        raise ConfigError(f"{runs}: a thousand runs of this second already exist")

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "config" / "run_config.json"

    @property
    def hardware_file(self) -> Path:
        return self.path / "config" / "hardware_info.json"

    @property
    def plan_file(self) -> Path:
        return self.path / "config" / "plan.json"

    @property
    def request_file(self) -> Path:
        return self.path / "config" / "request.json"

    @property
    def train_steps_file(self) -> Path:
        return self.path / "logs" / "train_steps.jsonl"

    @property
    def eval_steps_file(self) -> Path:
        return self.path / "logs" / "eval_steps.jsonl"

    @property
    def events_file(self) -> Path:
        return self.path / "logs" / "events.jsonl"

    @property
    def output_log(self) -> Path:
        """What the children printed, of all attempts."""
        return self.path / "logs" / "training_output.log"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def report_file(self) -> Path:
        return self.path / "reports" / "report.html"

    @property
    def adapters(self) -> Path:
        return self.path / "adapters"

    @property
    def merged(self) -> Path:
        """Base and adapter as one model, where it was exported."""
        return self.path / "merged"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evaluation_file(self) -> Path:
        return self.path / "samples" / "evaluation.json"

    @property
    def stats_file(self) -> Path:
        return self.path / "stats" / "preprocess_stats.json"

    @property
    def examples(self) -> Path:
        """The run's own copy of the examples it was given: what later lengths are split from."""
        return self.path / "data" / "examples"

    def chunks(self, max_seq_length: int) -> Path:
        return self.path / "data" / str(max_seq_length)

    # -- metadata and status -----------------------------------------------------------------------------------------
    def metadata(self) -> dict[str, Any]:
        """Everything known of the run. Raises ConfigError where the file is damaged."""
        try:
            return dict(json.loads((self.path / "metadata.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{self.path / 'metadata.json'}: cannot be read ({error}); is this a run's folder?") from error

    def update(self, **fields: Any) -> None:
        """Add to metadata.json, or replace there."""
        file = self.path / "metadata.json"
        write_json(file, {**(self.metadata() if file.exists() else {}), **fields})

    def status(self) -> RunStatus:
        """The recorded status, but `interrupted` where it says running and no process holds the run's lock."""
        status: RunStatus = self.metadata().get("status", "created")
        return "interrupted" if status == "running" and not self._locked() else status

    def _locked(self) -> bool:
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EACCES)
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def open(self) -> Iterator["RunDir"]:
        """Hold the run: one process at a time, `running` inside, then completed, failed or interrupted.

        Raises ConfigError when another process holds it.
        """
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"{self.id}: another process is training this run; wait for it or stop it") from error
            self.update(status="running", started=self.metadata().get("started") or now(), ended=None, error=None, pid=os.getpid())
            try:
                yield self
            except BaseException as error:
                stopped = isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit)) or not isinstance(error, Exception)
                with suppress(OSError, ConfigError):  # a full disk: what went wrong first is told, and the lock tells the status
                    self.update(status="interrupted" if stopped else "failed", ended=now(), error=str(error) or type(error).__name__)
                raise
            self.update(status="completed", ended=now())
        finally:
            os.close(descriptor)

    # -- configuration -----------------------------------------------------------------------------------------------
    def write_config(self, asked: BaseModel, settled: Settled) -> None:
        write_json(
            self.config_file,
            {
                "schema": CONFIG_SCHEMA,
                "asked": asked.model_dump(mode="json", exclude_defaults=True),
                "settled": settled.config.model_dump(mode="json"),
                "origin": settled.origin,
            },
        )

    def settled(self) -> Settled:
        """The configuration before any rung. Raises ConfigError when there is none."""
        try:
            content = json.loads(self.config_file.read_text(encoding="utf-8"))
            return Settled(RunConfig.model_validate(content["settled"]), content["origin"])
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{self.config_file}: no readable configuration ({error})") from error

    def current_config(self) -> RunConfig:
        """The first configuration with every rung since folded over it."""
        config = self.settled().config
        for event in self.fallbacks():
            config = config.replace(**event.after)
        return config

    # -- lines -------------------------------------------------------------------------------------------------------
    def record(self, event: Event) -> None:
        """Append an event, with the time and the attempt where they are not given."""
        filled = {"time": event.time or now(), "attempt": event.attempt or self.metadata().get("attempts", 0)}
        append_line(self.events_file, event.model_copy(update=filled))

    def events(self) -> list[Event]:
        return [Event.model_validate(line) for line in read_lines(self.events_file) if "event" in line]

    def fallbacks(self) -> list[OomFallback]:
        return [OomFallback.model_validate(event.model_dump()) for event in self.events() if event.event == "oom_fallback"]

    def append_step(self, step: StepMetrics) -> None:
        append_line(self.train_steps_file, step, exclude_none=True)  # what this device does not measure

    def append_eval(self, evaluation: EvalMetrics) -> None:
        append_line(self.eval_steps_file, evaluation)

    def steps(self) -> list[StepMetrics]:
        """Every optimizer step once, in order. What a resume went back behind was not kept, so its lines are passed over."""
        return [StepMetrics.model_validate(line) for line in _still_true(read_lines(self.train_steps_file))]

    def evaluations(self, split: HeldOut = "valid") -> list[EvalMetrics]:
        lines = (line for line in read_lines(self.eval_steps_file) if line.get("split", "valid") == split)
        return [EvalMetrics.model_validate(line) for line in _still_true(lines)]

    # -- records -----------------------------------------------------------------------------------------------------
    def _read(self, path: Path, kind: Any) -> Any:
        return TypeAdapter(kind).validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def plan(self) -> Plan | None:
        plan: Plan | None = self._read(self.plan_file, Plan)
        return plan

    def evaluation(self) -> Evaluation | None:
        evaluation: Evaluation | None = self._read(self.evaluation_file, Evaluation)
        return evaluation

    def length_stats(self) -> dict[str, LengthStats]:
        """By split and for `all`; empty before the data was split."""
        content = self._read(self.stats_file, dict[str, Any]) or {}
        return {name: LengthStats.model_validate(stats) for name, stats in content.get("splits", {}).items()}

    def hardware(self) -> dict[str, Any]:
        return self._read(self.hardware_file, dict[str, Any]) or {}

    def read_examples(self, split: Split) -> Iterator[Example]:
        return (Example.model_validate(line) for line in read_lines(self.examples / f"{split}.jsonl"))

    def read_chunks(self, max_seq_length: int, split: Split) -> Iterator[Chunk]:
        return (Chunk.model_validate(line) for line in read_lines(self.chunks(max_seq_length) / f"{split}.jsonl"))

    def conservation(self) -> dict[str, Any]:
        """What the check of the stored data found; empty before the data was split."""
        return dict((self._read(self.stats_file, dict[str, Any]) or {}).get("conservation", {}))

    # -- summary -----------------------------------------------------------------------------------------------------
    def summary(self) -> RunSummary:
        metadata, steps = self.metadata(), self.steps()
        losses = {split: [e.eval_loss for e in self.evaluations(split)] for split in HELD_OUT}
        peaks = [step.peak_memory_gb for step in steps]
        peaks += [evaluation.peak_memory_gb for split in HELD_OUT for evaluation in self.evaluations(split)]
        chosen = [metrics.eval_loss for metrics in self.evaluations() if metrics.step == metadata.get("chosen_step")]
        return RunSummary(
            id=self.id,
            path=str(self.path),
            name=metadata.get("name", ""),
            status=self.status(),
            model=metadata.get("model_id", ""),
            started=metadata.get("started") or metadata.get("created", ""),
            attempts=metadata.get("attempts", 0),
            steps=steps[-1].step if steps else 0,
            train_loss=steps[-1].train_loss if steps else None,
            valid_loss_before=_at(losses["valid"], 0),
            valid_loss_after=chosen[0] if chosen else _at(losses["valid"], -1),
            test_loss_before=_at(losses["test"], 0),
            test_loss_after=_at(losses["test"], -1) if len(losses["test"]) > 1 else None,
            peak_memory_gb=metadata.get("peak_memory_gb") or (max(peaks) if peaks else None),
            report=str(self.report_file) if self.report_file.is_file() else None,
        )


def _still_true(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for line in lines:
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    return kept


def _at(values: list[float], index: int) -> float | None:
    return values[index] if values else None


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in name).split())[:60].lower()
