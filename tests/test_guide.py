"""Every command line of the guide, taken from its text, is run here, or stands in a table with the reason why it cannot be."""

import logging
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from small_corpus import ROOT, environment, gswa, write_corpus

from gswa.config import read_config_file, resolve
from gswa.rundir import RunDir
from gswa.train import app, main
from gswa.workspace import Workspace

TEXT = (ROOT / "tests" / "data" / "guide.md").read_text(encoding="utf-8")
A_RUN = re.compile(r"runs/(?:20240115-123456|xxx|<your-run>)")  # how the guide writes the folder of some run
CANNOT = {  # how a command begins: why no test runs it
    "micromamba ": "micromamba is not everywhere; set-up brings its own, by URL",
    "curl ": "fetches and runs an installer from the network",
    "source ": "changes the calling shell and nothing of GSWA",
    "pip install ": "would change the environment that the tests run in",
    "python -c \"import torch; print(f'GPU: {torch.cuda.get_device_name(0)": "needs an NVIDIA GPU",
    "open models/": "another layout than the guide's own run directory, where the report lies",
    "open runs/": "a desktop's command; that its file is there is tested",
    "ollama ": "Ollama is not everywhere; that its file is there is tested",
    "make run": "the writing page does not exist yet",
}
KINDS = {  # the first that matches names the test that runs the command
    "hub": r"python -m gswa\.train .*(--model \S+/|--config configs/my_run\.yaml)",  # base models of the hub
    "train": r"python -m gswa\.train train\b",
    "command": r"python -m gswa\.train \w+",
    "script": r"python scripts/visualize_training\.py ",
    "target": r"make ",
    "torch": r"python -c ",
    "tests": r"pytest ",
    "shell": r"echo ",
}


def guide_commands() -> list[str]:
    """Of the fenced bash blocks and of the tables headed `Command`, each once, comments dropped and continued lines joined."""
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, re.M | re.S)).replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in blocks.splitlines()]
    for table in re.findall(r"^\| Command \|.*\n((?:\|.*\n?)+)", TEXT, re.M):
        lines += re.findall(r"^\| `([^`]+)`", table, re.M)
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))


def kind_of(command: str) -> str | None:
    if any(command.startswith(start) for start in CANNOT):
        return "cannot"
    return next((kind for kind, pattern in KINDS.items() if re.match(pattern, command)), None)


def of_kind(kind: str) -> list[str]:
    return [command for command in COMMANDS if kind_of(command) == kind]


COMMANDS = guide_commands()
# `-y` answers a question that only a terminal is asked: with it and without it a test runs the same.
TRAININGS = list({command.removesuffix(" -y"): command for command in of_kind("train")}.values())


# -- what the commands run in --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def process_as_before() -> Iterator[None]:
    """Undo what the front door and Prefect, which adds a handler to the logger `gswa`, leave behind in the process."""
    logger = logging.getLogger("gswa")
    handlers, level, propagate, terminate = [*logger.handlers], logger.level, logger.propagate, signal.getsignal(signal.SIGTERM)
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    signal.signal(signal.SIGTERM, terminate)


@pytest.fixture(scope="module")
def home(tmp_path_factory, process_as_before) -> Iterator[Path]:
    """A project's folder with two short papers, the guide's YAML file, and Prefect's server for the trainings."""
    from prefect.settings import PREFECT_HOME, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    folder = tmp_path_factory.mktemp("project")
    write_corpus(folder, pdf=False)
    (folder / "configs").mkdir()
    (folder / "configs" / "my_run.yaml").write_text(yaml_block(), encoding="utf-8")
    # A command after a training still has Prefect's log handler, which a process of its own would not have.
    settings = {PREFECT_HOME: folder / "prefect", PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}
    with pytest.MonkeyPatch.context() as patch, temporary_settings(settings):
        for name in ("GSWA_HOME", "CUDA_VISIBLE_DEVICES"):
            patch.setenv(name, environment(folder)[name])
        patch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # as the front door sets it for good
        patch.chdir(folder)
        with prefect_test_harness(server_startup_timeout=180):
            yield folder


@pytest.fixture(scope="module")
def run(home) -> RunDir:
    assert main(["train", "--iters", "2", "-y"]) == 0
    return Workspace().latest_run()


def arguments_of(command: str, run: RunDir | None = None) -> list[str]:
    """Without the program's name; the guide's run is the one of these tests."""
    words = shlex.split(command)
    if run is not None:
        words = [A_RUN.sub(f"runs/{run.id}", word) for word in words]
    return words[3:] if words[1] == "-m" else words[1:]


