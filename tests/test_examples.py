"""The folder of training examples: written from papers, or read as the user wrote it."""

import json
from pathlib import Path
from typing import Any

import pytest

from gswa.errors import CorpusError, DataError
from gswa.examples import PrepareReport, prepare
from gswa.formats import read_examples
from gswa.records import SPLITS, Block, Document, Example

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}


def paper(number: int, folder: str = "", passages: int = 4) -> Document:
    blocks = tuple(Block(kind="paragraph", text=f"P{number}.{n} " + "word " * 160 + "end.") for n in range(passages))
    return Document(
        source=f"{folder}{number}.txt", sha256=str(number), status="ok", title=f"Paper number {number} on bacteria", blocks=blocks
    )


def revised(document: Document) -> Document:
    return document.model_copy(update={"blocks": tuple(b.model_copy(update={"text": f"{b.text} Now revised."}) for b in document.blocks)})


def stored(training: Path, split: str) -> list[Example]:
    return list(read_examples(training / f"{split}.jsonl"))


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# -- from papers ---------------------------------------------------------------------------------------------------------
def test_no_document_stands_in_two_splits(tmp_path: Path) -> None:
    report = prepare(map(paper, range(12)), tmp_path, 42)
    sources = [{example.document for example in stored(tmp_path, split)} for split in SPLITS]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 12
    assert all(sources)
    assert report.split_by == "document"
    assert sum(report.documents.values()) == 12


def test_every_paragraph_is_stored_once(tmp_path: Path) -> None:
    papers = [paper(n) for n in range(5)]
    report = prepare(papers, tmp_path, 42)
    texts = "".join(example.target for split in SPLITS for example in stored(tmp_path, split))
    assert all(texts.count(block.text) == 1 for one in papers for block in one.blocks)
    assert (report.paragraphs, report.paragraphs_missing) == (20, 0)


def test_duplicates_of_a_paper_share_its_split(tmp_path: Path) -> None:
    first = [paper(n).model_copy(update={"group": str(n)}) for n in range(8)]
    twice = [revised(document).model_copy(update={"source": f"copy/{document.source}"}) for document in first]
    prepare([*first, *twice], tmp_path, 42)
    for split in SPLITS:
        sources = {example.document for example in stored(tmp_path, split)}
        assert {source.removeprefix("copy/") for source in sources} == {s for s in sources if "/" not in s}


def test_a_passage_that_two_documents_share_is_trained_on_once(tmp_path: Path) -> None:
    report = prepare([*map(paper, range(4)), paper(1, "copy/")], tmp_path, 42)
    targets = [example.target for split in SPLITS for example in stored(tmp_path, split)]
    assert len(targets) == len(set(targets)) == 16
    assert (report.repeats, report.paragraphs_missing) == (4, 0)


def test_a_new_paper_moves_none_of_the_others(tmp_path: Path) -> None:
    def splits() -> dict[str, str]:
        return {example.document: split for split in SPLITS for example in stored(tmp_path, split)}

    prepare(map(paper, range(5)), tmp_path, 42)
    before = splits()
    for count in range(6, 12):
        prepare(map(paper, range(count)), tmp_path, 42)
        assert {name: split for name, split in splits().items() if name in before} == before
        before = splits()


def test_priority_weighs_in_train_alone(tmp_path: Path) -> None:
    report = prepare([paper(n, "important_examples/") for n in range(9)], tmp_path, 42)
    assert {example.weight for example in stored(tmp_path, "train")} == {2.5}
    assert {example.weight for split in ("valid", "test") for example in stored(tmp_path, split)} == {1.0}
    assert report.train_weight == 2.5 * report.examples["train"]


@pytest.mark.parametrize("papers", [1, 2])
def test_of_one_or_two_papers_passages_are_held_out_and_the_report_says_so(tmp_path: Path, papers: int) -> None:
    report = prepare((paper(n, passages=8) for n in range(papers)), tmp_path, 42)
    assert report.split_by == "passage"
    assert f"only {papers} different documents" in report.note
    assert all(report.examples[split] for split in SPLITS)


def test_two_passages_are_all_trained_on(tmp_path: Path) -> None:
    report = prepare([paper(1, passages=2)], tmp_path, 42)
    assert report.examples == {"train": 2, "valid": 0, "test": 0}
    assert "nothing is held out" in report.note


def test_preparing_twice_writes_the_same_files_and_a_new_paper_is_taken_in(tmp_path: Path) -> None:
    def contents() -> list[bytes]:
        return [(tmp_path / f"{split}.jsonl").read_bytes() for split in SPLITS]

    prepare(map(paper, range(6)), tmp_path, 42)
    first = contents()
    prepare(map(paper, range(6)), tmp_path, 42)
    assert contents() == first
    assert sum(prepare(map(paper, range(7)), tmp_path, 42).documents.values()) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gswa.json", "test.jsonl", "train.jsonl", "valid.jsonl"]


@pytest.mark.parametrize("edit", ["before", "after"])
def test_a_file_that_the_user_wrote_or_changed_is_not_overwritten(tmp_path: Path, edit: str) -> None:
    if edit == "after":
        prepare(map(paper, range(4)), tmp_path, 42)
    mine = written(tmp_path / "valid.jsonl", GOOD).read_text()
    with pytest.raises(DataError, match=r"valid\.jsonl.*--data"):
        prepare(map(paper, range(4)), tmp_path, 42)
    assert (tmp_path / "valid.jsonl").read_text() == mine


def test_a_crash_while_files_are_moved_in_does_not_lock_the_folder(tmp_path: Path) -> None:
    prepare(map(paper, range(4)), tmp_path / "new", 1)
    prepare(map(paper, range(5)), tmp_path, 1)
    half = {name: (tmp_path / name).read_bytes() for name in ("valid.jsonl", "test.jsonl")}
    prepare(map(paper, range(4)), tmp_path, 1)
    for name, old in half.items():
        (tmp_path / name).write_bytes(old)
    assert sum(prepare(map(paper, range(4)), tmp_path, 1).documents.values()) == 4


def test_papers_without_text_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no document has text"):
        prepare([paper(1, passages=0)], tmp_path, 42)
    assert list(tmp_path.iterdir()) == []


def test_a_paper_without_text_among_others_is_counted(tmp_path: Path) -> None:
    report: PrepareReport = prepare([*map(paper, range(3)), paper(9, passages=0)], tmp_path, 42)
    assert report.documents_without_text == 1
