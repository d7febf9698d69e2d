from pathlib import Path

import docx
from docx.oxml import parse_xml
from papers import PROSE, write_docx

from gswa.corpus.read import read_file
from gswa.records import Block

NAMES = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'


def blocks(path: Path) -> tuple[Block, ...]:
    document = read_file(path, path.name, "0" * 64)
    assert document.status == "ok", document.reason
    return document.blocks


def with_xml(path: Path, *paragraphs: str) -> Path:
    document = docx.Document()
    for paragraph in paragraphs:
        document.element.body.insert(len(document.element.body) - 1, parse_xml(f"<w:p {NAMES}>{paragraph}</w:p>"))
    document.save(str(path))
    return path


def test_styles_make_the_kinds(tmp_path: Path) -> None:
    path = write_docx(
        tmp_path / "a.docx", [("Title", "Soil"), ("Heading 1", "Growth"), ("Normal", PROSE[0]), ("Caption", "Figure 1. Yield.")]
    )
    assert [(block.kind, block.section) for block in blocks(path)] == [
        ("title", ""),
        ("heading", ""),
        ("paragraph", "Growth"),
        ("caption", "Growth"),
    ]


def test_a_short_bold_line_is_a_heading(tmp_path: Path) -> None:
    path = with_xml(tmp_path / "a.docx", f"<w:r><w:t>{PROSE[0]}</w:t></w:r>", "<w:r><w:rPr><w:b/></w:rPr><w:t>Strains</w:t></w:r>")
    assert [block.kind for block in blocks(path)] == ["paragraph", "heading"]


def test_tables_are_kept_apart_from_the_text(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph(PROSE[0])
    for cell, text in zip(document.add_table(1, 2).rows[0].cells, PROSE[1:], strict=True):
        cell.text = text
    document.save(str(tmp_path / "a.docx"))
    assert [(block.kind, block.text) for block in blocks(tmp_path / "a.docx")] == [
        ("paragraph", PROSE[0]),
        ("other", " | ".join(PROSE[1:])),
    ]


def test_text_boxes_are_kept_and_deleted_text_is_not(tmp_path: Path) -> None:
    box = "<w:r><w:pict><w:txbxContent><w:p><w:r><w:t>In a box.</w:t></w:r></w:p></w:txbxContent></w:pict></w:r>"
    gone = "<w:del><w:r><w:delText>never</w:delText></w:r></w:del>"
    path = with_xml(tmp_path / "a.docx", f"<w:r><w:t>{PROSE[0]}</w:t></w:r>{gone}{box}")
    assert [(block.kind, block.text) for block in blocks(path)] == [("paragraph", PROSE[0]), ("other", "In a box.")]


def test_a_sentence_goes_on_after_a_displayed_formula(tmp_path: Path) -> None:
    formula = "<m:oMathPara><m:oMath><m:r><m:t>A=πr²</m:t></m:r></m:oMath></m:oMathPara>"
    path = with_xml(
        tmp_path / "a.docx",
        "<w:r><w:t>The area is given by</w:t></w:r>",
        formula,
        "<w:r><w:t>where r is the radius of a circle.</w:t></w:r>",
    )
    assert [(block.kind, block.text) for block in blocks(path)] == [
        ("paragraph", "The area is given by where r is the radius of a circle."),
        ("other", "A=πr²"),
    ]


def test_a_damaged_package_is_corrupt(tmp_path: Path) -> None:
    path = write_docx(tmp_path / "a.docx", [("Normal", PROSE[0])])
    path.write_bytes(path.read_bytes()[:-500])
    assert read_file(path, "a.docx", "0" * 64).status == "corrupt"
