import json
import re
from pathlib import Path

import pytest
from papers import PROSE, Text, column, write_pdf

from gswa.corpus.guards import SetAside
from gswa.corpus.pdf import MAX_PAGES, read_pdf
from gswa.corpus.read import read_file
from gswa.records import Block

DATA = Path(__file__).parent / "data" / "corpus"


def blocks(path: Path) -> tuple[Block, ...]:
    document = read_file(path, path.name, "0" * 64)
    assert document.status == "ok", document.reason
    return document.blocks


def texts(path: Path, kind: str = "paragraph") -> list[str]:
    return [block.text for block in blocks(path) if block.kind == kind]


def test_paragraphs_are_found_by_their_indent(tmp_path: Path) -> None:
    assert texts(write_pdf(tmp_path / "a.pdf", [column(PROSE)])) == list(PROSE)


def test_a_second_column_is_read_after_the_first(tmp_path: Path) -> None:
    page = [*column(PROSE[:1], x=50, characters=40), *column(PROSE[1:], x=310, characters=40)]
    assert texts(write_pdf(tmp_path / "a.pdf", [page])) == list(PROSE)


def test_columns_written_row_by_row_are_put_in_order(tmp_path: Path) -> None:
    page = [*column(PROSE * 3, x=50, characters=44), *column([text.replace("e", "o") for text in PROSE * 3], x=310, characters=44)]
    page.sort(key=lambda line: -line.y)
    read = texts(write_pdf(tmp_path / "a.pdf", [page]))
    assert read == [*PROSE * 3, *(text.replace("e", "o") for text in PROSE * 3)]


def test_a_paragraph_goes_on_over_the_page(tmp_path: Path) -> None:
    lines = column([" ".join(PROSE)])
    pages = [lines[:3], [line._replace(y=line.y + 36) for line in lines[3:]]]
    assert texts(write_pdf(tmp_path / "a.pdf", pages)) == [" ".join(PROSE)]


def test_running_heads_and_page_numbers_are_left_out(tmp_path: Path) -> None:
    pages = [[Text(60, 810, "Journal of Soil"), *column([text] * 3), Text(290, 30, str(number))] for number, text in enumerate(PROSE, 1)]
    found = blocks(write_pdf(tmp_path / "a.pdf", pages))
    assert [block.text for block in found] == [text for text in PROSE for _ in range(3)]


def test_line_numbers_in_the_margin_are_left_out(tmp_path: Path) -> None:
    lines = column(PROSE * 2)
    numbers = [Text(30, line.y, str(count)) for count, line in enumerate(lines, 1)]
    assert texts(write_pdf(tmp_path / "a.pdf", [[*lines, *numbers]])) == list(PROSE * 2)


def test_a_number_that_begins_a_line_of_text_is_no_line_number(tmp_path: Path) -> None:
    lines = column([*PROSE, "In each of the hives that we had watched for a month we counted more than 253 adult bees in June."])
    numbers = [Text(30, line.y, str(count)) for count, line in enumerate(lines, 1)]
    assert "253 adult bees" in " ".join(texts(write_pdf(tmp_path / "a.pdf", [[*lines, *numbers]])))


def test_every_fifth_line_may_be_numbered(tmp_path: Path) -> None:
    lines = column(PROSE * 12)
    numbers = [Text(570, line.y, str(count)) for count, line in enumerate(lines, 1) if count % 5 == 0]
    assert texts(write_pdf(tmp_path / "a.pdf", [[*lines, *numbers]])) == list(PROSE * 12)


def test_columns_with_a_narrow_gutter_are_put_in_order(tmp_path: Path) -> None:
    left, right = column(PROSE * 3, x=50, characters=47), column([text.replace("e", "o") for text in PROSE * 3], x=287, characters=47)
    page = sorted([*left, *right], key=lambda line: -line.y)
    assert texts(write_pdf(tmp_path / "a.pdf", [page])) == [*PROSE * 3, *(text.replace("e", "o") for text in PROSE * 3)]


def test_a_superscript_written_before_its_line_stays_where_it_stands(tmp_path: Path) -> None:
    line = [Text(60, 600, "It was found by others"), Text(180, 600, "that the yield of all of the strains was high.")]
    page = [*column(PROSE), Text(160, 604, "12,13", 6), *line]
    assert "by others 12,13 that the yield" in " ".join(texts(write_pdf(tmp_path / "a.pdf", [page])))


