"""The front door: one message and the right exit code for whatever is asked of it, before any work where that can be known."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import typer
from papers import PROSE, Text, column, write_pdf
from report_run import empty_run, evaluation_metrics, trained_run
from small_corpus import ROOT, environment, gswa, write_corpus, write_txt

from gswa.basemodel import BUILTIN_FOLDER
from gswa.console import afterwards, table, way_on
from gswa.errors import GswaError, OutOfMemory, TrainingError
from gswa.rundir import RunDir
from gswa.train import app, main
from gswa.workspace import Workspace

COMMANDS = (
    "info",
    "parse",
    "pairs",
    "prepare",
    "preprocess",
    "plan",
    "train",
    "resume",
    "visualize",
    "list",
    "evaluate",
    "export",
    "fetch",
)
HEAVY = ("torch", "transformers", "peft", "prefect", "matplotlib")
BUILTIN = ("--model", "gswa-tiny")  # so that no machine's profile asks the hub


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GSWA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """`main`, with what it printed; long lines are not wrapped, since the tests' terminal is none."""
    terminate = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str | Path) -> Ended:
        code = main([str(argument) for argument in arguments])
        return Ended(code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, terminate)


def nothing_was_made(home: Path) -> bool:
    return not (home / "runs").exists() and not (home / "data" / "corpus" / "parsed").exists()


# -- every command -------------------------------------------------------------------------------------------------------
def test_the_commands_are_those_of_this_version():
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_flag_does(call, command):
    ended = call(command, "--help")
    assert ended.code == 0
    assert f"{command} [OPTIONS]" in ended.out
    flags = [line for line in ended.out.splitlines() if line.lstrip().startswith("--")]
    assert flags and all(len(line.split()) > 1 for line in flags)


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help"), ("info",), ("list",)])
def test_a_look_around_imports_no_heavy_library(home, arguments):
    trained_run(home)
    script = f"import sys; from gswa.train import main; main({list(arguments)}); print([n for n in {HEAVY} if n in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], cwd=home, env=environment(home), capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_debug_as_its_errors_advise(command):
    assert "debug" in {parameter.name for parameter in typer.main.get_command(app).commands[command].params}


def test_the_short_forms_are_the_long_ones():
    train = typer.main.get_command(app).commands["train"]
    short = train.make_context("train", ["-c", "a.yaml", "-m", "gswa-tiny", "-n", "first", "-b", "2", "-y", "--preprocess"]).params
    long = ["--config", "a.yaml", "--model", "gswa-tiny", "--name", "first", "--batch-size", "2", "--yes", "--preprocess"]
    assert short == train.make_context("train", long).params
    assert short["batch_size"] == 2 and short["yes"] and short["preprocess"]


# -- flags and settings --------------------------------------------------------------------------------------------------
def test_a_wrong_flag_is_answered_with_the_nearest_right_one(call):
    ended = call("train", "--batch-sise", "2")
    assert ended.code == 2
    assert "--batch-sise" in ended.err and "--batch-size" in ended.err


def test_a_wrong_command_is_answered_with_the_nearest_right_one(call):
    ended = call("trian")
    assert ended.code == 2
    assert "'train'" in ended.err


