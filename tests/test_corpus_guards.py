import zipfile
from pathlib import Path

import pytest
from papers import PROSE, column, write_docx, write_pdf

from gswa.corpus.guards import SetAside, check


def verdict(path: Path) -> str:
    with pytest.raises(SetAside) as aside:
        check(path)
    return aside.value.status


def packed(path: Path, document: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", document)
    return path


def test_content_and_name_must_agree(tmp_path: Path) -> None:
    pdf = write_pdf(tmp_path / "a.pdf", [column(PROSE)])
    assert check(pdf) == "pdf"
    assert check(write_docx(tmp_path / "a.docx", [("Normal", PROSE[0])])) == "docx"
    assert verdict(pdf.rename(tmp_path / "b.docx")) == "unsupported"


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><p>Log in", b"{\\rtf1 text}", b"\xd0\xcf\x11\xe0 old Word", b"\x00\x01\x02" * 99])
def test_other_formats_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert verdict(path) == "unsupported"


def test_a_book_may_have_document_types_and_no_entities(tmp_path: Path) -> None:
    def book(markup: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / "a.epub", "w") as archive:
            archive.writestr("mimetype", "application/epub+zip")
            archive.writestr("text.xhtml", markup)
        return tmp_path / "a.epub"

    assert check(book(b"<!DOCTYPE html><html/>")) == "epub"
    assert verdict(book(b'<!DOCTYPE html [<!ENTITY a SYSTEM "file:///etc/passwd">]><html>&a;</html>')) == "unsafe_xml"


@pytest.mark.parametrize(
    ("name", "content"), [("a.html", b"<!-- a page --><p>Text</p>"), ("a.eml", b"Received: today\n\nText"), ("a.msg", b"\xd0\xcf\x11\xe0")]
)
def test_formats_without_a_mark_of_their_own_go_by_their_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert check(tmp_path / name) in ("html", "email", "msg")


def test_a_zip_bomb_is_not_opened(tmp_path: Path) -> None:
    assert verdict(packed(tmp_path / "a.docx", bytes(30 << 20))) == "zip_bomb"


def test_a_document_type_is_not_expanded(tmp_path: Path) -> None:
    assert verdict(packed(tmp_path / "a.docx", b'<!DOCTYPE d [<!ENTITY e "x">]><d>&e;</d>')) == "unsafe_xml"


def test_an_archive_that_is_no_word_file_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "x")
    assert verdict(path) == "corrupt"