@pytest.mark.parametrize(("mark", "letter", "whole"), [("ˆ", "E", "Ê"), ("ˆ", "ı", "î")])
def test_an_accent_drawn_after_its_line_goes_on_the_letter_below_it(tmp_path: Path, mark: str, letter: str, whole: str) -> None:
    line = [Text(60, 600, f"{letter}tude is the name of the work in which the yield of all strains was found to be"), Text(59.8, 600, mark)]
    page = [*column(PROSE), *line, Text(60, 588, "higher than that of any other strain that we had kept in soil.")]
    assert texts(write_pdf(tmp_path / "a.pdf", [page]))[-1].startswith(f"{whole}tude is the name")


def test_a_sum_that_hangs_from_its_baseline_stays_in_the_sentence(tmp_path: Path) -> None:
    line = [
        Text(60, 600, "It is known that the yield is"),
        Text(192, 607.5, "P", face="X"),
        Text(211, 600, "p of all of the strains, which"),
    ]
    page = [*column(PROSE), *line, Text(60, 588, "we had kept in soil for a year before we measured their growth.")]
    assert "the yield is ∑ p of all of the strains, which we had kept" in " ".join(texts(write_pdf(tmp_path / "a.pdf", [page])))


def test_bold_text_goes_on_after_a_formula_that_is_not_bold(tmp_path: Path) -> None:
    lines = [line._replace(bold=True) for line in column([" ".join(PROSE)])]
    formula = [Text(60, lines[2].y, "R"), lines[2]._replace(x=70)]
    page = [*lines[:2], *formula, *lines[3:], *column(PROSE, y=600)]
    assert texts(write_pdf(tmp_path / "a.pdf", [page]))[0] == " ".join(PROSE).replace("in use", "R in use")


def test_the_head_of_a_table_in_small_print_is_no_heading(tmp_path: Path) -> None:
    cells = [Text(60, 586 - 10 * n, "Growth on agar, in soil and in water over four days without any light", 8) for n in range(3)]
    table = [
        Text(60, 600, "Table 1. Growth in three media.", 9),
        Text(60, 588, "Method", 9, bold=True),
        *[c._replace(y=c.y - 12) for c in cells],
    ]
    found = blocks(write_pdf(tmp_path / "a.pdf", [[*column(PROSE), *table], column(PROSE)]))
    assert "heading" not in [block.kind for block in found] and {block.section for block in found} == {""}


def test_references_longer_than_the_text_do_not_set_its_size(tmp_path: Path) -> None:
    references = [f"{n}. Roe J, Doe J (2001) On the growth of bacteria in soil and water. Journal of Soil 12: 345." for n in range(1, 21)]
    page = [*column(PROSE * 3), Text(60, 460, "References", 10, bold=True), *column(references, y=440, size=8)]
    assert texts(write_pdf(tmp_path / "a.pdf", [page])) == list(PROSE * 3)


def test_a_line_in_another_typeface_over_a_paragraph_is_a_heading(tmp_path: Path) -> None:
    page = [*column(PROSE[:1]), Text(60, 710, "Strains and media", face="T"), *column(PROSE[1:], y=698)]
    found = blocks(write_pdf(tmp_path / "a.pdf", [page]))
    assert [block.kind for block in found] == ["paragraph", "heading", "paragraph", "paragraph"]


def test_listings_of_code_are_no_paragraphs(tmp_path: Path) -> None:
    listing = [Text(60, 650 - 12 * n, f"fit = growth(soil, media={n}, days=4) # we call this for each one.", face="C") for n in range(3)]
    assert texts(write_pdf(tmp_path / "a.pdf", [[*column(PROSE), *listing]])) == list(PROSE)


def test_a_short_form_at_the_end_of_a_column_ends_no_sentence(tmp_path: Path) -> None:
    first = "The growth of all of the strains that we had kept in soil for more than a year follows from Eq."
    page = [*column([first], x=50, characters=40), *column([f"(9) and from the law of mass action. {PROSE[1]}"], x=310, characters=40)]
    assert texts(write_pdf(tmp_path / "a.pdf", [page])) == [f"{first} (9) and from the law of mass action. {PROSE[1]}"]


