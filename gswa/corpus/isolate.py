"""Documents are opened in child processes only: a file that hangs, crashes or swells costs itself, not the run.

A child that is ended from outside (Ctrl-C, SIGTERM, an idle one killed for its memory) says nothing of the file it had: that
is read again by another child, unless we are being stopped ourselves.
"""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.popen_spawn_posix import Popen
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gswa.corpus.read import is_for_unstructured, read_file, set_aside
from gswa.corpus.report import Row
from gswa.errors import CorpusError, Interrupted
from gswa.records import Document, Status

SECONDS = 60
MEMORY_BYTES = 2 << 30
FILES_PER_CHILD = 100  # then a fresh one: what a reader leaks goes with it
TOO_LARGE = f"reading it takes more memory than the {MEMORY_BYTES >> 30} GB it may have"
SECONDS_BETWEEN_LOOKS = 0.1
AHEAD = 4  # jobs in the queue per child: enough to keep it busy, and the parent's memory does not grow with the corpus
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what ends a child that had done nothing wrong

_stopped = threading.Event()


class Job(NamedTuple):
    """A file to read, and its row of the report as far as it is known."""

    path: Path
    row: Row
    parser: str = "auto"


class Outcome(NamedTuple):
    """What became of one file: its document as JSON, and its row."""

    document: str
    row: Row


def read_all(
    jobs: Sequence[Job], children: int | None = None, seconds: float = SECONDS, memory: int = MEMORY_BYTES
) -> Iterator[tuple[Job, Outcome]]:
    """Every job's outcome, in the order of the jobs; each may take `seconds`, and its child `memory` bytes.

    As many children as the machine has cores, where their number is not given. Raises Interrupted where `stopped_with_us` says
    so, CorpusError where the children are ended from outside again and again.
    """
    read, before = 0, -1
    while read < len(jobs):
        try:
            for outcome in _read_in_pool(jobs[read:], children, seconds, memory):
                read += 1
                yield outcome
        except BrokenProcessPool as error:
            if read == before:
                reason = f"the processes that read papers are ended from outside before they have read {jobs[read].row.source} ({error})"
                raise CorpusError(f"{reason}; see what ends them (often want of memory), then start again") from error
            before = read


@contextlib.contextmanager
def stopped_with_us() -> Iterator[None]:
    """What ends the block by an exception also ends the reading in other threads: Prefect waits for them, a whole batch of files."""
    _stopped.clear()
    try:
        yield
    except BaseException:
        _stopped.set()
        raise


