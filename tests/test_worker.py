"""The deployment as its user has it: server and worker from `make serve-prefect`, cancelled, run again, and a worker that is stopped."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from small_corpus import ROOT, write_corpus

from gswa.backends.checkpoint import last_sealed
from gswa.rundir import RunDir
from gswa.workspace import Workspace

pytestmark = pytest.mark.prefect

SECONDS = 150  # for anything that is waited for, on a busy machine
REQUEST = {
    "settings": {"model_id": "gswa-tiny", "device": "cpu", "backend": "torch", "batch_size": 2, "iters": 5000, "number_format": "fp32"}
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Iterator[Path]:
    """The project's own files in a folder of their own, with server and worker up."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("scripts", "flows", "tasks", "gswa", "configs", "prefect.yaml", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    write_corpus(folder, pdf=False)
    run(folder, sys.executable, "scripts/serve_prefect.py", "start")
    try:
        yield folder
    finally:
        run(folder, sys.executable, "scripts/serve_prefect.py", "stop")


def run(folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "GSWA_"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError("waited in vain")


def deploy(folder: Path) -> None:
    prefect = str(Path(sys.executable).with_name("prefect"))
    run(folder, prefect, "deployment", "run", "gswa/train-linux", "--param", f"request={json.dumps(REQUEST)}")


def training(folder: Path, beyond: int = 0) -> RunDir:
    """The newest run once it has trained past step `beyond`."""

    def trained() -> RunDir | None:
        runs = list(Workspace(folder).run_dirs())
        return runs[0] if runs and len(runs[0].steps()) > beyond else None

    return wait_for(trained)


def trainers(folder: Path) -> list[psutil.Process]:
    """Preload servers of this clone, and the children that train."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if "gswa.backends.preload" in (process.info["cmdline"] or ()) and process.info["cwd"] == str(folder):
            found.append(process)
    return found


def left_as_it_should_be(run: RunDir) -> None:
    wait_for(lambda: not trainers(run.path.parents[1]))
    assert wait_for(lambda: run.status() == "interrupted")
    assert last_sealed(run.checkpoints)
    assert [step.step for step in run.steps()] == list(range(1, len(run.steps()) + 1))


def test_cancelling_and_stopping_the_worker_leave_a_run_that_goes_on(clone):
    api = SimpleNamespace(**runpy.run_path(str(clone / "scripts" / "prefect_api.py")))
    state = json.loads((clone / ".prefect" / "serve.json").read_text())

    deploy(clone)
    first = training(clone)
    (flow,) = api.post(state["url"], "flow_runs/filter", api.LIVE_RUNS)
    api.post(state["url"], f"flow_runs/{flow['id']}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    left_as_it_should_be(first)
    assert wait_for(lambda: not api.post(state["url"], "flow_runs/filter", api.LIVE_RUNS))
    (ended,) = api.post(state["url"], "flow_runs/filter", {"flow_runs": {"id": {"any_": [flow["id"]]}}})
    assert ended["state"]["type"] == "CANCELLED"

    reached = len(first.steps())
    deploy(clone)
    again = training(clone, reached)
    assert again == first

    os.kill(state["worker"][0], signal.SIGTERM)
    left_as_it_should_be(first)
