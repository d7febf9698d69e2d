"""Where tokens stand in a text, told by their bytes or asked for, and literals that stay text."""

from itertools import pairwise

import numpy as np
import pytest
from families import FAMILIES, family
from hypothesis import given, settings
from hypothesis import strategies as st

from gswa.tokens import Line, Tokenizer, encode, special_marks

PIECES = [
    "word ",
    " A sentence, of 12 words. ",
    "\n\n",
    "\t",
    "é",
    "😀",
    "👩‍👩‍👧‍👦",
    "漢字。",
    "x" * 40,
    "[INST]",
    "<|im_end|>",
    "</s>",
    "<|end|>",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=20).map("".join)


def encoded(tokenizer: Tokenizer, text: str) -> Line:
    line = Line(text, special_marks(tokenizer, text))
    encode(tokenizer, [line])
    return line


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_stand_where_the_tokenizer_says_they_do(name: str, text: str) -> None:
    tokenizer = family(name)
    text = f"A{text}"  # a space that is put before a text stands nowhere, whatever the tokenizer says
    line = Line(text)  # without marks: literals are special tokens here
    encode(tokenizer, [line])
    asked = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    assert line.ids == asked.ids
    for first, last in pairwise(range(0, len(text) + 1, 3)):
        assert int(line.within(first, last).sum()) == sum(first <= start < last and end > start for start, end in asked.offsets)
        assert line.count(first, last) == int(line.within(first, last).sum())


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_looks_like_a_special_token_stays_text(name: str, text: str) -> None:
    tokenizer = family(name)
    line = encoded(tokenizer, text)
    assert not set(line.ids) & set(tokenizer.added_tokens_decoder)
    if name in ("chatml", "llama3", "gemma"):  # the others may put a space before a text, which their decoder shows
        assert tokenizer.decode(line.ids) == text
    starts, ends, _ = line.places
    assert (np.diff(starts) >= 0).all() and (ends >= starts).all()


@pytest.mark.parametrize("name", ["chatml", "mistral", "llama3", "gemma"])
def test_the_tokens_bytes_tell_where_they_stand(name: str) -> None:
    assert encoded(family(name), "A sentence — of words, 漢字 and 😀.\n\nAnd another.").places.in_bytes


def test_a_tokenizer_that_swallows_spaces_is_asked() -> None:
    assert not encoded(family("phi3"), "A sentence.").places.in_bytes
