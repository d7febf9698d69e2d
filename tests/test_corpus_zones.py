import pytest
from papers import PROSE

from gswa.corpus.clean import clean_text, count_words
from gswa.corpus.headings import is_caption, is_known_heading, zone_of
from gswa.corpus.zones import Draft, is_prose, type_blocks


def kinds(*drafts: Draft) -> list[str]:
    return [block.kind for block in type_blocks(drafts)]


def test_everything_under_references_is_reference_until_the_appendix() -> None:
    drafts = [Draft("References", "heading"), Draft(PROSE[0]), Draft("Appendix", "heading"), Draft(PROSE[1])]
    assert kinds(Draft(PROSE[2]), *drafts) == ["paragraph", "heading", "reference", "heading", "paragraph"]


@pytest.mark.parametrize("heading", ["Acknowledgments", "5. Funding", "Conflict of Interest", "Author contributions"])
def test_thanks_and_money_are_not_trained_on(heading: str) -> None:
    assert kinds(Draft(PROSE[0]), Draft(heading, "heading"), Draft(PROSE[1])) == ["paragraph", "heading", "acknowledgement"]


def test_authors_and_affiliations_before_the_text_are_other() -> None:
    front = [Draft("Jane Roe and John Doe"), Draft("Department of Soil, University of Somewhere, Institute of Things, Town, Country.")]
    assert kinds(Draft("Growth in soil", "title"), *front, Draft(PROSE[0])) == ["title", "affiliation", "affiliation", "paragraph"]


def test_names_in_large_type_before_the_abstract_are_no_heading() -> None:
    front = [Draft("Jane Roe, John van Doe and Ann Poe", "heading"), Draft(f"Department of Soil. {PROSE[0]}"), Draft("Abstract", "heading")]
    assert kinds(Draft("Growth in soil", "title"), *front, Draft(PROSE[1])) == [
        "title",
        "affiliation",
        "affiliation",
        "heading",
        "paragraph",
    ]


def test_a_summary_at_the_end_is_no_abstract() -> None:
    drafts = [Draft("Introduction", "heading"), Draft(PROSE[0]), Draft("Summary", "heading"), Draft(PROSE[1])]
    assert kinds(Draft("Growth in soil", "title"), *drafts) == ["title", "heading", "paragraph", "heading", "paragraph"]
    long = [Draft(" ".join(PROSE * 4))] * 4
    assert kinds(Draft("Growth in soil", "title"), *long, *drafts[2:]).count("paragraph") == 5


def test_a_listing_set_letter_by_letter_is_no_paragraph() -> None:
    listing = "l e t a = 0 in b = s u c c 0 in d = &b in e = &mut a in a has b has d has e has l i f e t i m e in the end of it."
    assert not is_prose(listing) and is_prose("We write a b c for the product of all of the numbers that are in a, in b and in c.")


def test_an_abstract_in_small_print_that_nothing_names_is_text() -> None:
    abstract = Draft(" ".join(PROSE), "small")
    assert kinds(Draft("Growth in soil", "title"), abstract, Draft("Introduction", "heading"), Draft(PROSE[0]))[1] == "paragraph"
    assert kinds(Draft("Introduction", "heading"), Draft(PROSE[0]), abstract)[2] == "note"


def test_a_reference_that_looks_like_a_heading_does_not_end_the_references() -> None:
    drafts = [Draft("References", "heading"), Draft("Budas, G., Coughlan, C. M. and Breen,", "heading"), Draft("K. C. (1999). The effect.")]
    assert kinds(Draft(PROSE[0]), *drafts) == ["paragraph", "heading", "reference", "reference"]


def test_the_last_word_of_a_sentence_is_no_heading() -> None:
    assert is_known_heading("Results.") and is_known_heading("2. Introduction") and is_known_heading("摘要")
    assert not is_known_heading("results.") and not is_known_heading("literature")


def test_an_abstract_that_runs_in_becomes_a_section() -> None:
    blocks = type_blocks([Draft(f"Abstract. {PROSE[0]}")])
    assert [(block.kind, block.text, block.section) for block in blocks] == [
        ("heading", "Abstract", ""),
        ("paragraph", PROSE[0], "Abstract"),
    ]


def test_the_first_short_line_is_the_title() -> None:
    assert kinds(Draft("Growth of bacteria in soil"), Draft(PROSE[0])) == ["title", "paragraph"]
    assert kinds(Draft("Introduction", "heading"), Draft(PROSE[0])) == ["heading", "paragraph"]


def test_no_text_is_lost() -> None:
    drafts = [Draft(text, hint) for text in (*PROSE, "x", "Figure 1. A map.") for hint in ("", "small", "note", "other", "heading")]
    assert [block.text for block in type_blocks(drafts)] == [draft.text for draft in drafts]


def test_captions_are_told_from_prose() -> None:
    assert is_caption("Fig. 2. Growth.") and is_caption("Table S1: Strains") and is_caption("Figure 3 | Yield")
    assert (
        not is_caption("Figs. 5A–5D show growth.")
        and not is_caption("Fig. 2 shows growth.")
        and not is_caption("Table 1 lists the strains.")
    )


def test_section_names_are_whole_lines() -> None:
    assert zone_of("References") == "reference"
    assert zone_of("Reference strains") is None


def test_tables_and_unreadable_letters_are_no_prose() -> None:
    assert is_prose(PROSE[0])
    assert not is_prose("12.3 45.6 78.9 (0.1) 2.3 4.5 6.7 8.9 1.0 mean 12 13 14 15 16 17 18 19 20.")
    assert not is_prose("Each � of the sequence � is a � vector � as usual.")


def test_sentences_full_of_figures_are_prose() -> None:
    assert is_prose("The risk was lower in those who were treated (OR = 0.60, 95%CI: 0.41–0.86, P = 0.006; OR = 0.61, 95%CI: 0.39–0.95).")
    assert is_prose("To obtain the solution, we need to solve this equation by setting the associated functions, which gives")


def test_cleaning_leaves_the_style_alone() -> None:
    assert clean_text("x² and CO₂, “quoted” – it’s ½…") == "x² and CO₂, “quoted” – it’s ½…"


def test_cleaning_repairs_what_is_broken() -> None:
    assert clean_text("na\u00efve cafe\u0301 \ufb01lm\u00ad\u200b a\u00a0b\u202e\n c") == "naïve café film a b c"
    assert clean_text("donâ€™t") == "don’t"


def test_words_of_chinese_are_its_characters() -> None:
    assert count_words("链霉菌 makes antibiotics") == 5


@pytest.mark.parametrize("word", ["Figure", "Abbildung", "Abb.", "Tabelle", "Tab.", "Tableau", "Figura", "Tabla", "Tabel"])
def test_a_caption_in_another_language_is_one(word: str) -> None:
    """The captions of a German thesis were kept as its author's paragraphs; "Figure 3.1 shows" was taken for a caption."""
    assert is_caption(f"{word} 3.1: Geologische Karte des Gebiets")
    assert not is_caption(f"{word} 3.1 zeigt die geologische Karte")