def test_a_wrong_key_in_yaml_is_answered_with_the_nearest_right_one(call, home):
    (home / "my.yaml").write_text("batch_sise: 2\nlora_rnak: 4\n")
    ended = call("train", *BUILTIN, "-c", "my.yaml", "-y")
    assert ended.code == 2
    assert "my.yaml: unknown setting batch_sise; did you mean batch_size?" in ended.err
    assert "lora_rank" in ended.err, "all faults are told at once"
    assert nothing_was_made(home)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--iters", "5", "--epochs", "2"), "iters and epochs are both given"),
        (("-b", "0"), "batch_size = 0"),
        (("-b", "two"), "--batch-size"),
        (("--backend", "jax"), "'torch' or 'mlx'"),
        (("--memory-limit", "plenty"), "8GB"),
        (("--config", "nosuch.yaml"), "nosuch.yaml: cannot be read"),
        (("--parser", "pypdf"), "pymupdf"),
        (("--num-processes", "2"), "not built yet"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_any_work(call, home, arguments, words):
    write_corpus(home, pdf=False)
    ended = call("train", *BUILTIN, "-y", *arguments)
    assert ended.code == 2
    assert words in ended.err and "Traceback" not in ended.err
    assert nothing_was_made(home)


@pytest.mark.skipif(find_spec("gswa.backends.mlx") is not None, reason="the MLX backend is there")
def test_a_backend_that_is_missing_is_said_before_any_work(call, home):
    write_corpus(home, pdf=False)
    ended = call("train", "--backend", "mlx", "--preprocess", "--memory-safe", "-y")
    assert ended.code == 2
    assert "mlx: not part of this version" in ended.err and "--backend torch" in ended.err
    assert nothing_was_made(home)


def test_an_unknown_model_without_network_names_the_built_in_one(home):
    write_corpus(home, pdf=False)
    ended = gswa(home, "train", "--model", "nosuch/model", "-y")
    assert ended.returncode == 2
    assert "nosuch/model" in ended.stderr and "--model gswa-tiny" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert nothing_was_made(home)


# -- papers and data -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["train", "plan"])
def test_no_papers_is_said_with_the_folder_and_what_belongs_there(call, home, command):
    ended = call(command, *BUILTIN, *(["-y"] if command == "train" else []))
    assert ended.code == 3
    assert str(home / "data" / "corpus" / "raw") in ended.err
    assert "PDF, DOCX, TXT, MD" in ended.err and "important_examples/" in ended.err
    assert nothing_was_made(home)


def test_no_papers_is_said_before_prefect_is_started(home):
    script = (
        "import sys; from gswa.train import main; code = main(['train', '-m', 'gswa-tiny', '-y']); print(code, 'prefect' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=home, env=environment(home), capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["3", "False"]


def test_the_sample_corpus_stands_in_for_papers_and_is_named(call, home):
    sample = home / "data" / "sample_corpus"
    sample.mkdir(parents=True)
    write_txt(sample / "light.txt", "Light and yield", 1)
    ended = call("parse")
    assert ended.code == 0
    assert str(sample) in ended.out and "1 of 1 files read" in ended.out
    write_corpus(home, pdf=False)
    assert str(sample) not in call("parse").out


def test_data_without_its_train_file_is_refused_before_any_work(call, home):
    ended = call("train", *BUILTIN, "--data", "nosuch", "-y")
    assert ended.code == 3
    assert "nosuch/train.jsonl" in ended.err
    assert nothing_was_made(home)


def test_papers_that_cannot_be_read_are_set_aside_and_the_others_go_on(call, home):
    folder = home / "papers"
    folder.mkdir()
    write_pdf(folder / "good.pdf", [column(PROSE)])
    write_pdf(folder / "locked.pdf", [column(PROSE)], password="secret")
    write_pdf(folder / "scan.pdf", [[Text(60, 700, "7")], [Text(60, 700, "8")]])
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4\n" + b"nothing that a reader could use\n" * 9)
    ended = call("parse", "--input", folder)
    assert ended.code == 0
    assert "1 of 4 files read, 3 set aside" in ended.out
    told = " ".join(ended.out.split())
    for name, reason in (("locked.pdf", "password"), ("scan.pdf", "OCR"), ("broken.pdf", "damaged")):
        assert reason in told.partition(f"{name} set aside")[2].partition(" set aside")[0], f"{name}: {told}"
    report = (home / "data" / "corpus" / "parsed" / "report.md").read_text(encoding="utf-8")
    assert all(name in report for name in ("good.pdf", "locked.pdf", "scan.pdf", "broken.pdf"))


def test_papers_of_which_none_can_be_read_are_an_error_with_the_reasons(call, home):
    folder = home / "papers"
    folder.mkdir()
    write_pdf(folder / "locked.pdf", [column(PROSE)], password="secret")
    ended = call("parse", "--input", folder)
    assert ended.code == 3
    assert "locked.pdf" in ended.err and "password" in ended.err


def test_a_second_reader_reads_where_it_is_installed_and_is_named_where_not(call, home):
    ended = call("parse", "--input", write_corpus(home), "--parser", "pymupdf")
    if find_spec("pymupdf"):
        assert ended.code == 0 and "3 of 3 files read" in ended.out
    else:
        assert ended.code == 2 and "pip install" in ended.err


# -- the disk ------------------------------------------------------------------------------------------------------------
def test_a_file_in_place_of_the_runs_is_said_before_any_work(call, home):
    write_corpus(home, pdf=False)
    (home / "runs").write_text("mine")
    ended = call("train", *BUILTIN, "-y")
    assert ended.code == 2
    assert str(home / "runs") in ended.err and "Traceback" not in ended.err
    assert (home / "runs").read_text() == "mine"
    assert not (home / "data" / "corpus" / "parsed").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_said_before_any_work(call, home):
    write_corpus(home, pdf=False)
    (home / "runs").mkdir(mode=0o555)
    ended = call("train", *BUILTIN, "-y")
    assert ended.code == 2
    assert str(home / "runs") in ended.err


def test_a_disk_without_room_is_said_before_any_work_with_both_numbers(call, home):
    write_corpus(home, pdf=False)
    base = Path(shutil.copytree(BUILTIN_FOLDER, home / "base"))
    needed = min(shutil.disk_usage(home).free + 2**30, 2**43)
    os.truncate(base / "model.safetensors", needed)  # a hole: it takes no room itself
    ended = call("train", "--model", base, "-y")
    assert ended.code == 2
    assert "GB here" in ended.err and "GB is free" in ended.err
    assert nothing_was_made(home)


# -- runs ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["visualize", "evaluate", "export"])
def test_a_run_that_is_not_there_is_answered_with_the_newest(call, home, command):
    assert call(command).code == 2, "no run yet"
    run = trained_run(home)
    ended = call(command, "--run-dir", "nosuch")
    assert ended.code == 2
    assert "nosuch" in ended.err and run.id in ended.err


def test_a_run_and_latest_together_are_refused(call, home):
    run = trained_run(home)
    ended = call("visualize", "--ascii", "--latest", "--run-dir", run.id)
    assert ended.code == 2
    assert "--latest" in ended.err


@pytest.mark.parametrize("latest", [(), ("--latest",)])
def test_the_newest_run_is_taken_where_none_is_named(call, home, latest):
    trained_run(home)
    newest = RunDir.create(home / "runs", "zz-newest")
    ended = call("visualize", "--watch", "--ascii", *latest)
    assert ended.code == 0
    assert newest.id in ended.out and "no steps recorded" in ended.out


def test_list_shows_the_newest_first_with_losses_before_and_after(call, home):
    older = trained_run(home)
    newer = RunDir.create(home / "runs", "zz-a-name-of-some-length-that-a-narrow-table-would-cut")
    newer.update(model_id="Qwen/Qwen2.5-7B-Instruct")
    newer.append_eval(evaluation_metrics(0, 2.5, "test"))
    newer.append_eval(evaluation_metrics(9, 2.25, "test"))
    header, first, second = call("list").out.splitlines()
    assert first.startswith(newer.id) and second.startswith(older.id), "whole, so that they can be copied"
    assert "2.500 → 2.250" in first and "5.660 → 4.580" in second
    assert first.index("2.500") == second.index("5.660") == header.index("Test loss")
    assert [entry["id"] for entry in json.loads(call("list", "--json", "--limit", "1").out)] == [newer.id]


def test_list_without_a_run_says_how_to_start_one(call):
    ended = call("list")
    assert ended.code == 0 and "make train-linux" in ended.out


def test_a_run_that_never_trained_says_so_when_it_is_to_be_evaluated(call, home):
    run = empty_run(home)
    ended = call("evaluate", "--run-dir", run.id)
    assert ended.code in (2, 3)
    assert run.id in ended.err and "train the run to its end first" in ended.err


def test_a_finished_run_says_how_to_use_its_model(home):
    run = trained_run(home)
    assert "use it" not in dict(afterwards(run)), "no Modelfile was made for this base"
    assert "visualize" in dict(afterwards(run))["report"], "no report was made"
    run.adapters.mkdir()
    (run.adapters / "Modelfile").touch()
    assert f"ollama create gswa-gilles -f runs/{run.id}/adapters/Modelfile" in dict(afterwards(run))["use it"]


def test_a_run_elsewhere_is_named_by_its_folder(home):
    """`--run-dir ID` was printed, which looks under the current folder."""
    for run in (trained_run(home), trained_run(home / "else where")):
        assert Workspace().find_run(shlex.split(dict(afterwards(run))["samples"])[-1]) == run


@pytest.mark.parametrize(
    ("error", "resumes"),
    [
        (TrainingError("the training process ended with SIGKILL"), True),
        (OutOfMemory("the foot of the ladder", "train"), False),
        (GswaError("the loss became nan"), False),
    ],
)
def test_only_where_it_helps_a_failed_run_is_told_to_resume(home, error, resumes):
    """`resume` takes no settings: it repeated what had failed."""
    run = trained_run(home)
    run.update(status="failed")
    run.output_log.touch()
    (run.checkpoints / "checkpoint-9").mkdir(parents=True)
    *_, line = way_on(run, error)
    assert line.endswith(f"resume {run.id}" if resumes else f"train --config runs/{run.id}/config/run_config.json")


def test_a_table_cuts_no_cell_and_wraps_the_last_column_under_itself():
    name, text = "a-name-that-is-copied", "several words that have to find their place on a narrow terminal"
    header, *lines = table(["name", "text"], [[name, text]], width=60)
    assert header == f"{'name':{len(name)}}  text"
    assert lines[0].startswith(f"{name}  several") and len(lines) > 1
    assert " ".join(line[len(name) + 2 :] for line in lines) == text
    assert max(map(len, lines)) <= 60


# -- errors and the end --------------------------------------------------------------------------------------------------
def test_a_traceback_is_shown_on_request_only(call, home):
    plain = call("train", *BUILTIN, "-y")
    debug = call("train", *BUILTIN, "-y", "--debug")
    assert plain.code == debug.code == 3
    assert "Traceback" not in plain.err and plain.err.count("\n") == 1
    assert "Traceback" in debug.err and debug.err.endswith(plain.err)


@pytest.mark.prefect
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_run_that_is_stopped_says_how_to_go_on(home, sent, code):
    """Both go to the whole group, as a terminal and a service manager send them. Prefect's server died of SIGTERM with it, and the
    command waited minutes for it, with Prefect's complaints on the screen."""
    write_corpus(home, pdf=False)
    command = [sys.executable, "-m", "gswa.train", "train", *BUILTIN, "-y", "--iters", "2000", "--skip-plots"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    # A test run that was started in the background ignores SIGINT, and hands that on.
    streams["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, cwd=home, env=environment(home), **streams) as training:
        before = next((line for line in training.stdout if "Step " in line), "")
        assert before, "the first step came"
        os.killpg(training.pid, sent)
        printed = training.stdout.read()
        assert training.wait(timeout=60) == code, printed
    (entry,) = json.loads(gswa(home, "list", "--json").stdout)
    assert entry["status"] == "interrupted" and entry["steps"] >= 1
    assert f"python -m gswa.train resume {entry['id']}" in printed
    assert "Traceback" not in printed and "Error logging" not in printed and "EventsWorker" not in printed


@pytest.mark.prefect
def test_a_run_that_is_killed_leaves_no_server_behind():
    """Prefect's temporary server, 200 MB, was there for good."""
    code = (
        "from flows.local import _OurServer; server = _OurServer(); server.start(); print(server.server_process.pid, flush=True); input()"
    )
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **streams) as parent:
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        _, alive = psutil.wait_procs([server], timeout=10)
    assert not alive