def test_a_title_and_headings_are_told_from_the_text(tmp_path: Path) -> None:
    page = [Text(60, 790, "Growth of bacteria in soil", 18), Text(60, 760, "Strains and media", 10, bold=True), *column(PROSE, y=740)]
    found = blocks(write_pdf(tmp_path / "a.pdf", [page]))
    assert [(block.kind, block.section) for block in found] == [("title", ""), ("heading", ""), *[("paragraph", "Strains and media")] * 3]


def test_captions_and_footnotes_are_no_paragraphs(tmp_path: Path) -> None:
    page = [
        *column(PROSE),
        Text(60, 500, "Figure 1. Growth in three media over four days.", 8),
        Text(60, 60, "1 See the web page of the authors.", 7),
    ]
    found = blocks(write_pdf(tmp_path / "a.pdf", [page]))
    assert [block.kind for block in found] == ["paragraph"] * 3 + ["caption", "note"]


def test_prose_that_begins_with_a_figure_stays(tmp_path: Path) -> None:
    prose = "Fig. 2 shows that yield depended on phosphate more than on any other nutrient that we had measured before."
    assert texts(write_pdf(tmp_path / "a.pdf", [column([*PROSE, prose])]))[-1] == prose


@pytest.mark.parametrize(("left", "right", "whole"), [("anti-", "biotics", "antibiotics"), ("soil-", "borne", "soil-borne")])
def test_a_hyphen_at_the_line_end_stays_only_where_the_document_writes_it(tmp_path: Path, left: str, right: str, whole: str) -> None:
    first, second = f"The genus is known for making {left}", f"{right} of many kinds, as we describe in this text."
    page = [
        Text(60, 760, first),
        Text(60, 748, second),
        *column([f"Many {whole} are known, and more {whole} will be found by others."], y=720),
    ]
    assert (
        texts(write_pdf(tmp_path / "a.pdf", [page]))[0]
        == f"The genus is known for making {whole} of many kinds, as we describe in this text."
    )


def test_a_password_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetAside) as aside:
        read_pdf(write_pdf(tmp_path / "a.pdf", [column(PROSE)], password="secret"))
    assert aside.value.status == "encrypted"


def test_pages_without_a_text_layer_need_ocr(tmp_path: Path) -> None:
    with pytest.raises(SetAside) as aside:
        read_pdf(write_pdf(tmp_path / "a.pdf", [[Text(60, 700, "7")], [Text(60, 700, "8")]]))
    assert aside.value.status == "needs_ocr"


def test_a_truncated_file_is_repaired(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", [column(PROSE)])
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"xref") - 20] if b"xref" in content else content[:-200])
    document = read_file(path, "a.pdf", "0" * 64)
    assert document.status in ("ok", "repaired")
    assert [block.text for block in document.blocks] == list(PROSE)


def test_garbage_after_the_header_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.4\n" + b"nothing that a reader could use\n" * 9)
    document = read_file(path, "a.pdf", "0" * 64)
    assert document.status == "corrupt"
    assert str(tmp_path) not in document.reason


def test_too_many_pages_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(SetAside) as aside:
        read_pdf(write_pdf(tmp_path / "a.pdf", [[]] * (MAX_PAGES + 1)))
    assert aside.value.status == "too_big"


def test_a_real_paper_gives_back_its_paragraphs() -> None:
    truth = json.loads((DATA / "pone.0046041.truth.json").read_text(encoding="utf-8"))["blocks"]
    read = {letters(text) for text in texts(DATA / "pone.0046041.scrambled.pdf")}
    wanted = [letters(block["text"]) for block in truth if block["kind"] == "p"]
    assert sum(text in read for text in wanted) >= 0.9 * len(wanted)
    assert len(read - set(wanted)) <= 0.1 * len(wanted)


@pytest.mark.parametrize("layout", ["ieee", "manuscript-blocks", "one-size", "wiley"])
def test_the_layouts_of_other_publishers_give_back_the_paragraphs_too(layout: str) -> None:
    truth = json.loads((DATA / "pone.0046041.truth.json").read_text(encoding="utf-8"))["blocks"]
    wanted = [letters(block["text"]) for block in truth if block["kind"] == "p"][:12]
    read = {letters(text) for text in texts(DATA / "layouts" / f"{layout}.pdf")}
    found = sum(any(text == part or text + "1" == part for part in read) for text in wanted)  # a footnote's mark may stand at the end
    assert found >= 11
    assert len(read) <= 14


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())
