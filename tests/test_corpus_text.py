import textwrap
from pathlib import Path

import pytest
from papers import PROSE

from gswa.corpus.guards import SetAside
from gswa.corpus.read import read_file
from gswa.corpus.text import decode


def texts(path: Path, content: str | bytes, kind: str = "paragraph") -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [block.text for block in read_file(path, path.name, "0" * 64).blocks if block.kind == kind]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_blank_lines_part_paragraphs(tmp_path: Path, newline: str) -> None:
    assert texts(tmp_path / "a.txt", (newline * 2).join(PROSE)) == list(PROSE)


def test_lines_wrapped_by_hand_are_joined(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.txt", "\n\n".join(textwrap.fill(text, 60) for text in PROSE)) == list(PROSE)


def test_indents_part_paragraphs_where_no_line_is_blank(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.txt", "\n".join(textwrap.fill(text, 60, initial_indent="    ") for text in PROSE)) == list(PROSE)


def test_a_paragraph_a_line_stays_so(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.txt", "\n".join(PROSE)) == list(PROSE)


def test_double_spaced_lines_are_one_paragraph(tmp_path: Path) -> None:
    lines = [textwrap.wrap(text * 3, 60) for text in PROSE]
    assert texts(tmp_path / "a.txt", "\n\n\n".join("\n\n".join(part) for part in lines)) == [" ".join(part) for part in lines]


def test_headings_are_recognised(tmp_path: Path) -> None:
    content = "A paper on soil\n\nIntroduction\n\n" + PROSE[0] + "\n\n2.1 Strains\n\n" + PROSE[1] + "\n\nGROWTH\n\n" + PROSE[2]
    assert texts(tmp_path / "a.txt", content, "heading") == ["Introduction", "2.1 Strains", "GROWTH"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8", "cp1252"])
def test_the_encoding_is_found(encoding: str) -> None:
    text = "Les métabolites secondaires « à l’étude »; naïve façade, 50 µm."
    assert decode(text.encode(encoding)) == text


def test_chinese_and_japanese_are_found_without_a_mark() -> None:
    for text, encoding in (
        ("链霉菌是一类重要的放线菌，能够产生多种抗生素。" * 9, "gb18030"),
        ("放線菌は多くの抗生物質を作る細菌である。" * 9, "shift_jis"),
    ):
        assert decode(text.encode(encoding)) == text


def test_one_damaged_byte_leaves_utf8_utf8() -> None:
    assert (
        decode("β-lactamase, ≥ 3.5-fold, naïve, façade, 50 µm, Größe, Öl".encode() + b"\xff")
        == "β-lactamase, ≥ 3.5-fold, naïve, façade, 50 µm, Größe, Öl\ufffd"
    )


def test_binary_data_is_no_text() -> None:
    with pytest.raises(SetAside):
        decode(bytes(range(256)) * 10 + bytes(400))


def test_markdown_marks_are_taken_off(tmp_path: Path) -> None:
    marked = PROSE[0].replace("soil", "**soil**") + " See [the page](http://x.org)."
    content = f"# A title\n\n## Methods *in soil*\n\n{marked}\n\n```\ncode = 1\n```\n\n- {PROSE[1]}\n- {PROSE[2]}\n"
    path = tmp_path / "a.md"
    assert texts(path, content) == [PROSE[0] + " See the page.", *PROSE[1:]]
    assert texts(path, content, "heading") == ["Methods in soil"]
    assert texts(path, content, "other") == ["code = 1"]
