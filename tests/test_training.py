"""The whole way through the command line: a PDF, a DOCX and a TXT in, adapter and report out, the same again from one seed."""

import json
from pathlib import Path

import pytest
from small_corpus import environment, gswa, write_corpus

from gswa.conservation import conservation
from gswa.corpus.index import read_documents
from gswa.files import read_lines
from gswa.records import HELD_OUT
from gswa.rundir import RunDir
from gswa.workspace import Workspace

pytestmark = pytest.mark.prefect
SEED = "7"  # of these three papers it trains on the PDF and holds the others out
COMMAND = ("train", "--preprocess", "-y", "--iters", "3", "--seed", SEED)
GUIDE = Path(__file__).parent / "data" / "guide.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_corpus(folder)
    return folder


def trained(home: Path, *arguments: str) -> RunDir:
    ended = gswa(home, *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return Workspace(home).latest_run()


@pytest.fixture(scope="module")
def run(home: Path) -> RunDir:
    return trained(home, *COMMAND)


def tree_of_the_guide() -> set[str]:
    """The files of the guide's drawing of a run directory, as paths."""
    drawn = GUIDE.read_text(encoding="utf-8").split("runs/<timestamp>/\n")[1].split("```")[0]
    folders: list[str] = []
    files = set()
    for line in drawn.splitlines():
        name = line.split("#")[0].lstrip("│├└─ ").strip()
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4 - 1
        folders[depth:] = [name]
        if not name.endswith("/"):
            files.add("".join(folders))
    return files


def losses(run: RunDir) -> list[float]:
    return [step.train_loss for step in run.steps()]


def test_every_file_of_the_guides_tree_is_there(run):
    drawn = tree_of_the_guide()
    assert {"config/run_config.json", "logs/events.jsonl", "plots/length_distribution.png", "metadata.json"} <= drawn
    wanted = drawn | {"adapters/Modelfile", "adapters/adapter_model.safetensors"}
    assert {file for file in wanted if not (run.path / file).is_file() or not (run.path / file).stat().st_size} == set()


def test_each_kind_of_paper_reaches_the_examples(home, run):
    documents = {line["document"] for split in ("train", "valid", "test") for line in read_lines(run.examples / f"{split}.jsonl")}
    assert {Path(name).suffix for name in documents} == {".pdf", ".docx", ".txt"}


def test_no_text_was_lost_on_the_way_to_the_chunks(home, run):
    found = conservation(run, run.current_config().max_seq_length, read_documents(Workspace(home).parsed))
    assert found["holds"] and found["blocks"] > 0 and found["blocks_missing"] == 0
    assert found["characters_in"] > 0


def test_held_out_loss_is_measured_before_and_after(run):
    for split in HELD_OUT:
        steps = [metrics.step for metrics in run.evaluations(split)]
        assert steps[0] == 0 and steps[-1] == 3
    evaluation = run.evaluation()
    assert evaluation.test_loss_after < evaluation.test_loss_before


def test_list_shows_the_run_completed(home, run):
    listed = json.loads(gswa(home, "list", "--json").stdout)
    assert {entry["id"]: entry["status"] for entry in listed}[run.id] == "completed"


def test_a_completed_run_is_not_resumed(home, run):
    refused = gswa(home, "resume", run.id)
    assert refused.returncode == 2
    assert "completed" in refused.stderr and "Traceback" not in refused.stderr


def test_nothing_is_written_outside_the_places_of_the_project(home, run):
    beside = {".gswa", "data", "runs", Path(environment(home)["PREFECT_HOME"]).name, "huggingface"}
    assert {path.name for path in home.iterdir()} <= beside


@pytest.mark.parametrize("again", ["the same command", "its own run_config.json"])
def test_a_run_is_repeated_to_the_last_digit_by(again, home, run):
    arguments = COMMAND if again == "the same command" else ("train", "--config", str(run.config_file), "-y")
    repeated = trained(home, *arguments)
    assert repeated.id != run.id
    assert len(losses(run)) == 3
    assert losses(repeated) == losses(run)
    examples = [[file.read_bytes() for file in sorted(one.examples.iterdir())] for one in (run, repeated)]
    assert examples[0] == examples[1]
