import json
import os
from importlib import util
from pathlib import Path

import pytest
from papers import PROSE, column, write_docx, write_pdf

from gswa.corpus import parse_corpus, read_documents
from gswa.corpus.files import find_files, mark_duplicates
from gswa.corpus.index import finish, plan, read_batch
from gswa.corpus.isolate import _failed
from gswa.corpus.report import Row
from gswa.errors import ConfigError, CorpusError
from gswa.files import write_atomically

TEXT = "\n\n".join(PROSE)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three readable papers, one of them in the priority folder, and four files that are not."""
    folder = tmp_path / "raw"
    (folder / "important_examples").mkdir(parents=True)
    (folder / "one.txt").write_text(TEXT)
    write_docx(folder / "important_examples" / "two.DOCX", [("Normal", text) for text in PROSE])
    write_pdf(folder / "three.pdf", [column(PROSE)])
    (folder / "copy of one.txt").write_text(TEXT)
    (folder / "page.html").write_text("<html>")
    (folder / "page.pdf").write_text("<html>please log in</html>")
    (folder / "none.txt").write_text("")
    (folder / "README.md").write_text("Papers go here.")
    (folder / ".hidden.txt").write_text(TEXT)
    return folder


def statuses(parsed: Path) -> dict[str, str]:
    return {row["source"]: row["status"] for row in json.loads((parsed / "report.json").read_text())["rows"]}


def report(parsed: Path) -> tuple[int, int]:
    content = json.loads((parsed / "report.json").read_text())
    return content["read"], content["from_cache"]


def test_every_file_has_one_status_and_the_readable_ones_their_text(raw: Path, tmp_path: Path) -> None:
    parsed = tmp_path / "parsed"
    seen: list[tuple[int, int]] = []
    corpus = parse_corpus(raw, parsed, on_progress=lambda done, total: seen.append((done, total)))
    assert statuses(parsed) == {
        "copy of one.txt": "ok", "important_examples/two.DOCX": "ok", "none.txt": "empty", "one.txt": "duplicate",
        "page.html": "unsupported", "page.pdf": "unsupported", "three.pdf": "ok",
    }  # fmt: skip
    assert (corpus.documents, corpus.files, corpus.set_aside) == (3, 7, 4)
    assert [[block.text for block in document.blocks] for document in read_documents(parsed)] == [list(PROSE)] * 3
    assert [document.source for document in read_documents(parsed)] == ["important_examples/two.DOCX", "copy of one.txt", "three.pdf"]
    assert seen[-1] == (5, 5)
    assert "the same content as copy of one.txt" in (parsed / "report.md").read_text()


def test_the_cache_follows_the_folder(raw: Path, tmp_path: Path) -> None:
    parsed = tmp_path / "parsed"
    first = parse_corpus(raw, parsed)
    mine = parsed / "notes.json"
    mine.write_text("{}")
    assert parse_corpus(raw, parsed) == first
    assert report(parsed) == (0, 5)
    (raw / "three.pdf").rename(raw / "important_examples" / "third.pdf")
    (raw / "one.txt").unlink()
    assert parse_corpus(raw, parsed).fingerprint == first.fingerprint
    assert report(parsed) == (0, 5)
    assert "important_examples/third.pdf" in {document.source for document in read_documents(parsed)}
    (raw / "copy of one.txt").write_text(TEXT + "\n\n" + PROSE[0])
    (raw / "important_examples" / "two.DOCX").unlink()
    assert parse_corpus(raw, parsed).fingerprint != first.fingerprint
    assert report(parsed) == (1, 3)
    assert len(list(parsed.glob("*.json"))) == 4 + 2
    assert mine.exists()


def test_documents_that_say_nearly_the_same_share_a_group(raw: Path, tmp_path: Path) -> None:
    (raw / "other.txt").write_text("\n\n".join(text.replace("a", "u").replace("o", "i") for text in PROSE))
    (raw / "edited.txt").write_text(TEXT.replace("glycerol", "water"))
    parse_corpus(raw, tmp_path / "parsed")
    groups = {document.source: document.group for document in read_documents(tmp_path / "parsed")}
    assert groups["three.pdf"] == groups["copy of one.txt"] == groups["edited.txt"] == groups["important_examples/two.DOCX"]
    assert groups["other.txt"] != groups["three.pdf"]
    assert "nearly the same text as copy of one.txt" in (tmp_path / "parsed" / "report.md").read_text()


def test_a_new_near_duplicate_leaves_the_group_of_the_first_its_name(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "m.txt").write_text(TEXT)
    parse_corpus(tmp_path / "raw", tmp_path / "parsed")
    (group,) = {document.group for document in read_documents(tmp_path / "parsed")}
    for number in range(8):
        (tmp_path / "raw" / f"{number}.txt").write_text(f"{TEXT} And once more, for the time {number}.")
    parse_corpus(tmp_path / "raw", tmp_path / "parsed")
    assert {document.group for document in read_documents(tmp_path / "parsed")} == {group}


def test_the_report_says_languages_and_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.md").write_text(f"# Growth in soil\n\n{TEXT}\n\n## References\n\n1. Roe J (2001) On soil. Soil 12: 345.\n")
    parse_corpus(tmp_path / "raw", tmp_path / "parsed")
    report = (tmp_path / "parsed" / "report.md").read_text()
    assert "Languages: 1 en." in report
    assert "references 8" in report
    assert next(read_documents(tmp_path / "parsed")).language == "en"


def test_batches_read_apart_give_the_same_corpus(raw: Path, tmp_path: Path) -> None:
    whole = parse_corpus(raw, tmp_path / "whole")
    todo = plan(raw, tmp_path / "parts")
    rows = [row for jobs in reversed(todo.batches(2)) for row in read_batch(jobs, todo.parsed, children=1)]
    parts = finish(todo, rows)
    assert (parts.fingerprint, parts.documents) == (whole.fingerprint, whole.documents)
    assert (tmp_path / "parts" / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()


def test_a_damaged_document_is_read_again(raw: Path, tmp_path: Path) -> None:
    parsed = tmp_path / "parsed"
    parse_corpus(raw, parsed)
    (parsed / "report.json").unlink()
    next(parsed.glob("three.*.json")).write_text('{"schema_version":1,"source":')
    parse_corpus(raw, parsed)
    assert report(parsed) == (1, 4)


@pytest.mark.parametrize("status", ["timeout", "crashed", "out_of_memory"])
def test_a_file_that_failed_at_a_bad_moment_is_read_again(raw: Path, tmp_path: Path, status: str) -> None:
    """A crash that was none stayed in the cache for good, and every later run ended with 'no document with usable text'."""
    parsed = tmp_path / "parsed"

    def fail() -> None:
        todo = plan(raw, parsed)
        (job,) = [job for job in todo.jobs if job.row.source == "three.pdf"]
        failed = _failed(job, status, "it was a bad moment")
        write_atomically(parsed / job.row.file, failed.document)
        finish(todo, [*read_batch([other for other in todo.jobs if other is not job], parsed), failed.row])

    fail()
    assert statuses(parsed)["three.pdf"] == status
    fail()
    assert report(parsed) == (1, 4)
    assert not plan(raw, parsed).jobs  # what failed twice is believed,
    stored = next(parsed.glob("three.*.json"))
    os.utime(stored, (0, stored.stat().st_mtime - 2 * 24 * 3600))  # but not for good
    parse_corpus(raw, parsed)
    assert statuses(parsed)["three.pdf"] == "ok"
    assert report(parsed) == (1, 4)


def test_of_two_copies_the_priority_one_stays() -> None:
    rows = [Row(source=source, status="ok", sha256="a") for source in ("a.txt", "important_examples/b.txt", "c.pdf")]
    marked = mark_duplicates(rows)
    assert [row.status for row in marked] == ["duplicate", "ok", "ok"]
    assert marked[0].reason.endswith("important_examples/b.txt")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text(TEXT)
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    assert find_files(tmp_path)[0] == ["sub/a.txt"]


def test_an_empty_or_missing_folder_says_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("Papers go here.")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CorpusError, match=r"put the author's papers there \(PDF, DOCX, TXT, MD\)") as error:
            parse_corpus(folder, tmp_path / "parsed")
        assert str(folder) in str(error.value)


def test_a_corpus_with_no_usable_text_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("")
    with pytest.raises(CorpusError, match=r"a.txt: the file has no content.*report\.md"):
        parse_corpus(tmp_path / "raw", tmp_path / "parsed")
    with pytest.raises(CorpusError, match="parse"):
        list(read_documents(tmp_path))


def test_a_parser_that_is_not_there_is_named(raw: Path, tmp_path: Path) -> None:
    if util.find_spec("unstructured") is None:
        with pytest.raises(ConfigError, match=r'pip install "gswa\[unstructured\]"'):
            parse_corpus(raw, tmp_path, parser="unstructured")
    with pytest.raises(ConfigError, match="auto, pymupdf, unstructured"):
        parse_corpus(raw, tmp_path, parser="pdfminer")
