"""The parent's side of a child that trains: start it, hear it, end it, and say what its death meant."""

import atexit
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gswa.backends.base import PRELOAD
from gswa.backends.evidence import Evidence
from gswa.backends.oom import STDERR_TAIL, exit_in, signature_in
from gswa.backends.worker import EXIT_STOPPED
from gswa.errors import GswaError, Interrupted, OutOfMemory, TrainingError
from gswa.records import TrainJob
from gswa.rundir import RunDir

SAMPLE_SECONDS = 1.0  # between looks at a living child's memory
GRACE = 30.0  # seconds that a child has to save its checkpoint after SIGTERM
NO_GRACE = 1.0  # for one that has none to save
# OpenMP's threads sleep where they wait for each other: spinning, a step took twice as long (1.13 s in place of 0.59 s) while
# another program used the cores, and no less time (0.29 s, 0.35 s) while none did. Measured on two cores, 2026-11.
# CUDA numbers cards by speed where it is not told otherwise, NVML by their place: the probe's first must be the child's first.
# glibc before 2.38 cannot give a freed aligned block to a request of the same size again unless the slivers beside it have
# been merged with it, and its small-block caches keep those slivers apart: without them the peak of a step above the imports
# fell from 673 to 491 MB in fp32 and from 543 to 418 MB in bf16, in the same time (15.7 M parameters, 4 × 512; 2026-11).
# oneDNN keeps a compiled kernel of 0.6 MB for every shape of every product, up to 1,024 of them, and torch's own cache as many again:
# with 128 of each, dry runs in bf16 peaked at 0.46 GB in place of 0.85 GB (micro-batches of 2) at the same speed (0.9 M parameters;
# 2026-11). What torch keeps beside them saves no time: 16 in place of 128 took 70 MB less (15.7 M parameters). With none it crashes.
# CUDA memory in segments that grow: in segments of fixed sizes torch held 17 to 38 % more (5.46 for 4.67 GB, 2.82 for 2.05; H100,
# 1.2 billion parameters), so that one measurement said little of the next.
CHILD_ENVIRONMENT = {
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "16",
}
# Of Python, of Rust (safetensors), of a quota, of a limit on the size of files.
DISK_FULL = re.compile(r"No space left on device|os error 28|Disk quota exceeded|File too large|os error 27")

Message = dict[str, Any]


class Preload:
    """The parent's end of one preload server, started at once and ready when the first child is asked for."""

    def __init__(self, modules: tuple[str, ...], bitsandbytes: bool) -> None:
        mine, theirs = socket.socketpair()
        options = () if bitsandbytes else ("--without-bitsandbytes",)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gswa.backends.preload", str(theirs.fileno()), *modules, *options],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches the parent only, which then asks for a checkpoint
            env={**CHILD_ENVIRONMENT, **os.environ, "HF_HUB_OFFLINE": "1"},
        )
        theirs.close()
        self.socket, self._lines = mine, mine.makefile("rb")
        self._ready = False

    def fork(self, job_file: Path, output: int, messages: int, lifeline: int) -> int:
        """The pid of a new child that holds these descriptors. Raises TrainingError where the server has died."""
        if not self._ready:
            self.hear("ready")
            self._ready = True
        socket.send_fds(self.socket, [json.dumps({"job": str(job_file)}).encode()], [output, messages, lifeline])
        return int(self.hear("started")["started"])

    def hear(self, wanted: str) -> Message:
        """The server's next line of that kind. Raises TrainingError at its end."""
        for line in self._lines:
            said: Message = json.loads(line)
            if wanted in said:
                return said
        stderr = self.process.stderr.read().decode(errors="replace").strip() if self.process.stderr else ""
        self.end()
        raise TrainingError(f"the preload server ended with {_name(self.process.returncode)}: {stderr[-2000:] or 'it left no message'}")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        """Let the server go: at the socket's end it ends itself, and what it was loading is not waited for."""
        self._lines.close()
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


_servers: dict[tuple[str, bool, int], Preload] = {}
_lock = threading.Lock()


@atexit.register
def _end_servers() -> None:
    for (_, _, owner), server in _servers.items():
        if owner == os.getpid():
            server.end()


def preload(backend: str, quantization: str) -> Preload:
    """The server of this process for such jobs, started where there is none or where it died."""
    key = (backend, quantization != "none", os.getpid())  # a fork of us must not talk over our socket
    if key not in _servers or not _servers[key].alive:
        _servers[key] = Preload(PRELOAD.get(backend, ()), bitsandbytes=key[1])
    return _servers[key]


