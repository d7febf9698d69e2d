"""Kills at any moment: what was trained is kept, and training goes on as if nothing had happened."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_oom_run import make_run

from gswa import attempt
from gswa.backends.checkpoint import all_checkpoints, is_sealed, last_sealed, steps_of
from gswa.backends.child import _result
from gswa.backends.evidence import Evidence
from gswa.errors import Interrupted, OutOfMemory, TrainingError
from gswa.rundir import RunDir

pytestmark = pytest.mark.backend

PARENT = """
import sys; from pathlib import Path
from gswa import attempt; from gswa.rundir import RunDir
with RunDir(Path(sys.argv[1])).open() as run: attempt.train(run)
"""
SETTINGS = {"words": 130, "held_out_words": 40, "batch_size": 2, "gradient_accumulation": 1, "epochs": 4}  # 32 steps of 2 rows


def losses(run: RunDir) -> dict[int, float]:
    return {step.step: step.train_loss for step in run.steps()}


def whole_lines(file: Path) -> bool:
    return all(json.loads(line) for line in file.read_text().splitlines())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> RunDir:
    run = make_run(tmp_path_factory.mktemp("straight"), **SETTINGS)
    attempt.train(run)
    return run


def kill_child(run: RunDir, when: float, number: int = signal.SIGKILL) -> None:
    """Train and kill the child `when` seconds after its first message."""
    import threading

    def killer() -> None:
        time.sleep(when)
        for process in psutil.Process().children(recursive=True):
            if process.ppid() != os.getpid() and process.is_running():
                process.send_signal(number)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        attempt.train(run)
    except TrainingError as error:
        assert not isinstance(error, OutOfMemory)  # a person's kill is no evidence
    finally:
        thread.join()


def test_twenty_kills_at_random_moments_lose_and_double_nothing(tmp_path, uninterrupted):
    run = make_run(tmp_path, **SETTINGS)
    chance = random.Random(0)
    for _ in range(20):
        kill_child(run, chance.uniform(0.1, 1.6))
    if len(run.steps()) < len(uninterrupted.steps()) or not (run.adapters / "adapter_model.safetensors").exists():
        attempt.train(run)
    assert list(losses(run)) == list(range(1, 33))
    assert losses(run) == pytest.approx(losses(uninterrupted), abs=1e-6)
    assert [step.trained_tokens for step in run.steps()] == [step.trained_tokens for step in uninterrupted.steps()]
    assert whole_lines(run.train_steps_file)
    assert whole_lines(run.eval_steps_file)


def test_a_kill_inside_a_save_leaves_the_checkpoint_before_and_says_so(tmp_path, uninterrupted, caplog):
    run = make_run(tmp_path, **SETTINGS)

    def kill_while_saving(step, total) -> None:
        if step.step == 10:
            newest = max(run.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
            (newest / "SEALED.json").unlink(missing_ok=True)  # as if killed before the seal
            (newest / "optimizer.pt").write_bytes(b"half")
            for process in psutil.Process().children(recursive=True):
                if process.ppid() != os.getpid():
                    process.kill()

    with pytest.raises(TrainingError, match="SIGKILL"):
        attempt.train(run, kill_while_saving)
    assert not all(map(is_sealed, all_checkpoints(run.checkpoints)))
    caplog.set_level("INFO", logger="gswa")
    attempt.train(run)
    *damaged, whole = re.findall(r"checkpoint-\d+", caplog.text)
    assert damaged and f"passed over, because damaged or not whole: {', '.join(damaged)}" in caplog.messages
    assert f"training goes on after step {whole.split('-')[1]} of 32, from {whole}" in caplog.messages
    assert losses(run) == pytest.approx(losses(uninterrupted), abs=1e-6)


@pytest.mark.parametrize("victim", ["parent", "server", "both"])
def test_no_orphan_survives_and_the_run_can_be_resumed(tmp_path, victim):
    run = make_run(tmp_path, **{**SETTINGS, "epochs": 1000})
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(run.path)], stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 90
    while not run.steps() and time.monotonic() < deadline:
        time.sleep(0.1)
    family = psutil.Process(parent.pid).children(recursive=True)
    (server,) = [process for process in family if "gswa.backends.preload" in process.cmdline() and process.ppid() == parent.pid]
    assert len(family) == 2
    victims = {"parent": [parent.pid], "server": [server.pid], "both": [server.pid, parent.pid]}[victim]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    parent.wait(30)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert parent.returncode != 0
    assert run.status() == ("failed" if victim == "server" else "interrupted")
    reached = run.steps()[-1].step
    with pytest.raises(Interrupted), run.open():
        attempt.train(run, stop_at(reached + 10))
    assert [step.step for step in run.steps()] == list(range(1, run.steps()[-1].step + 1))
    assert run.status() == "interrupted"


def test_a_stop_while_evaluating_lost_the_steps_since_the_last_checkpoint(tmp_path):
    run = make_run(tmp_path, **{**SETTINGS, "held_out": 150, "held_out_words": 380, "epochs": 1, "evaluations": 2})

    def stop_soon(step, total) -> None:
        if step.step == total // 2:
            time.sleep(0.3)  # the evaluation is under way
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        attempt.train(run, stop_soon)
    reached = run.steps()[-1].step
    assert steps_of(last_sealed(run.checkpoints)) == reached
    assert reached not in {seen.step for seen in run.evaluations("valid")}
    attempt.train(run)
    assert {seen.step for seen in run.evaluations("valid")} == {0, reached, 8}


def stop_at(wanted: int):
    def tell(step, total) -> None:
        if step.step >= wanted:
            raise Interrupted("enough")

    return tell


def test_two_processes_never_train_the_same_run(tmp_path):
    run = make_run(tmp_path, **{**SETTINGS, "epochs": 1000})
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(run.path)], stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    try:
        deadline = time.monotonic() + 90
        while not run.steps() and time.monotonic() < deadline:
            time.sleep(0.1)
        with pytest.raises(Exception, match="another process is training this run"):
            attempt.train(run)
    finally:
        parent.kill()
        parent.wait()


def test_a_full_disk_while_saving_keeps_the_last_good_checkpoint_and_says_so(tmp_path):
    run = make_run(tmp_path, **SETTINGS)
    good = {}

    def fill(step, total) -> None:
        if step.step == 8:
            good["checkpoint"] = last_sealed(run.checkpoints)
            for process in psutil.Process().children(recursive=True):
                if process.ppid() != os.getpid():
                    process.rlimit(psutil.RLIMIT_FSIZE, (200_000, 200_000))  # writes fail as on a full disk, with EFBIG

    with pytest.raises(TrainingError, match="the last good checkpoint stands: free space"):
        attempt.train(run, fill)
    assert is_sealed(good["checkpoint"])
    attempt.train(run)
    assert run.steps()[-1].step == 32


@pytest.mark.parametrize(("said", "full"), [("OSError: [Errno 28] No space left on device", True), ("KeyError: 'exp_avg'", False)])
def test_only_where_the_disk_is_full_space_is_to_be_freed(tmp_path, said, full):
    """It was said of every fault while saving."""
    run = make_run(tmp_path, **SETTINGS)
    last = {"outcome": "error", "known": False, "error": said, "phase": "save"}
    with pytest.raises(TrainingError, match="the last good checkpoint stands") as error:
        _result(attempt.job_for(run, run.current_config()), last, 1, "", Evidence(os.getpid()))
    assert ("free space" in str(error.value)) == full
