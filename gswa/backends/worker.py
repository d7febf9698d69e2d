"""The child: trains one attempt and says how it ended. Forked by `preload`, heard by `child`.

It writes train_steps.jsonl and eval_steps.jsonl itself, and sends one JSON line per phase, step and outcome down the
MESSAGES descriptor. LIFELINE is a pipe that only the parent can write: its end means that the parent is gone.
"""

import fcntl
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gswa.backends.base import load_backend
from gswa.backends.oom import is_oom
from gswa.cgroup import GB
from gswa.errors import ConfigError, GswaError, Interrupted, Phase
from gswa.files import write_json
from gswa.records import Answer, EvalMetrics, StepMetrics, TrainJob
from gswa.rundir import RunDir

EXIT_OOM = 42
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
EXIT_ERROR = 1
EXIT_STOPPED = 75
LOCK_SECONDS = 10.0  # a child whose parent was killed needs a moment to go


class Messages:
    """The child's side of `gswa.backends.base.Report`."""

    def __init__(self, run: RunDir, descriptor: int) -> None:
        self.run, self._descriptor = run, descriptor
        self._stop = threading.Event()
        self.current_phase: Phase = "load"
        self.current_step = 0
        self.peak_memory_gb: float | None = None

    def send(self, **content: Any) -> None:
        os.write(self._descriptor, (json.dumps(content) + "\n").encode())

    def phase(self, phase: Phase) -> None:
        self.current_phase = phase
        self.send(phase=phase)

    def total_steps(self, steps: int) -> None:
        self.send(total_steps=steps)

    def step(self, metrics: StepMetrics) -> None:
        self.run.append_step(metrics)
        self.current_step = metrics.step
        self.saw_peak(metrics.peak_memory_gb)
        self.send(step=metrics.model_dump())

    def evaluation(self, metrics: EvalMetrics) -> None:
        self.run.append_eval(metrics)
        self.saw_peak(metrics.peak_memory_gb)
        self.send(evaluation=metrics.model_dump())

    def answers(self, answers: Sequence[Answer], seconds: float, forward_tokens_per_sec: float) -> None:
        written = [answer.model_dump() for answer in answers]
        self.send(answers=written, seconds=seconds, forward_tokens_per_sec=forward_tokens_per_sec)

    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def request_stop(self, *_: Any) -> None:
        self._stop.set()

    def saw_peak(self, gigabytes: float) -> None:
        self.peak_memory_gb = max(gigabytes, self.peak_memory_gb or 0.0)


def main(job_file: str, messages: str, lifeline: str) -> int:
    threading.Thread(target=_end_with_parent, args=(int(lifeline),), daemon=True).start()
    job = TrainJob.model_validate_json(Path(job_file).read_text(encoding="utf-8"))
    report = Messages(RunDir(job.run), int(messages))
    signal.signal(signal.SIGTERM, report.request_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business: it asks us to stop by SIGTERM
    try:
        with _only_one(report.run, job):
            report.send(outcome="done", result=_act(job, report))
        return 0
    except Interrupted as error:
        report.send(outcome="interrupted", error=str(error))
        return EXIT_STOPPED
    except BaseException as error:  # noqa: BLE001  (whatever it is, the parent must hear of it; the log gets the whole story)
        traceback.print_exc()
        if job.config.device == "cpu":
            report.saw_peak(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES / GB)
        oom = is_oom(error, limited=job.config.memory_limit_gb is not None)
        report.send(
            outcome="out_of_memory" if oom else "error",
            error=_first_line(error),
            known=isinstance(error, GswaError),
            exit_code=getattr(error, "exit_code", EXIT_ERROR),
            phase=report.current_phase,
            step=report.current_step,
            peak_memory_gb=report.peak_memory_gb,
        )
        return EXIT_OOM if oom else EXIT_ERROR


def _act(job: TrainJob, report: Messages) -> dict[str, Any]:
    backend = load_backend(job.config.backend)
    if job.action == "evaluate":
        write_json(RunDir(job.run).evaluation_file, backend.evaluate(job, report).model_dump())
        return {}
    if job.action == "measure":
        return dict(backend.measure_number_formats(job.config.device))
    if job.action == "count":
        return dict(backend.count_memory(job))
    return backend.generate(job, report) if job.action == "generate" else backend.train(job, report)


@contextmanager
def _only_one(run: RunDir, job: TrainJob) -> Iterator[None]:
    """Hold the run against any other process that would train it, though our parent is gone and another one came."""
    with (run.path / ".training.lock").open("w") as lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while job.action == "train":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ConfigError(f"{run.id}: another process is training this run; wait for it or stop it") from error
                time.sleep(0.1)
        yield


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, GswaError):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)  # returns at end of file only: nobody ever writes
    os.killpg(0, signal.SIGKILL)  # ourselves and all we started


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
