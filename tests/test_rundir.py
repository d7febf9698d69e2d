import json
import subprocess
import sys
import threading

import pytest

from gswa.config import Layer, RunRequest, resolve
from gswa.errors import ConfigError, Interrupted
from gswa.files import write_atomically
from gswa.records import EvalMetrics, StepMetrics
from gswa.rundir import Event, OomFallback, RunDir, now
from gswa.workspace import Workspace


def step(number: int, attempt: int = 1, loss: float = 1.0) -> StepMetrics:
    return StepMetrics(
        step=number, timestamp=now(), train_loss=loss, learning_rate=1e-3, tokens_per_sec=10, peak_memory_gb=1, trained_tokens=100 * number,
        grad_norm=1, epoch=0.1, attempt=attempt, padding_fraction=0,
    )  # fmt: skip


def test_two_runs_of_one_second_get_two_folders(tmp_path):
    first, second = RunDir.create(tmp_path), RunDir.create(tmp_path)
    assert first.path != second.path
    assert first.status() == "created"


def test_a_name_becomes_part_of_the_folder_and_cannot_leave_it(tmp_path):
    run = RunDir.create(tmp_path, "../../My run/é")
    assert run.path.parent == tmp_path
    assert run.path.name.endswith("-my-run")


def test_a_torn_line_costs_itself_only(tmp_path):
    run = RunDir.create(tmp_path)
    run.append_step(step(1))
    with run.train_steps_file.open("ab") as file:
        file.write(b'{"step": 2, "trai')
    run.append_step(step(3))
    assert [metrics.step for metrics in run.steps()] == [1, 3]


def test_lines_of_many_writers_never_interleave(tmp_path):
    run = RunDir.create(tmp_path)
    writers = [threading.Thread(target=lambda: [run.append_step(step(n)) for n in range(1, 50)]) for _ in range(4)]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    assert len([json.loads(line) for line in run.train_steps_file.read_text().splitlines()]) == 4 * 49


def test_the_current_config_is_the_first_with_every_rung_folded_over_it(tmp_path):
    run = RunDir.create(tmp_path)
    run.write_config(RunRequest(), resolve(Layer("flag", {"batch_size": 8})))
    for before, after in ((8, 4), (4, 2)):
        run.record(
            OomFallback(
                phase="train",
                step=1,
                error="e",
                rung="batch_size",
                reason="r",
                attempt=1,
                before={"batch_size": before},
                after={"batch_size": after, "gradient_accumulation": 8 // after},
            )
        )
    assert run.current_config().batch_size == 2
    assert run.current_config().effective_batch_size == 8
    assert run.settled().config.batch_size == 8


def test_an_event_has_time_and_attempt(tmp_path):
    run = RunDir.create(tmp_path)
    run.update(attempts=3)
    run.record(Event(event="note"))
    (event,) = run.events()
    assert event.attempt == 3
    assert event.time


def test_valid_and_test_losses_are_kept_apart(tmp_path):
    run = RunDir.create(tmp_path)
    for split, loss in (("valid", 1.0), ("test", 2.0)):
        run.append_eval(EvalMetrics(step=0, timestamp=now(), split=split, eval_loss=loss, perplexity=1, eval_tokens=1, peak_memory_gb=1))
    assert [e.eval_loss for e in run.evaluations("valid")] == [1.0]
    assert [e.eval_loss for e in run.evaluations("test")] == [2.0]


def test_the_status_follows_what_happened(tmp_path):
    done, failed, stopped = (RunDir.create(tmp_path) for _ in range(3))
    with done.open():
        assert done.status() == "running"
    with pytest.raises(ValueError, match="broken"), failed.open():
        raise ValueError("broken")
    with pytest.raises(Interrupted), stopped.open():
        raise Interrupted("stop")
    assert [run.status() for run in (done, failed, stopped)] == ["completed", "failed", "interrupted"]
    assert failed.metadata()["error"] == "broken"


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path):
    run = RunDir.create(tmp_path)
    code = f"import os, pathlib; from gswa.rundir import RunDir\nwith RunDir(pathlib.Path({str(run.path)!r})).open(): os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert run.metadata()["status"] == "running"
    assert run.status() == "interrupted"


def test_two_processes_never_hold_one_run(tmp_path):
    run = RunDir.create(tmp_path)
    with run.open(), pytest.raises(ConfigError, match="another process"), RunDir(run.path).open():
        pass


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match="no run can be made"):
        RunDir.create(tmp_path / "runs")


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    file = tmp_path / "a.json"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "\ud800")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["", "{", "5", "[1]"])
def test_one_damaged_run_stops_no_other(tmp_path, caplog, content):
    """An empty metadata.json of an old run ended every new one after half a minute, and `list`."""
    workspace = Workspace(tmp_path)
    run, damaged = RunDir.create(workspace.runs), workspace.runs / "20200101-000000"
    damaged.mkdir()
    (damaged / "metadata.json").write_text(content)
    assert [list(workspace.run_dirs()) for _ in range(3)] == [[run]] * 3
    (warning,) = caplog.messages
    assert str(damaged / "metadata.json") in warning and warning.endswith("passed over.")
    with pytest.raises(ConfigError, match="20200101-000000"):
        workspace.find_run(damaged.name).metadata()


def test_steps_that_a_resume_went_back_behind_are_gone(tmp_path):
    run = RunDir.create(tmp_path)
    for metrics in (step(1), step(2), step(3), step(4), step(2, attempt=2)):
        run.append_step(metrics)
    assert [(metrics.step, metrics.attempt) for metrics in run.steps()] == [(1, 1), (2, 2)]


def test_a_status_that_cannot_be_written_hides_no_error(tmp_path):
    """A full disk: the reason why the run ended is told, and not that its status could not be kept."""
    run = RunDir.create(tmp_path)
    with pytest.raises(ValueError, match="the reason"), run.open():
        (run.path / "metadata.json").unlink()
        (run.path / "metadata.json").mkdir()  # neither read nor written any more
        raise ValueError("the reason")
