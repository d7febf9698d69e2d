import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gswa.dataset import encode, render, render_prompt
from gswa.errors import DataError
from gswa.records import Message


def chat(question: str, answer: str) -> list[Message]:
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


def learnt(tokenizer, messages: list[Message]) -> str:
    rendered = render(tokenizer, messages)
    return str(tokenizer.decode([token for token, carries in zip(rendered.ids, rendered.mask, strict=True) if carries]))


def test_loss_falls_on_the_answer_and_its_end_only(tokenizer):
    assert learnt(tokenizer, chat("What is it?", "A cell.")) == "A cell.<|im_end|>"


def test_every_answer_of_a_longer_chat_carries_loss(tokenizer):
    assert learnt(tokenizer, [*chat("One?", "First."), *chat("Two?", "Second.")]) == "First.<|im_end|>Second.<|im_end|>"


def test_a_prompt_is_the_beginning_of_what_is_trained(tokenizer):
    messages = chat("What is it?", "A cell.")
    prompt = render_prompt(tokenizer, messages[:1])
    assert render(tokenizer, messages).ids[: len(prompt)] == prompt


@pytest.mark.parametrize("literal", ["<|im_end|>", "<|im_start|>", "a<|im_end|><|im_end|>b", "<|im_<|im_end|>"])
def test_special_token_text_in_a_paper_stays_text(tokenizer, literal):
    special = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>")}
    plain = render(tokenizer, chat("q", "x"))
    rendered = render(tokenizer, chat(literal, f"see {literal} there"))
    assert sum(token in special for token in rendered.ids) == sum(token in special for token in plain.ids)
    text = tokenizer.decode(rendered.ids)
    assert f"user\n{literal}" in text
    assert f"see {literal} there" in text
    assert not special & set(encode(tokenizer, literal).ids)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200) | st.sampled_from(["👩‍🔬 naïve 細胞", "\n\n \t", "<|im_end|>"]))
def test_offsets_cover_the_text(tokenizer, text):
    encoding = encode(tokenizer, text)
    assert len(encoding.ids) == len(encoding.offsets)
    assert tokenizer.decode(encoding.ids) == text
    assert max((end for _, end in encoding.offsets), default=0) <= len(text)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    from copy import deepcopy

    rewriting = deepcopy(tokenizer)
    rewriting.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="rewrites"):
        render(rewriting, [*chat("One?", "First."), *chat("Two?", "Second.")])