def run_child(job: TrainJob, on_message: Callable[[Message], None] = lambda _: None, seconds: float = float("inf")) -> dict[str, Any]:
    """Run the job to its end in a process of its own; gives what the backend returned.

    Raises OutOfMemory, TrainingError or Interrupted; TrainingError too where it takes longer than `seconds`. Whatever ends this
    function ends the child: of training after GRACE seconds for a checkpoint, by force. One child at a time.
    """
    log = RunDir(job.run).output_log
    log.parent.mkdir(parents=True, exist_ok=True)
    with _lock, tempfile.TemporaryDirectory() as folder, log.open("ab") as output:
        output.write(f"--- attempt {job.attempt}: {job.action}\n".encode())
        output.flush()
        start = output.tell()
        job_file = Path(folder) / "job.json"
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        server = preload(job.config.backend, job.config.quantization)
        child, messages, lifeline = _start(server, job_file, output.fileno())
        evidence = Evidence(child)
        last: Message = {}
        try:
            for message in _read(messages, server, evidence, time.monotonic() + seconds):
                last = {**last, **message}
                on_message(message)
            code = _ended(server, child)
        except BaseException:
            _stop(server, child, GRACE if job.action == "train" else NO_GRACE)
            raise
        finally:
            os.close(lifeline)
            os.close(messages)  # not before the child has ended: its last words, and its checkpoint, would break its pipe
    return _result(job, last, code, _tail(log, start), evidence)


def _start(server: Preload, job_file: Path, output: int) -> tuple[int, int, int]:
    """(the child, the descriptor its messages come from, the lifeline to close when it must go).

    The pipes are not inheritable, so that no other child can hold our ends of them.
    """
    messages_in, messages_out = os.pipe()
    lifeline_out, lifeline_in = os.pipe()
    try:
        return server.fork(job_file, output, messages_out, lifeline_out), messages_in, lifeline_in
    except BaseException:
        os.close(messages_in)
        os.close(lifeline_in)
        raise
    finally:
        os.close(messages_out)
        os.close(lifeline_out)


def _read(descriptor: int, server: Preload, evidence: Evidence, deadline: float) -> Iterator[Message]:
    """The child's messages until it has ended. The server's end, seen while waiting, is the child's end too."""
    buffer = b""
    sampled = 0.0
    with selectors.DefaultSelector() as ready:
        ready.register(descriptor, selectors.EVENT_READ)
        while True:
            if time.monotonic() > deadline:
                raise TrainingError("it did not end within the time that it was given")
            if time.monotonic() - sampled >= SAMPLE_SECONDS:
                evidence.sample()
                sampled = time.monotonic()
                if not server.alive:
                    raise TrainingError("the preload server was killed; what the last checkpoint holds is kept")
            if not ready.select(timeout=SAMPLE_SECONDS):
                continue
            data = os.read(descriptor, 65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            yield from map(json.loads, lines)


def _ended(server: Preload, child: int) -> int:
    """Wait for the child's exit code; negative for a signal."""
    while (said := server.hear("ended"))["ended"] != child:
        pass
    return int(said["code"])


def _stop(server: Preload, child: int, grace: float) -> None:
    """SIGTERM, time for a checkpoint, then SIGKILL for the child and all it started."""
    if not _signal(child, signal.SIGTERM):
        return
    deadline = time.monotonic() + grace
    while server.alive and time.monotonic() < deadline:
        with selectors.DefaultSelector() as ready:
            ready.register(server.socket, selectors.EVENT_READ)
            if ready.select(timeout=0.2) and _ended(server, child) is not None:
                return
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return
    if server.alive:
        _ended(server, child)


def _signal(child: int, number: int) -> bool:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return False
    return True


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - STDERR_TAIL))
        return file.read().decode(errors="replace")


def _result(job: TrainJob, last: Message, code: int, output: str, evidence: Evidence) -> dict[str, Any]:
    """What the child's last words, its exit code and its output mean."""
    outcome = last.get("outcome")
    if outcome == "done" and code == 0:
        result: dict[str, Any] = last["result"]
        return result
    if outcome == "interrupted" or code == EXIT_STOPPED:
        raise Interrupted(last.get("error") or "training was stopped", exit_code=EXIT_STOPPED)
    phase = last.get("phase", "load")
    step = last["step"] if isinstance(last.get("step"), int) else (last.get("step") or {}).get("step", 0)
    peak = max(last.get("peak_memory_gb") or 0.0, evidence.peak_gb) or None
    if outcome == "out_of_memory":
        raise OutOfMemory(last["error"], phase, step, peak)
    if outcome == "error":
        if last["known"]:
            error = GswaError(last["error"])
            error.exit_code = last["exit_code"]
            raise error
        full = DISK_FULL.search(last["error"])
        kept = "; the last good checkpoint stands" if full or phase == "save" else ""
        kept += ": free space, then resume the run" if full else ""
        raise TrainingError(f"training failed while in phase {phase} after step {step}: {last['error']}{kept}")
    # It ended without a word: a signal, or a library that calls exit() itself.
    limited, limit = job.config.memory_limit_gb is not None, job.config.memory_limit_gb or 0.0
    if seen := signature_in(output, limited):
        raise OutOfMemory(f"out of memory ({seen.source}), the process ended with {_name(code)}", phase, step, peak)
    tight = limited and evidence.peak_data_gb > limit / 2
    if why := exit_in(code, job.config.backend, job.config.device, evidence.of_oom(), tight):
        raise OutOfMemory(why, phase, step, peak)
    raise TrainingError(f"the training process ended with {_name(code)} in phase {phase} after step {step}; its output is in the log")


def _name(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
