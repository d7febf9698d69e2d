"""Folders of chunks: written once, sealed, and checked against what was stored."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from chats import chat

from gswa.chunking import chunks, sealed, write
from gswa.config import Layer, RunRequest, resolve
from gswa.conservation import conservation
from gswa.dataset import Tokenizer
from gswa.errors import DataError
from gswa.files import write_lines
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


def test_a_template_that_refuses_every_example_is_named_as_the_reason(tiny_run: RunDir, tokenizer: Tokenizer, tmp_path: Path) -> None:
    strict = copy.copy(tokenizer)
    strict.chat_template = "{{ raise_exception('no roles') }}"
    with pytest.raises(DataError, match=r"3 because the model's chat template refuses the chat \(no roles\)\); choose another --model"):
        write(tmp_path / "out", tiny_run.read_examples, Rules(strict, 256), {})


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
