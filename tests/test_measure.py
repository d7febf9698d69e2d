"""Tokens by words: exact nearly everywhere, and never far off."""

import numpy as np
import pytest
from families import FAMILIES, family
from hypothesis import given, settings
from hypothesis import strategies as st

from gswa.measure import WordCounts
from gswa.tokens import Line, encode, special_marks

PROSE = "The cells were grown at 37 °C (see Fig. 2). After 12 h, <|im_end|> growth stopped;\nit went on later.\n\nA second one, e.g. this. "


def true_tokens(name: str, text: str) -> int:
    line = Line(text, special_marks(family(name), text))
    encode(family(name), [line])
    return len(line.ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_prose_is_counted_to_a_hundredth(name: str) -> None:
    text = PROSE * 20
    counts = WordCounts(family(name))
    assert counts.measure(text).total == pytest.approx(true_tokens(name, text), rel=0.01)
    assert counts.measure(text[: len(PROSE) * 7]).total == pytest.approx(true_tokens(name, text[: len(PROSE) * 7]), rel=0.01, abs=2)


@settings(max_examples=100, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from(["a", " ", "\n", "word", "漢字。", "x" * 50, "é", "\t", "\r\n"])).map("".join))
@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_words_leave_nothing_of_a_text_out(name: str, text: str) -> None:
    measured = WordCounts(family(name)).measure(text)
    assert measured.ends[0] == 0 and measured.ends[-1] == len(text)
    assert (measured.ends[1:] >= measured.ends[:-1]).all()
    assert measured.before(measured.ends)[-1] == measured.total


def test_a_run_without_spaces_is_measured_in_pieces() -> None:
    measured = WordCounts(family("chatml")).measure("漢字。" * 100)
    assert max(measured.ends[1:] - measured.ends[:-1]) <= 9


def test_more_distinct_words_than_are_remembered_are_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gswa.measure.MEMORY", 3)
    counts = WordCounts(family("chatml"))
    first = counts.measure("one two three four")
    assert counts.measure("four five one").total == true_tokens("chatml", "four five one")
    assert counts.measure("one two three four").total == first.total


@pytest.mark.parametrize("text", ["a" + " " * 900 + "b", "def f():\n\n\n    return 1\n" * 20, "。" * 600, "\ufdd0word \ufdd0 end"])
@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_runs_of_spaces_line_ends_and_marks_are_counted_about_as_they_are(name: str, text: str) -> None:
    measured = WordCounts(family(name)).measure(text)
    assert measured.ends[-1] == len(text)
    assert measured.total == pytest.approx(true_tokens(name, text), rel=0.15, abs=4)


def test_a_correction_counts_in_its_span_and_moves_all_that_follows() -> None:
    text = "one two three four five six"
    before = WordCounts(family("chatml")).measure(text)
    after = before.corrected([(0, 13), (14, 18), (19, 27)], [2, 0, 3])
    more = after.tokens - before.tokens
    assert (more[0], *more[3:5], more[6]) == (0, 2, 2, 5)
    assert more[1] == 1 and (np.diff(more) >= 0).all()
    assert after.sentences is before.sentences
    assert before.corrected([(0, 27)], [0]).tokens.tolist() == before.tokens.tolist()
