"""Documents that Unstructured reads, without a network: run by .ci/run, in an environment that has it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from extras import extra
from papers import PROSE, column, write_docx, write_pdf

from gswa.corpus import parse_corpus, read_documents
from gswa.corpus.guards import FORMATS, MORE_FORMATS
from gswa.corpus.read import read_file
from gswa.corpus.report import read_report

HTML = (
    "<!DOCTYPE html><html><body><h1>Growth of bacteria in soil</h1><h2>Results</h2>"
    + "".join(f"<p>{text}</p>" for text in PROSE)
    + "<table><tr><td>yield</td><td>12.3</td></tr></table></body></html>"
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children inherit it: what they would fetch is refused at once."""
    extra("unstructured")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def write_html(path: Path) -> None:
    path.write_text(HTML)


def write_by_pandoc(path: Path) -> None:
    extra("pypandoc").convert_text(HTML, path.suffix[1:], format="html", outputfile=str(path), extra_args=["--metadata", "title=Growth"])


def write_rtf(path: Path) -> None:
    path.write_text("{\\rtf1\\ansi Growth of bacteria in soil\\par " + "\\par ".join(PROSE) + "\\par }")


def write_pptx(path: Path) -> None:
    slides = extra("pptx").Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[1])
    slide.shapes.title.text = "Growth of bacteria in soil"
    slide.placeholders[1].text = "\n".join(PROSE)
    slides.save(str(path))


def write_letter(path: Path) -> None:
    head = "From: a@example.org\nTo: b@example.org\nSubject: A draft\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n"
    path.write_text(head + "\n\n".join(PROSE) + "\n")


WRITERS: dict[str, Callable[[Path], None]] = {
    ".html": write_html, ".epub": write_by_pandoc, ".odt": write_by_pandoc, ".rtf": write_rtf, ".pptx": write_pptx, ".eml": write_letter,
}  # fmt: skip


def test_what_our_readers_do_not_read_is_read_by_itself(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for suffix, write in WRITERS.items():
        write(tmp_path / "raw" / f"a{suffix}")
    parse_corpus(tmp_path / "raw", tmp_path / "parsed")
    read = {document.source: [b.text for b in document.blocks if b.kind == "paragraph"] for document in read_documents(tmp_path / "parsed")}
    assert read == {f"a{suffix}": list(PROSE) for suffix in WRITERS}
    assert set(WRITERS) | {".htm", ".xhtml", ".msg"} == MORE_FORMATS.keys()


def test_headings_and_tables_of_a_web_page_are_told_from_its_text(tmp_path: Path) -> None:
    write_html(tmp_path / "a.html")
    blocks = read_file(tmp_path / "a.html", "a.html", "0").blocks
    assert [block.kind for block in blocks] == ["title", "heading", *["paragraph"] * 3, "other"]
    assert {block.section for block in blocks if block.kind == "paragraph"} == {"Results"}


def test_on_request_it_reads_our_formats_too(tmp_path: Path) -> None:
    write_docx(tmp_path / "a.docx", [("Normal", text) for text in PROSE])
    (tmp_path / "a.txt").write_text("\n\n".join(PROSE))
    (tmp_path / "a.md").write_text("# Growth in soil\n\n" + "\n\n".join(PROSE))
    assert {".pdf", ".docx", ".txt", ".md"} == FORMATS.keys()
    for name in ("a.docx", "a.txt", "a.md"):
        document = read_file(tmp_path / name, name, "0", "unstructured")
        assert [block.text for block in document.blocks if block.kind == "paragraph"] == list(PROSE), name


def test_what_it_lacks_for_pdf_is_named_and_not_a_silence(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", [column(PROSE)])
    document = read_file(tmp_path / "a.pdf", "a.pdf", "0", "unstructured")
    assert document.status == "unsupported"
    assert "unstructured-inference" in document.reason and "leave out --parser" in document.reason
    locked = write_pdf(tmp_path / "locked.pdf", [column(PROSE)], password="secret")
    assert read_file(locked, "locked.pdf", "0", "unstructured").status == "encrypted"


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("a.html", b"<html><body></body></html>", "empty"),
        ("a.epub", b"PK\x03\x04 cut off", "corrupt"),
        ("a.rtf", b"%PDF-1.4 not an RTF", "unsupported"),
        ("a.eml", b"\x00\x01\x02\x03" * 99, "unsupported"),
    ],
)
def test_no_file_ends_in_silence(tmp_path: Path, name: str, content: bytes, status: str) -> None:
    (tmp_path / name).write_bytes(content)
    document = read_file(tmp_path / name, name, "0")
    assert (document.status, bool(document.reason)) == (status, True)


def test_its_version_is_part_of_what_is_cached_by(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_html(tmp_path / "raw" / "a.html")
    parse_corpus(tmp_path / "raw", tmp_path / "parsed")
    parse_corpus(tmp_path / "raw", tmp_path / "parsed")
    report = read_report(tmp_path / "parsed")
    assert report is not None
    assert (report.read, report.from_cache) == (0, 1)
