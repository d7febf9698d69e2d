"""The parent's side of a child that trains: start it, hear it, end it, and say what its death meant."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gswa.backends.oom import STDERR_TAIL, signature_in
from gswa.backends.worker import EXIT_STOPPED
from gswa.errors import GswaError, Interrupted, OutOfMemory, TrainingError
from gswa.records import TrainJob
from gswa.rundir import RunDir

GRACE = 30.0  # seconds that a child has to save its checkpoint after SIGTERM

Message = dict[str, Any]


def run_child(job: TrainJob, on_message: Callable[[Message], None] = lambda _: None) -> dict[str, Any]:
    """Run the job to its end in a process of its own; gives what the backend returned.

    Raises OutOfMemory, TrainingError or Interrupted. Whatever ends this function ends the child: after GRACE seconds
    for a checkpoint, by force.
    """
    log = RunDir(job.run).output_log
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as output:
        output.write(f"--- attempt {job.attempt}: {job.action}\n".encode())
        output.flush()
        start = output.tell()
        job_file = Path(folder) / "job.json"
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        process, messages, lifeline = _start(job_file, output.fileno())
        last: Message = {}
        try:
            for message in _read(messages):
                last = {**last, **message}
                on_message(message)
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
        finally:
            os.close(lifeline)
    return _result(last, code, _tail(log, start))


def _start(job_file: Path, output: int) -> tuple[subprocess.Popen[bytes], int, int]:
    """(the child, the descriptor its messages come from, the lifeline to close when it must go)."""
    messages_in, messages_out = os.pipe()
    lifeline_out, lifeline_in = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "gswa.backends.worker", str(job_file), str(messages_out), str(lifeline_out)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(messages_out, lifeline_out),
            start_new_session=True,  # Ctrl-C in the terminal reaches the parent only, which then asks for a checkpoint
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    finally:
        os.close(messages_out)
        os.close(lifeline_out)
    return process, messages_in, lifeline_in


def _read(descriptor: int) -> Iterator[Message]:
    with os.fdopen(descriptor, "rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):  # the last may be torn
                yield json.loads(line)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, time for a checkpoint, then SIGKILL for the child and all it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - STDERR_TAIL))
        return file.read().decode(errors="replace")


def _result(last: Message, code: int, output: str) -> dict[str, Any]:
    """What the child's last words, its exit code and its output mean."""
    outcome = last.get("outcome")
    if outcome == "done" and code == 0:
        result: dict[str, Any] = last["result"]
        return result
    if outcome == "interrupted" or code == EXIT_STOPPED:
        raise Interrupted("training was stopped; its last step is in a checkpoint", exit_code=EXIT_STOPPED)
    phase = last.get("phase", "load")
    step = last["step"] if isinstance(last.get("step"), int) else (last.get("step") or {}).get("step", 0)
    if outcome == "out_of_memory":
        raise OutOfMemory(last["error"], phase, step, last.get("peak_memory_gb"))
    if outcome == "error":
        if last["known"]:
            error = GswaError(last["error"])
            error.exit_code = last["exit_code"]
            raise error
        raise TrainingError(f"training failed while in phase {phase} after step {step}: {last['error']}")
    # It ended without a word: a signal, or a library that calls exit() itself.
    seen = signature_in(output)
    if seen is not None:
        raise OutOfMemory(f"out of memory ({seen.source}), the process ended with {_name(code)}", phase, step)
    raise TrainingError(f"the training process ended with {_name(code)} in phase {phase} after step {step}; its output is in the log")


def _name(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
