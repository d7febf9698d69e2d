"""The flow under Prefect's own test harness, and the train task's retries with real errors."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from extras import extra
from small_corpus import write_corpus

from gswa.config import RunRequest, Settings
from gswa.corpus.index import parse_corpus
from gswa.errors import GswaError, OutOfMemory
from gswa.files import write_json
from gswa.rundir import RunDir
from gswa.workspace import Workspace

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """Prefect's server on a database of its own; what it leaves on the logger is taken away again."""
    from prefect.testing.utilities import prefect_test_harness

    logger = logging.getLogger("gswa")
    handlers, level = logger.handlers[:], logger.level
    with prefect_test_harness(server_startup_timeout=120):
        yield
    logger.handlers, logger.level = handlers, level


@pytest.fixture
def home(tmp_path, monkeypatch, harness) -> Path:
    monkeypatch.setenv("GSWA_HOME", str(tmp_path))
    write_corpus(tmp_path, pdf=False)
    return tmp_path


def request(**settings) -> RunRequest:
    return RunRequest(
        settings=Settings(model_id="gswa-tiny", device="cpu", backend="torch", iters=3, evaluations=1, **settings), skip_plots=False
    )


def artifact(key: str):
    from prefect.artifacts import Artifact

    found = asyncio.run(Artifact.aget(key))
    assert found is not None, key
    return found.data


def test_the_flow_ends_with_a_summary_a_report_and_a_row_per_file(home):
    from flows.train import finetune

    summary = finetune(request())
    assert (summary.status, summary.steps) == ("completed", 3)
    assert summary.test_loss_after is not None
    assert "data:image/png;base64," in artifact("report")
    assert "growth.docx" in artifact("corpus")
    metadata = RunDir(Path(summary.path)).metadata()
    assert metadata["flow_run_id"]
    assert metadata["data"]["rewriting"].startswith("rewriting, which is what the writing page does, is untrained: the built-in base")


@pytest.mark.parametrize("runner", ["threads", "processes", "dask", "ray"])
def test_whoever_reads_the_batches_the_corpus_is_the_same(home, monkeypatch, runner):
    from flows import corpus as flow

    if runner in ("dask", "ray"):
        extra(f"prefect_{runner}")
    monkeypatch.setattr(flow, "BATCH_FILES", 2)
    run = RunDir.create(home / "runs")
    write_json(run.request_file, request().model_copy(update={"task_runner": runner}).model_dump(mode="json"))
    parsed = flow.parse(run)
    reference = parse_corpus(Workspace().corpus, home / "reference")
    assert parsed == replace(reference, folder=Workspace().parsed)
    assert (Workspace().parsed / "report.json").read_bytes() == (home / "reference" / "report.json").read_bytes()
    assert flow.parse(run) == parsed


def test_the_retry_hook_walks_down_the_ladder_and_stops_at_its_foot_with_the_message(home):
    from flows.train import finetune

    state = finetune(request(memory_limit_gb=0.3, max_seq_length=512), return_state=True)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, OutOfMemory)
    assert state.is_failed()
    assert "Tried, and the peak of memory at each" in state.message
    run = Workspace().latest_run()
    assert run.status() == "failed"
    assert len(run.fallbacks()) == run.metadata()["attempts"] - 1 > 0
    rows = artifact("oom-fallback")
    assert all(event.rung in rows for event in run.fallbacks())


def test_an_error_that_is_not_want_of_memory_is_not_retried(home):
    from flows.train import finetune

    with pytest.raises(GswaError, match="the loss became") as caught:
        finetune(request(learning_rate=1e30))
    assert not isinstance(caught.value, OutOfMemory)
    run = Workspace().latest_run()
    assert run.metadata()["attempts"] == 1
    assert not run.fallbacks()
