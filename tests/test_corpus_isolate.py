import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from papers import PROSE, column, write_pdf

from gswa.corpus import isolate
from gswa.corpus.isolate import Job, _FreshContext, read_all, watch_memory
from gswa.corpus.report import Row
from gswa.errors import CorpusError, Interrupted


def outcomes(paths: list[Path], **limits: float) -> list[tuple[str, str]]:
    jobs = [Job(path, Row(source=path.name, status="ok", sha256="0" * 64)) for path in paths]
    return [(outcome.row.source, outcome.row.status) for job, outcome in read_all(jobs, **limits)]  # type: ignore[arg-type]


def loaded() -> set[str]:
    return {name.split(".")[0] for name in sys.modules} | {f"main: {getattr(sys.modules['__main__'], '__file__', None)}"}


def test_a_child_loads_neither_the_main_script_nor_the_heavy_libraries() -> None:
    from pebble import ProcessPool

    with ProcessPool(max_workers=1, context=_FreshContext()) as pool:
        modules = pool.schedule(loaded).result()
    assert not {"torch", "prefect", "transformers"} & modules
    assert "main: None" in modules


def test_a_file_that_takes_too_long_costs_itself(tmp_path: Path) -> None:
    assert outcomes([write_pdf(tmp_path / "a.pdf", [column(PROSE * 5)] * 400)], seconds=0.05) == [("a.pdf", "timeout")]


def test_a_file_that_needs_too_much_memory_costs_itself(tmp_path: Path) -> None:
    huge, small = tmp_path / "huge.txt", write_pdf(tmp_path / "small.pdf", [column(PROSE)])
    huge.write_bytes(b"Many words, and no end of them. " * (1 << 20))
    assert outcomes([huge, small], memory=320 << 20) == [("huge.txt", "out_of_memory"), ("small.pdf", "ok")]


def hold(limit: int) -> int:
    watch_memory(limit)
    held = bytearray(200 << 20)
    time.sleep(20)
    return len(held)


def test_where_the_system_keeps_no_limit_a_child_ends_itself() -> None:
    from pebble import ProcessExpired, ProcessPool

    with ProcessPool(max_workers=1, context=_FreshContext()) as pool, pytest.raises(ProcessExpired) as ended:
        pool.schedule(hold, args=[150 << 20]).result()
    assert ended.value.exitcode == -signal.SIGKILL


# -- children that are ended from outside ----------------------------------------------------------------------------------
def readers(of: psutil.Process | None = None) -> list[psutil.Process]:
    with suppress(psutil.Error):  # one that ends while we look
        return [child for child in (of or psutil.Process()).children() if "--multiprocessing-fork" in child.cmdline()]
    return []


def slow_paper(folder: Path, name: str) -> Path:
    """A second of work or more."""
    (folder / name).write_text(f"{name} has " + "many words, and no end of them. " * (1 << 16))
    return folder / name


@pytest.mark.parametrize("when", ["while it starts", "while it reads"])
def test_a_child_that_is_stopped_has_crashed_on_no_file(tmp_path: Path, when: str) -> None:
    """Every file was set aside as crashed (BrokenProcessPool: All workers expired), and stayed it."""
    papers = [slow_paper(tmp_path, f"{number}.txt") for number in range(2)]

    def stop() -> None:
        while not (children := readers()) or (when == "while it reads" and children[0].cpu_times().user < 1.2):
            time.sleep(0.02)
        for child in children:
            child.send_signal(signal.SIGTERM)

    with Background(stop):
        assert outcomes(papers) == [(path.name, "ok") for path in papers]


def test_children_that_are_stopped_again_and_again_end_the_reading_and_blame_no_file(tmp_path: Path) -> None:
    done = threading.Event()

    def stop() -> None:
        while not done.is_set():
            with suppress(psutil.Error):
                for child in readers():
                    child.send_signal(signal.SIGTERM)
            time.sleep(0.02)

    with Background(stop), pytest.raises(CorpusError, match=r"ended from outside before they have read a\.txt"):
        try:
            outcomes([slow_paper(tmp_path, "a.txt")])
        finally:
            done.set()


def test_a_file_that_a_broken_pool_never_took_is_not_waited_for(tmp_path: Path) -> None:
    """Children that ended before they had taken it left the reading waiting for ever."""
    from pebble import ProcessPool

    pool = ProcessPool(max_workers=1)
    pool.stop()
    with pytest.raises(BrokenProcessPool):
        isolate._result(Job(tmp_path / "a.txt", Row(source="a.txt", status="ok", sha256="0" * 64)), Future(), 60.0, pool)


def test_reading_in_another_thread_ends_with_what_waits_for_it(tmp_path: Path) -> None:
    """Prefect waits for the thread, so that Ctrl-C took as long as a batch of a hundred papers."""
    papers = [slow_paper(tmp_path, f"{number}.txt") for number in range(40)]
    ended: list[BaseException] = []

    def read() -> None:
        try:
            outcomes(papers)
        except Interrupted as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    with pytest.raises(KeyboardInterrupt), isolate.stopped_with_us():
        thread.start()
        while not readers():
            time.sleep(0.02)
        raise KeyboardInterrupt
    thread.join(20)
    assert ended
    assert not readers()
    isolate._stopped.clear()


PARSE = "import sys; from pathlib import Path; from gswa.corpus import parse_corpus; parse_corpus(Path(sys.argv[1]), Path(sys.argv[2]))"


def parsing(raw: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PARSE, str(raw), str(raw.parent / "parsed")]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_papers_are_read_sets_none_aside(tmp_path: Path, number: signal.Signals) -> None:
    """The group is told, as by a terminal, at a moment when the children have just been started."""
    raw = tmp_path / "raw"
    raw.mkdir()
    slow_paper(raw, "a.txt")
    with parsing(raw) as parent:
        while not readers(psutil.Process(parent.pid)):
            time.sleep(0.01)
        os.killpg(parent.pid, number)
        said = parent.stderr.read()  # type: ignore[union-attr]
        assert parent.wait(20) == -number
    assert said.count("Traceback") <= 1, said  # the parent's own
    assert not list(tmp_path.glob("parsed/*.json"))


HANG = """
import re; from pebble import ProcessPool; from gswa.corpus.isolate import _confine, _FreshContext
pool = ProcessPool(max_workers=1, initializer=_confine, initargs=(2 << 30, False), context=_FreshContext())
pool.schedule(re.match, args=["(a+)+$", "a" * 60 + "b"]).result()  # in C, for years
"""


def test_no_child_outlives_a_killed_parent_though_its_file_hangs() -> None:
    with subprocess.Popen([sys.executable, "-c", HANG], cwd=Path(__file__).parents[1]) as parent:
        while not (children := readers(psutil.Process(parent.pid))) or children[0].cpu_times().user < 1:
            time.sleep(0.05)
        parent.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
    assert not alive


class Background:
    """Runs the function in a thread while inside."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.thread = threading.Thread(target=function)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.thread.join()
