import signal
import sys
import time
from pathlib import Path

import pytest
from papers import PROSE, column, write_pdf

from gswa.corpus.isolate import Job, _FreshContext, read_all, watch_memory
from gswa.corpus.report import Row


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
