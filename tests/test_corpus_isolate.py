import sys
from pathlib import Path

from papers import PROSE, column, write_pdf

from gswa.corpus.isolate import Job, _FreshContext, read_all


def outcomes(paths: list[Path], **limits: float) -> list[tuple[str, str]]:
    jobs = [Job(path, path.name, "0" * 64, "auto") for path in paths]
    return [(job.source, outcome.status) for job, outcome in read_all(jobs, **limits)]  # type: ignore[arg-type]


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
