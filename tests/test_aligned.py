"""Which prompts can be cut together with their answers."""

import pytest

from gswa.aligned import aligned, paragraphs

PAIRS = [
    ("Growths of bacteria was measure in light.", "The growth of bacteria was measured in light."),
    ("Yeasts culture they keep cold always.", "Yeasts were always kept cold."),
]
OLD, NEW = ("\n\n".join(side) for side in zip(*PAIRS, strict=True))


def test_paragraphs_belong_together_in_their_order_after_an_instruction() -> None:
    found = aligned(f"Rewrite this.\n\n{OLD}", NEW)
    assert found is not None
    assert found.instruction == "Rewrite this."
    assert [(asked, NEW[start:end]) for asked, (start, end) in zip(found.asked, found.answered, strict=True)] == PAIRS


def test_an_instruction_may_be_part_of_the_first_paragraph() -> None:
    found = aligned(f"Rewrite: {OLD}", NEW)
    assert found is not None
    assert (found.instruction, len(found.asked)) == ("", 2)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (OLD, NEW.split("\n\n")[0]),
        (f"Rewrite this.\n\nAnd keep it short.\n\n{OLD}", NEW),
        ("\n\n".join(OLD.split("\n\n")[::-1]), NEW),
        ("How do bacteria grow?\n\nAnd what of yeast cultures?", "They double.\n\nThey bud, if it is warm enough."),
        ("One only.", "One only."),
    ],
)
def test_a_question_and_its_answer_are_not_aligned(asked: str, answer: str) -> None:
    assert aligned(asked, answer) is None


def test_paragraphs_are_spans_without_the_white_space_around_them() -> None:
    text = "\n\n A b. \n \t\n\n C.\nD. "
    assert [text[start:end] for start, end in paragraphs(text)] == ["A b.", "C.\nD."]
