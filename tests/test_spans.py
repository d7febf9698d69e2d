"""Where a text is cut, measured here with one token per word or character."""

import re

import pytest

from gswa.spans import LEVELS, Budget, Measured, context_start, measured, plan


def by_word(text: str) -> Measured:
    return measured(text, [match.span() for match in re.finditer(r"\s*\S+", text)])


def pieces(text: str, budget: Budget, strategy: str = "auto") -> list[str] | None:
    spans = plan(by_word(text), budget, next(known for known in LEVELS if known == strategy))
    return None if spans is None else [text[start:end] for start, end in spans]


def test_two_even_halves_rather_than_a_full_chunk_and_a_rest() -> None:
    text = " ".join(f"Sentence {n}." for n in range(6))
    assert [len(piece.split()) for piece in pieces(text, Budget(10, 10)) or []] == [6, 6]


def test_a_paragraph_end_is_preferred_to_a_sentence_end_near_it() -> None:
    text = "One two. Three four.\n\nFive six. Seven eight. Nine ten."
    assert pieces(text, Budget(7, 7)) == ["One two. Three four.", "Five six. Seven eight. Nine ten."]


def test_words_are_cut_only_in_the_sentence_that_is_too_long() -> None:
    text = "Short one. " + "word " * 12 + "end. Short two. Short three."
    cut = pieces(text, Budget(8, 8)) or []
    assert cut[0].startswith("Short one. word")
    assert cut[-1] == "Short two. Short three." or cut[-1].endswith("end. Short two. Short three.")
    assert all(len(piece.split()) <= 8 for piece in cut)


def test_the_paragraph_strategy_cuts_no_sentence_apart_from_its_paragraph_without_need() -> None:
    text = "A b. C d.\n\nE f. G h.\n\nI j. K l."
    assert pieces(text, Budget(7, 7), "paragraph") == ["A b. C d.", "E f. G h.", "I j. K l."]


def test_the_first_chunk_has_its_own_budget() -> None:
    text = " ".join(f"S{n}." for n in range(12))
    assert [len(piece.split()) for piece in pieces(text, Budget(2, 10)) or []] == [2, 10]


@pytest.mark.parametrize("strategy", LEVELS)
def test_a_character_of_several_tokens_is_never_cut(strategy: str) -> None:
    text = "😀" * 10
    tokens = measured(text, [(n // 4, n // 4 + 1) for n in range(40)])
    spans = plan(tokens, Budget(10, 10), next(known for known in LEVELS if known == strategy))
    assert spans == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]


@pytest.mark.parametrize("budget", [Budget(3, 3), Budget(0, 50), Budget(50, 0)])
def test_a_budget_that_holds_no_character_has_no_plan(budget: Budget) -> None:
    assert plan(measured("😀" * 10, [(n // 4, n // 4 + 1) for n in range(40)]), budget, "auto") is None


def test_a_context_starts_at_a_sentence_else_at_a_word() -> None:
    text = "One two three. Four five six. Seven"
    assert text[context_start(by_word(text), len(text), 5) :] == "Four five six. Seven"
    assert text[context_start(by_word(text), 14, 2) : 14] == "two three."
    assert context_start(by_word(text), len(text), 50) == 0
