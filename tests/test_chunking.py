"""Folders of chunks: written once, sealed, and checked against what was stored."""

import json
from pathlib import Path
from typing import Any

import pytest
from chats import chat

from gswa import chunking
from gswa.chunking import chunks, preprocess_command, preprocess_folder, sealed
from gswa.config import Layer, RunRequest, resolve
from gswa.conservation import conservation
from gswa.dataset import Tokenizer
from gswa.errors import ConfigError, DataError
from gswa.files import write_lines
from gswa.lengths import statistics_report
from gswa.parts import Rules
from gswa.passages import make_examples
from gswa.recipe import read_recipe
from gswa.records import SPLITS, Block, Document
from gswa.rundir import RunDir


def settle(run: RunDir, **settings: Any) -> None:
    run.write_config(RunRequest(), resolve(Layer("test", {"max_seq_length": 256, **settings})))


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


# -- a run -----------------------------------------------------------------------------------------------------------------
def test_no_stored_chunk_passes_the_limit_and_the_statistics_say_what_splitting_did(tiny_run: RunDir) -> None:
    stats = chunks(tiny_run, tiny_run.current_config())
    stored = {split: list(tiny_run.read_chunks(256, split)) for split in SPLITS}
    assert max(chunk.tokens for split in SPLITS for chunk in stored[split]) <= 256
    assert stats.after.count == sum(map(len, stored.values()))
    assert (stats.before.count, stats.over_limit_before, stats.over_limit_after) == (9, 3, 0)
    assert stats.truncated_percent_before == pytest.approx(100 / 3)
    assert stats.chunks_per_example == stats.after.count / 9
    assert stats.histogram_after[-1][0] < 256
    assert tiny_run.length_stats()["all"] == stats
    assert set(tiny_run.length_stats()) == {*SPLITS, "all"}
    assert json.loads(tiny_run.stats_file.read_text())["schema"] == 1


def test_characters_in_are_in_chunks_between_them_or_set_aside(tiny_run: RunDir) -> None:
    write_lines(tiny_run.examples / "valid.jsonl", [chat("long", "Yes. " * 90, asked="Why? " * 300, kind="chat"), chat("short", "Yes.")])
    stats = chunks(tiny_run, tiny_run.current_config())
    found = tiny_run.conservation()
    assert found["holds"]
    assert found["characters_in"] == found["characters_in_chunks"] + found["characters_between"] + found["characters_set_aside"]
    assert (found["characters_set_aside"], stats.characters_set_aside) == (450, 450)
    assert list(found["set_aside"].values()) == list(stats.set_aside_reasons.values()) == [1]


def test_chunks_of_one_length_are_written_once(tiny_run: RunDir) -> None:
    first = chunks(tiny_run, tiny_run.current_config())
    before = files(tiny_run.chunks(256))
    assert chunks(tiny_run, tiny_run.current_config()) == first
    assert files(tiny_run.chunks(256)) == before


def test_chunks_whose_writing_was_broken_off_are_written_anew(tiny_run: RunDir) -> None:
    first = chunks(tiny_run, tiny_run.current_config())
    (tiny_run.chunks(256) / "stats.json").write_text("{}\n")
    assert sealed(tiny_run.chunks(256)) is None
    assert chunks(tiny_run, tiny_run.current_config()) == first
    with (tiny_run.chunks(256) / "train.jsonl").open("a") as out:
        out.write("torn")
    assert chunks(tiny_run, tiny_run.current_config()) == first
    assert conservation(tiny_run, 256)["holds"]


def test_a_shorter_length_is_split_from_the_examples_and_its_statistics_are_the_run_s(tiny_run: RunDir) -> None:
    longer = chunks(tiny_run, tiny_run.current_config())
    shorter = chunks(tiny_run, tiny_run.current_config().replace(max_seq_length=128))
    assert shorter.after.max <= 128
    assert shorter.characters_in == longer.characters_in
    assert tiny_run.length_stats()["all"] == shorter
    chunks(tiny_run, tiny_run.current_config())
    assert tiny_run.length_stats()["all"] == longer


def test_without_splitting_a_long_example_is_an_error_with_the_count(tiny_run: RunDir) -> None:
    with pytest.raises(DataError, match="3 of 9 examples are longer than 256 tokens"):
        chunks(tiny_run, tiny_run.current_config().replace(preprocess_enabled=False))
    long_enough = tiny_run.current_config().replace(preprocess_enabled=False, max_seq_length=2048)
    assert chunks(tiny_run, long_enough).after.count == 9


