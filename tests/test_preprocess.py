"""`preprocess` by itself: what it reads, writes, keeps and reports, and that training takes over what it made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gswa import intake
from gswa.chunking import chunks, data_digests
from gswa.config import Layer, RunRequest, resolve
from gswa.conservation import conservation
from gswa.dataset import Tokenizer
from gswa.errors import ConfigError, DataError
from gswa.formats import file_form, read_chunks
from gswa.lengths import statistics_report
from gswa.parts import CONTINUE, Rules
from gswa.preprocess import REPORT_FILE, preprocess_command, preprocess_folder
from gswa.rundir import RunDir

LONG = " ".join(f"Sentence number {n} is not very long." for n in range(60))
LINES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": LONG}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Tell me."}, {"from": "gpt", "value": LONG}]},
    "alpaca": {"instruction": "Tell me.", "input": "", "output": LONG},
    "text": {"text": LONG},
}


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def written(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# -- files -----------------------------------------------------------------------------------------------------------------
def test_a_folder_is_split_into_another_and_kept_while_nothing_changes(tiny_run: RunDir, tmp_path: Path, tokenizer: Tokenizer) -> None:
    stats = preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256))
    before = files(tmp_path / "out")
    assert {"train.jsonl", "valid.jsonl", "test.jsonl", "stats.json"} == set(before)
    assert preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256)) == stats
    assert files(tmp_path / "out") == before
    assert preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 192)).splits["all"].after.max <= 192


def test_what_is_refused_leaves_no_folder_behind(tiny_run: RunDir, tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="--overlap 200"):
        preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256, overlap=200))
    with pytest.raises(DataError, match="no such file"):
        preprocess_folder(tmp_path / "nothing", tmp_path / "out", Rules(tokenizer, 256))
    assert not (tmp_path / "out").exists()


def test_a_folder_without_train_jsonl_is_told_what_it_holds_instead(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "papers.jsonl").touch()
    with pytest.raises(DataError, match=r"train\.jsonl: no such file; .* there is papers\.jsonl: name the file itself"):
        preprocess_folder(tmp_path, tmp_path / "out", Rules(tokenizer, 256))
    with pytest.raises(DataError, match=r"nothing\.jsonl: no such file"):
        preprocess_folder(tmp_path / "nothing.jsonl", tmp_path / "out", Rules(tokenizer, 256))


def test_analysis_writes_nothing_and_finds_the_same(tiny_run: RunDir, tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256), analyze_only=True)
    assert not (tmp_path / "out").exists()
    assert found.splits == preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256)).splits


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl", "set_aside.jsonl", "stats.json"])
def test_files_that_were_not_made_by_preprocessing_are_left_alone(
    tiny_run: RunDir, tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    written(tmp_path / "out" / name, {"theirs": 1})
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match=f"{name}: not made by preprocessing, so it is not overwritten; choose another --output"):
        preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256))
    assert files(tmp_path / "out") == before


def test_files_beside_somebody_else_s_statistics_are_left_alone(tiny_run: RunDir, tmp_path: Path, tokenizer: Tokenizer) -> None:
    for name in ("train.jsonl", "stats.json"):
        written(tmp_path / "out" / name, {"theirs": 1})
    with pytest.raises(DataError, match="not made by preprocessing"):
        preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256))


@pytest.mark.parametrize("again", ["out", "out/train.jsonl"])
def test_what_was_preprocessed_is_not_overwritten_by_its_own_chunks(tmp_path: Path, tokenizer: Tokenizer, again: str) -> None:
    preprocess_folder(written(tmp_path / "mine.jsonl", LINES["alpaca"]), tmp_path / "out", Rules(tokenizer, 256))
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match="out: holds the input, which would be overwritten; choose another --output"):
        preprocess_folder(tmp_path / again, tmp_path / "out", Rules(tokenizer, 128))
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train.jsonl", lambda before: before.replace(b"number 5", b"Number 5")),
        ("train.jsonl", lambda before: before + b"mine"),
        ("set_aside.jsonl", lambda before: b"mine"),
    ],
)
def test_what_was_changed_by_hand_after_preprocessing_is_not_overwritten(
    tmp_path: Path, tokenizer: Tokenizer, name: str, change: Callable[[bytes], bytes]
) -> None:
    source = written(tmp_path / "mine.jsonl", LINES["alpaca"])
    preprocess_folder(source, tmp_path / "out", Rules(tokenizer, 256))
    path = tmp_path / "out" / name
    path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match=f"{name}: changed since it was preprocessed.*train on it with --data"):
        preprocess_folder(source, tmp_path / "out", Rules(tokenizer, 128))
    assert files(tmp_path / "out") == before


def test_what_was_broken_off_is_made_anew(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = written(tmp_path / "mine.jsonl", LINES["alpaca"])
    first = preprocess_folder(source, tmp_path / "out", Rules(tokenizer, 256))
    (tmp_path / "out" / "stats.json").write_text("{}\n")
    written(tmp_path / "out" / "train.jsonl", "torn")
    assert preprocess_folder(source, tmp_path / "out", Rules(tokenizer, 256)) == first


@pytest.mark.parametrize("form", LINES)
def test_chunks_have_the_form_of_their_examples_and_their_fields(tmp_path: Path, tokenizer: Tokenizer, form: str) -> None:
    source = written(tmp_path / "mine.jsonl", {**LINES[form], "topic": "bacteria", "id": "a"})
    preprocess_folder(source, tmp_path / "out", Rules(tokenizer, 256))
    stored = tmp_path / "out" / "train.jsonl"
    lines = [json.loads(line) for line in stored.read_text().splitlines()]
    assert file_form(stored) == form
    assert len(lines) > 2
    for line in lines:
        assert line.items() >= {"topic": "bacteria", "id": "a", "parts": len(lines)}.items()
        assert line.keys() >= LINES[form].keys()
    assert all(CONTINUE in chunk.messages[-2].content for chunk in list(read_chunks(stored))[1:])
    assert max(chunk.tokens for chunk in read_chunks(stored)) <= 256


def test_bad_lines_are_counted_and_named_in_the_report(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = written(tmp_path / "mine.jsonl", LINES["alpaca"], "oops\n", *[{"title": "x"}] * 28, LINES["alpaca"])
    stats = preprocess_folder(source, tmp_path / "out", Rules(tokenizer, 256))
    assert stats.passed_over["mine.jsonl"]["lines"] == 29
    report = statistics_report(stats)
    assert "- mine.jsonl: 29\n    - line 2: not valid JSON\n    - line 3: none of messages" in report
    assert "    - and 9 more" in report
    assert stats.conservation["examples"] == 2


def test_the_report_shows_the_distribution_before_and_after(tiny_run: RunDir, tokenizer: Tokenizer) -> None:
    report = statistics_report(preprocess_folder(tiny_run.examples, tiny_run.path / "out", Rules(tokenizer, 256)))
    assert "| tokens | count | min | median | p90 | p95 | p99 | max | total |" in report
    assert "Would be truncated before splitting: 1 of 3 (33.3 %); after: 0 (0.0 %)" in report
    assert "Chunks per original entry: " in report
    assert "characters in = " in report


def test_the_command_takes_one_file_and_the_project_s_folders(tiny_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSWA_HOME", str(tmp_path))
    file = tiny_run.examples / "train.jsonl"
    printed = preprocess_command(file, None, 256, 0, "sentence", False, tmp_path / "reports", None)
    assert str(tmp_path / "data" / "preprocessed" / "256") in printed
    assert (tmp_path / "reports" / REPORT_FILE).read_text() in printed
    with pytest.raises(DataError, match=r"training.train\.jsonl: no such file"):
        preprocess_command(None, None, 256, 0, "auto", True, None, None)
    with pytest.raises(ConfigError, match="choose auto, paragraph, sentence, token"):
        preprocess_command(file, None, 256, 0, "pages", True, None, None)


# -- and training ----------------------------------------------------------------------------------------------------------
def new_run(home: Path, data: Path, **settings: Any) -> RunDir:
    request = RunRequest(data=data)
    run = intake.open_run(request)
    intake.prepare(run, None)
    run.write_config(request, resolve(Layer("test", {"max_seq_length": 256, **settings})))
    return run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GSWA_HOME", str(tmp_path))
    written(tmp_path / "mine" / "train.jsonl", LINES["alpaca"], {**LINES["alpaca"], "instruction": "Why? " * 300})
    return tmp_path


def test_held_out_answers_that_are_trained_on_are_told(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(home / "mine" / "test.jsonl", LINES["alpaca"], {**LINES["alpaca"], "output": "Another."})
    with caplog.at_level("WARNING", "gswa"):
        new_run(home, home / "mine")
    assert "test.jsonl: 1 of its 2 answers stand in train.jsonl too" in caplog.text
    assert "valid.jsonl: missing or empty, so that the last checkpoint is taken" in caplog.text


def test_training_takes_over_what_was_preprocessed_from_the_same_data(home: Path) -> None:
    preprocess_command(home / "mine", None, 256, 0, "paragraph", False, None, None)
    run = new_run(home, home / "mine")
    stats = chunks(run, run.current_config())
    made = list(read_chunks(home / "data" / "preprocessed" / "256" / "train.jsonl"))
    assert list(run.read_chunks(256, "train")) == made
    assert (stats.set_aside, stats.after.count) == (1, len(made))
    assert json.loads((run.chunks(256) / "stats.json").read_text())["strategy"] == "paragraph"
    assert conservation(run, 256)["holds"]
    before = files(run.chunks(256))
    chunks(run, run.current_config())
    assert files(run.chunks(256)) == before


def test_chunks_of_one_file_serve_a_folder_whose_train_file_says_the_same(home: Path) -> None:
    alone = written(home / "another name.jsonl", LINES["alpaca"], {**LINES["alpaca"], "instruction": "Why? " * 300})
    preprocess_command(alone, None, 256, 0, "paragraph", False, None, None)
    run = new_run(home, home / "mine")
    chunks(run, run.current_config())
    assert json.loads((run.chunks(256) / "stats.json").read_text())["strategy"] == "paragraph"
    assert conservation(run, 256)["holds"]


def test_chunks_that_were_changed_by_hand_are_not_taken_over(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    preprocess_command(home / "mine", None, 256, 0, "paragraph", False, None, None)
    path = home / "data" / "preprocessed" / "256" / "train.jsonl"
    path.write_bytes(path.read_bytes().replace(b"number 5 ", b"Number 5 "))
    run = new_run(home, home / "mine")
    chunks(run, run.current_config())
    assert conservation(run, 256)["holds"]
    assert "changed since it was preprocessed, so the examples are split anew" in caplog.text


@pytest.mark.parametrize("change", [{"max_seq_length": 192}, {"strategy": "token"}, {"data": True}, {"template": True}])
def test_training_splits_anew_what_was_preprocessed_otherwise(home: Path, change: dict[str, Any]) -> None:
    preprocess_command(home / "mine", None, 256, 0, "paragraph", False, None, None)
    sealed = home / "data" / "preprocessed" / "256" / "stats.json"
    if change.pop("template", False):
        stats = json.loads(sealed.read_text())
        stats["made_from"]["template"] = "another"
        sealed.write_text(json.dumps(stats))
    if change.pop("data", False):
        written(home / "mine" / "train.jsonl", LINES["alpaca"])
    run = new_run(home, home / "mine", **change)
    chunks(run, run.current_config())
    strategy = json.loads((run.chunks(run.current_config().max_seq_length) / "stats.json").read_text())["strategy"]
    assert strategy == change.get("strategy", "auto")


def test_the_bad_lines_of_a_run_s_own_data_are_in_its_statistics(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(home / "mine" / "train.jsonl", "oops\n", LINES["alpaca"])
    run = new_run(home, home / "mine")
    chunks(run, run.current_config())
    found = {"train.jsonl": {"lines": 1, "first": ["line 1: not valid JSON"]}}
    assert json.loads(run.stats_file.read_text())["passed_over"] == found
    assert "train.jsonl line 1: not valid JSON" in caplog.text


def test_a_run_remembers_the_digests_of_its_data(home: Path) -> None:
    assert new_run(home, home / "mine").metadata()["data_files"] == data_digests(home / "mine")
