import json
import subprocess
import sys
import unicodedata

import pytest
from families import FAMILIES, family

from gswa.dataset import lengths, load_tokenizer, render, render_all, render_prompt
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


@pytest.mark.parametrize("name", ["chatml", "qwen", "gemma"])
def test_a_character_without_meaning_stays_beside_special_token_text(name):
    tokenizer = family(name)
    words = f"A \ufdd0 b {tokenizer.eos_token} \ufdd0\ufdd0 c"
    messages = chat("see \ufdd0", words)
    assert learnt(tokenizer, messages) == words + tokenizer.eos_token
    rendered = render(tokenizer, messages)
    assert list(lengths(tokenizer, [messages])) == [(len(rendered.ids), sum(rendered.mask))]


def test_a_template_that_leaves_out_thoughts_is_not_taken_for_one_that_trains_them(tokenizer):
    from copy import deepcopy

    forgetful = deepcopy(tokenizer)
    forgetful.chat_template = forgetful.chat_template.replace("m['content']", "m['content'].split('</think>')[-1]")
    assert learnt(forgetful, chat("q", "Yes.")) == "Yes.<|im_end|>"
    with pytest.raises(DataError, match="leaves out"):
        render(forgetful, chat("q", "<think>a</think>Yes."))


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_learns_the_answer_and_where_it_ends(name):
    tokenizer = family(name)
    assert learnt(tokenizer, chat("What is it?", "A cell, I think.")).strip() == f"A cell, I think.{tokenizer.eos_token}"


@pytest.mark.parametrize("name", FAMILIES)
def test_chats_are_counted_as_they_are_rendered(name):
    tokenizer = family(name)
    chats = [chat("q" * n, f"A {n} [INST] <|end|> <end_of_turn>" * n) for n in range(1, 5)]
    rendered = list(render_all(tokenizer, chats))
    assert [render(tokenizer, one) for one in chats] == rendered
    assert list(lengths(tokenizer, chats)) == [(len(one.ids), sum(one.mask)) for one in rendered]


@pytest.mark.parametrize(("question", "answer"), [("cafe\u0301", "plain"), ("plain", "cafe\u0301"), ("\u0958", "\u0958")])
def test_an_accent_that_stands_apart_is_counted_as_it_is_rendered(question, answer):
    messages = chat(question, answer)
    rendered = render(family("qwen"), messages)
    assert list(lengths(family("qwen"), [messages])) == [(len(rendered.ids), sum(rendered.mask))]
    assert learnt(family("qwen"), messages) == unicodedata.normalize("NFC", answer) + "<|im_end|>"


def test_a_plain_tokenizer_is_loaded_without_torch():
    code = "import sys; from gswa.basemodel import BUILTIN_FOLDER as f; from gswa.dataset import load_tokenizer; load_tokenizer(f); "
    subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=True)


def test_a_limit_that_a_tokenizer_brings_along_cuts_nothing(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    limits = {"truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **limits}))
    assert len(render(load_tokenizer(tmp_path), chat("What?", "word " * 50)).ids) > 50


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    from copy import deepcopy

    rewriting = deepcopy(tokenizer)
    rewriting.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="rewrites"):
        render(rewriting, [*chat("One?", "First."), *chat("Two?", "Second.")])
