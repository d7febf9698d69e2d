"""Where sentences end."""

from itertools import pairwise

import pytest

from gswa.sentences import last_sentences, paragraph_starts, sentence_starts


def sentences(text: str) -> list[str]:
    starts = [0, *sentence_starts(text), len(text)]
    return [text[a:b].strip() for a, b in pairwise(starts)]


@pytest.mark.parametrize(
    "text",
    ["As in Fig. 3 we see it", "Smith et al. (2004) found", "by J. Smith", "e.g. S. coelicolor grows", "at 3.5 mM or so", "i.e. The rest"],
)
def test_a_short_form_ends_no_sentence(text: str) -> None:
    assert sentences(text) == [text]


def test_a_sentence_ends_at_its_mark_with_the_quotes_and_citations_after_it() -> None:
    assert sentences('It "works." So [1, 2] it does. [3] Yes! 好。 中文也行。') == [
        'It "works."',
        "So [1, 2] it does. [3]",
        "Yes!",
        "好。",
        "中文也行。",
    ]


def test_a_line_with_spaces_only_parts_paragraphs() -> None:
    assert paragraph_starts("One\nline.\n \t\n  Two.") == [15]


def test_the_last_sentences_are_whole_ones_within_the_words() -> None:
    assert last_sentences("One two three. Four five. Six.", words=3) == "Four five. Six."


def test_of_a_sentence_that_is_too_long_the_last_words_stand_for_it() -> None:
    assert last_sentences("Short. One two three four.", words=2) == "three four."