def yaml_block() -> str:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S)
    return block


# -- the list itself -----------------------------------------------------------------------------------------------------
def test_the_guide_has_commands_of_every_kind():
    assert len(COMMANDS) > 40
    assert {kind: of_kind(kind) for kind in KINDS if not of_kind(kind)} == {}


def test_every_command_is_run_or_has_a_reason_not_to_be():
    assert [command for command in COMMANDS if kind_of(command) is None] == []


def test_every_reason_stands_for_a_command_of_the_guide():
    assert [start for start in CANNOT if not any(command.startswith(start) for command in COMMANDS)] == []


# -- python -m gswa.train ------------------------------------------------------------------------------------------------
@pytest.mark.prefect
@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_completes(command, home, run):
    runs = set(home.glob("runs/*"))
    assert main(arguments_of(command, run)) == 0
    (made,) = set(home.glob("runs/*")) - runs
    assert RunDir(made).status() == "completed"
    assert (RunDir(made).plan() is not None) == ("--auto-plan" in command)
    for words in re.findall(r"--(batch-size|max-seq-length|num-layers) (\d+)", command):
        assert getattr(RunDir(made).settled().config, words[0].replace("-", "_")) == int(words[1])


@pytest.mark.prefect
@pytest.mark.parametrize("command", of_kind("command"))
def test_a_command_succeeds_and_says_something(command, home, run, capsys):
    assert main(arguments_of(command, run)) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", of_kind("hub"))
def test_a_base_model_that_cannot_be_had_is_said_before_anything_is_made(command, tmp_path):
    write_corpus(tmp_path, pdf=False)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "my_run.yaml").write_text(yaml_block(), encoding="utf-8")
    ended = gswa(tmp_path, *arguments_of(command))
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "hub cannot be reached" in ended.stderr and "--model gswa-tiny" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_the_yaml_block_settles_its_own_numbers(tmp_path):
    file = tmp_path / "my_run.yaml"
    file.write_text(yaml_block(), encoding="utf-8")
    written = dict(line.split(": ") for line in yaml_block().splitlines() if not line.startswith("#"))
    settled = resolve(read_config_file(file))
    assert written and {name: origin for name, origin in settled.origin.items() if name in written} == dict.fromkeys(written, str(file))
    for name, text in written.items():
        value = getattr(settled.config, name)
        assert value == (text == "true" if isinstance(value, bool) else type(value)(text)), name
    assert settled.config.learning_rate == 0.00001  # YAML itself reads 1e-5 as text
    assert settled.config.epochs is None


# -- scripts, targets and the rest ---------------------------------------------------------------------------------------
@pytest.mark.prefect
@pytest.mark.parametrize("command", of_kind("script"))
def test_a_script_succeeds_and_says_something(command, run, capsys, monkeypatch):
    script, *options = arguments_of(command, run)
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", of_kind("target"))
def test_a_target_has_a_recipe_whose_commands_the_front_door_accepts(command):
    shown = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"-m gswa\.train|scripts/setup\.sh", shown)
    for arguments in re.findall(r"-m gswa\.train (.*)", shown):
        name, *options = shlex.split(arguments)
        typer.main.get_command(app).commands[name].make_context(name, options)  # a wrong option raises


@pytest.mark.parametrize("command", of_kind("torch"))
def test_torch_says_whether_it_has_cuda(command):
    ended = subprocess.run([sys.executable, *arguments_of(command)], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"CUDA: (True|False)\n", ended.stdout)


@pytest.mark.parametrize("command", of_kind("tests"))
def test_the_tests_that_the_guide_names_are_there(command):
    """Collected only: the suite that this test is part of runs them."""
    pytest_command = [sys.executable, "-m", *shlex.split(command), "--collect-only", "-p", "no:cacheprovider"]
    collected = subprocess.run(pytest_command, cwd=ROOT, capture_output=True, text=True)
    assert collected.returncode == 0, collected.stdout
    assert "<Function test_" in collected.stdout


@pytest.mark.parametrize("command", of_kind("shell"))
def test_a_shell_line_succeeds(command, tmp_path):
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / ".env").read_text() == "VLLM_MODEL_NAME=gswa-gilles\n"


@pytest.mark.prefect
@pytest.mark.parametrize("command", [command for command in of_kind("cannot") if A_RUN.search(command)])
def test_the_file_that_another_program_is_given_is_there(command, home, run):
    (file,) = [word for word in arguments_of(command, run) if word.startswith("runs/")]
    assert (home / file).stat().st_size