def _read_in_pool(jobs: Sequence[Job], children: int | None, seconds: float, memory: int) -> Iterator[tuple[Job, Outcome]]:
    from pebble import ProcessPool

    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # Dask's workers may have none else
    children = children or max(1, min(_cores(), -(-len(jobs) // 3), 16))
    more = any(is_for_unstructured(job.path, job.parser) for job in jobs)
    pool = ProcessPool(
        max_workers=children, max_tasks=FILES_PER_CHILD, initializer=_confine, initargs=(memory, more), context=_FreshContext()
    )
    waiting: deque[tuple[Job, Future[Outcome]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, _scheduled(pool, job, seconds)))
            if len(waiting) >= AHEAD * children:
                yield _result(*waiting.popleft(), seconds, pool)
        while waiting:
            yield _result(*waiting.popleft(), seconds, pool)
        pool.close()  # type: ignore[no-untyped-call]  # Pebble annotates half of its methods
    except BaseException:
        pool.stop()  # type: ignore[no-untyped-call]
        raise
    finally:
        pool.join()


def _scheduled(pool: Any, job: Job, seconds: float) -> "Future[Outcome]":
    try:
        future: Future[Outcome] = pool.schedule(_work, args=[job], timeout=seconds)
    except RuntimeError as error:  # Pebble's word for a pool that broke since the last one was scheduled
        raise BrokenProcessPool(str(error)) from error
    return future


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(job: Job) -> Outcome:
    try:
        return _outcome(job, read_file(job.path, job.row.source, job.row.sha256, job.parser))
    except MemoryError:
        return _failed(job, "out_of_memory", TOO_LARGE)


def _outcome(job: Job, document: Document) -> Outcome:
    return Outcome(document.model_dump_json(), job.row.read_as(document))


def _failed(job: Job, status: Status, reason: str) -> Outcome:
    return _outcome(job, set_aside(job.row.source, job.row.sha256, status, f"{reason}; make the file anew or leave it out"))


def _result(job: Job, future: "Future[Outcome]", seconds: float, pool: Any) -> tuple[Job, Outcome]:
    from pebble import ProcessExpired

    alive = True
    while not wait([future], timeout=SECONDS_BETWEEN_LOOKS).done:
        if _stopped.is_set():
            raise Interrupted("the reading of papers was stopped")
        if not alive:  # Pebble 5.2 aborts what its children had, and forgets for ever what they had not taken yet
            raise BrokenProcessPool("the pool ended before it took the file")
        alive = pool.active
    try:
        return job, future.result()
    except BrokenProcessPool:
        raise
    except TimeoutError:
        failed = _failed(job, "timeout", f"reading it takes longer than {seconds:g} s")
    except MemoryError:
        failed = _failed(job, "out_of_memory", TOO_LARGE)
    except ProcessExpired as error:
        failed = _died(job, int(error.exitcode or 0))
    except Exception as error:  # noqa: BLE001 - a fault of ours that one file shows must not cost the others
        failed = _failed(job, "crashed", f"the reader failed on it ({type(error).__name__}: {str(error)[:120]})")
    return job, failed


def _died(job: Job, exit_code: int) -> Outcome:
    """PDFium aborts when an allocation fails; the kernel kills when the machine has no memory left. Raises BrokenProcessPool for a stop."""
    if abs(exit_code) in STOPS:  # Pebble's children make an exit code of SIGTERM
        raise BrokenProcessPool(signal.Signals(abs(exit_code)).name)
    if -exit_code in (signal.SIGABRT, signal.SIGKILL):
        return _failed(job, "out_of_memory", TOO_LARGE)
    name = signal.Signals(-exit_code).name if -exit_code in {s.value for s in signal.Signals} else f"exit code {exit_code}"
    return _failed(job, "crashed", f"the reader crashed on it ({name})")


def _confine(memory: int, unstructured: bool) -> None:
    """In the child: a limit on memory, no core dump, nothing printed (C libraries write to stderr as they die), no life without us."""
    import resource

    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        with contextlib.suppress(OSError, ValueError):  # macOS knows the names and refuses the values
            resource.setrlimit(limit, (memory, memory))
    if sys.platform == "darwin":
        watch_memory(memory)
    elif parent := multiprocessing.parent_process():
        _end_with(parent.sentinel)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)
    if unstructured:
        from gswa.corpus.unstructured import get_ready

        get_ready()


def _end_with(pipe: int) -> None:
    """At the end of that file this process gets SIGIO, which ends it even inside a C library: a file that hangs has no parent left."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def watch_memory(limit: int) -> None:
    """Where the system keeps no limit: this process ends itself, as the kernel would, once it holds more bytes, or has no parent."""
    import psutil

    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and psutil.Process().memory_info().rss <= limit:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


_starting = threading.Lock()  # one process at a time: what is changed for its start is changed for all threads


class _FreshProcess(SpawnProcess):
    """A spawned child imports its parent's main script anew, and with it Prefect or torch: this one sees an empty script.

    Ctrl-C reaches it too, and would end it with a traceback before Pebble has told it to ignore that: what is blocked here stays
    blocked in the process that is started. Where it ends us meanwhile, the child finds half of what it should read, or none of our
    semaphores: nothing that it says before `_confine` is for the user either.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        resource_tracker.ensure_running()  # it unblocks SIGINT when it starts
        with _starting:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                with _silence():
                    return Popen(process_obj)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
                sys.modules["__main__"] = main


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """stderr leads nowhere, for this process too; where it is closed, nothing need be done."""
    try:
        heard = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(heard, 2)
        os.close(heard)
        os.close(nowhere)


class _FreshContext(SpawnContext):
    Process = _FreshProcess