def test_nothing_to_train_on_is_an_error_with_the_reason(tiny_run: RunDir) -> None:
    write_lines(tiny_run.examples / "train.jsonl", [chat("a", "Yes. " * 90, asked="Why? " * 300, kind="chat")])
    with pytest.raises(DataError, match=r"none of its 1 examples fits 256 tokens \(1 because the prompt leaves less"):
        chunks(tiny_run, tiny_run.current_config())
    write_lines(tiny_run.examples / "train.jsonl", [])
    with pytest.raises(DataError, match="holds no example"):
        chunks(tiny_run, tiny_run.current_config())


# -- conservation ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("old", "new"),
    [('"part":2', '"part":3'), ("Paragraph 20", "Paragraph X"), ('"id":"train-2"', '"id":"other"'), ('"span":[0,', '"span":[9,')],
)
def test_a_chunk_that_was_changed_is_found(tiny_run: RunDir, old: str, new: str) -> None:
    chunks(tiny_run, tiny_run.current_config())
    path = tiny_run.chunks(256) / "train.jsonl"
    damaged = path.read_text().replace(old, new)
    assert damaged != path.read_text()
    path.write_text(damaged)
    with pytest.raises(DataError, match="fault in GSWA"):
        conservation(tiny_run, 256)


@pytest.mark.parametrize("line", [0, 2, -1])
def test_a_chunk_that_was_taken_away_or_doubled_is_found(tiny_run: RunDir, line: int) -> None:
    chunks(tiny_run, tiny_run.current_config())
    path = tiny_run.chunks(256) / "train.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for damaged in ([one for one in lines if one != lines[line]], [*lines, lines[line]]):
        path.write_text("".join(damaged))
        with pytest.raises(DataError, match="fault in GSWA"):
            conservation(tiny_run, 256)


def test_a_paragraph_of_the_papers_that_no_example_holds_is_found(tiny_run: RunDir) -> None:
    texts = [f"Paragraph {n} of the paper. " + "It says more. " * 60 for n in range(6)]
    paper = Document(source="a.pdf", sha256="0", status="ok", blocks=tuple(Block(kind="paragraph", text=text) for text in texts))
    made = list(make_examples(paper, read_recipe(), 42, {}))
    write_lines(tiny_run.examples / "train.jsonl", made)
    chunks(tiny_run, tiny_run.current_config())
    assert conservation(tiny_run, 256, [paper])["blocks_missing"] == 0
    more = paper.model_copy(update={"blocks": (*paper.blocks, Block(kind="paragraph", text="Nobody learns this."))})
    with pytest.raises(DataError, match="'blocks': 7, 'blocks_missing': 1"):
        conservation(tiny_run, 256, [more])


# -- preprocess by itself --------------------------------------------------------------------------------------------------
def test_a_folder_is_split_into_another_and_kept_while_nothing_changes(tiny_run: RunDir, tmp_path: Path, tokenizer: Tokenizer) -> None:
    stats = preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256))
    before = files(tmp_path / "out")
    assert {"train.jsonl", "valid.jsonl", "test.jsonl", "stats.json"} == set(before)
    assert preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256)) == stats
    assert files(tmp_path / "out") == before
    assert preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 192)).splits["all"].after.max <= 192


def test_analysis_writes_nothing_and_finds_the_same(tiny_run: RunDir, tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256), analyze_only=True)
    assert not (tmp_path / "out").exists()
    assert found.splits == preprocess_folder(tiny_run.examples, tmp_path / "out", Rules(tokenizer, 256)).splits


def test_files_that_were_not_made_by_preprocessing_are_left_alone(tiny_run: RunDir, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="choose another --output"):
        preprocess_folder(tiny_run.examples, tiny_run.examples, Rules(tokenizer, 256))


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
    assert (tmp_path / "reports" / chunking.REPORT_FILE).read_text() in printed
    with pytest.raises(DataError, match=r"training.train\.jsonl: no such file"):
        preprocess_command(None, None, 256, 0, "auto", True, None, None)
    with pytest.raises(ConfigError, match="choose auto, paragraph, sentence, token"):
        preprocess_command(file, None, 256, 0, "pages", True, None, None)
