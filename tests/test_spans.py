"""Where a text is cut, measured here with one token per word or character."""

import re

import numpy as np
import pytest

from gswa.measure import Measured, measured
from gswa.spans import LEVELS, Budget, context_starts, plan


def by_word(text: str) -> Measured:
    words = re.findall(r"\s*\S+", text)
    return measured(text, [len(word) for word in words], [1] * len(words), [True] * len(words))


def pieces(text: str, first: int, rest: int, strategy: str = "auto") -> list[str] | None:
    found = plan(by_word(text), Budget(first, rest, [0]), next(known for known in LEVELS if known == strategy))
    return None if found is None else [text[start:end] for start, end in found.spans]


def test_two_even_halves_rather_than_a_full_chunk_and_a_rest() -> None:
    text = " ".join(f"Sentence {n}." for n in range(6))
    assert [len(piece.split()) for piece in pieces(text, 10, 10) or []] == [6, 6]


def test_a_paragraph_end_is_preferred_to_a_sentence_end_near_it() -> None:
    text = "One two. Three four.\n\nFive six. Seven eight. Nine ten."
    assert pieces(text, 7, 7) == ["One two. Three four.", "Five six. Seven eight. Nine ten."]


def test_words_are_cut_only_in_the_sentence_that_is_too_long() -> None:
    text = "Short one. " + "word " * 12 + "end. Short two. Short three."
    cut = pieces(text, 8, 8) or []
    assert cut[0].startswith("Short one. word")
    assert cut[-1] == "Short two. Short three." or cut[-1].endswith("end. Short two. Short three.")
    assert all(len(piece.split()) <= 8 for piece in cut)


def test_the_paragraph_strategy_cuts_no_sentence_apart_from_its_paragraph_without_need() -> None:
    text = "A b. C d.\n\nE f. G h.\n\nI j. K l."
    assert pieces(text, 7, 7, "paragraph") == ["A b. C d.", "E f. G h.", "I j. K l."]


def test_the_first_chunk_has_its_own_budget() -> None:
    text = " ".join(f"S{n}." for n in range(12))
    assert [len(piece.split()) for piece in pieces(text, 2, 10) or []] == [2, 10]


@pytest.mark.parametrize("strategy", LEVELS)
def test_a_run_without_spaces_is_cut_where_it_was_measured(strategy: str) -> None:
    tokens = measured("😀" * 10, [1] * 10, [4] * 10, [False] * 10)
    found = plan(tokens, Budget(10, 10, [0]), next(known for known in LEVELS if known == strategy))
    assert found is not None
    assert found.spans == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]


@pytest.mark.parametrize("budget", [Budget(3, 3, [0]), Budget(0, 50, [0]), Budget(50, 0, [0]), Budget(50, 20, [20])])
def test_a_budget_that_holds_no_piece_has_no_plan(budget: Budget) -> None:
    assert plan(measured("😀" * 20, [1] * 20, [4] * 20, [False] * 20), budget, "auto") is None


def test_a_later_chunk_holds_less_by_the_text_before_it() -> None:
    text = " ".join(f"{n}." for n in range(30))
    found = plan(by_word(text), Budget(10, 10, [4]), "auto")
    assert found is not None
    assert [len(text[start:end].split()) for start, end in found.spans] == [10, 5, 5, 5, 5]


@pytest.mark.parametrize(("words", "chunks", "context"), [(26, 3, 2), (27, 3, 1), (28, 3, 1), (31, 4, 2)])
def test_the_text_before_a_chunk_gives_way_where_it_would_cost_a_chunk_more(words: int, chunks: int, context: int) -> None:
    found = plan(by_word(" ".join(f"{n}." for n in range(words))), Budget(10, 10, [2, 1]), "auto")
    assert found is not None
    assert (len(found.spans), found.context) == (chunks, context)


def test_a_context_starts_at_a_sentence_else_at_a_word() -> None:
    text = "One two three. Four five six. Seven"

    def context(end: int, tokens: int) -> str:
        return text[context_starts(by_word(text), np.array([end]), tokens)[0] : end]

    assert context(len(text), 5) == "Four five six. Seven"
    assert context(14, 2).strip() == "two three."
    assert context(len(text), 50) == text
