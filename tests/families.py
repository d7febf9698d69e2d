"""Tokenizers and chat templates of the families that people train, each with a small vocabulary made here."""

import json
from collections.abc import Callable
from functools import cache
from pydoc_data.topics import topics
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from gswa.tokens import Tokenizer

TEXTS = [text for _, text in sorted(topics.items())][:40]
# Of Llama 3: a sentence's full stop and the line ends after it are one token.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% for m in messages %}{% set head = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' %}"
    "{% set text = head + m['content'] | trim + '<|eot_id|>' %}"
    "{{ bos_token + text if loop.first else text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def _chatml() -> Backend:
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def _qwen() -> Backend:
    backend = _llama3()
    backend.normalizer = normalizers.NFC()  # an accent that stands apart is one letter in the tokens
    return backend


def _llama3() -> Backend:
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _byte_level(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), rest]))


def _byte_level(split: Any) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer, backend.decoder = split, decoders.ByteLevel()
    return _trained(backend, pre_tokenizers.ByteLevel.alphabet())


def _mistral() -> Backend:
    return _sentence_piece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False))


def _phi3() -> Backend:
    return _sentence_piece(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None)


def _gemma() -> Backend:
    return _sentence_piece(normalizers.Replace(" ", "▁"), None)


def _sentence_piece(normalizer: Any, split: Any) -> Backend:
    """Vocabulary and merges are learnt with words apart; then the text is one word, as SentencePiece has it."""
    learning = Backend(models.BPE(unk_token="<unk>"))
    learning.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    learnt = json.loads(_trained(learning, []).to_str())["model"]
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *(token for token in learnt["vocab"] if token != "<unk>")]
    merges = [tuple(pair) for pair in learnt["merges"]]
    backend = Backend(
        models.BPE({token: i for i, token in enumerate(tokens)}, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    if normalizer is not None:
        backend.normalizer = normalizer
    if split is not None:
        backend.pre_tokenizer = split
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _trained(backend: Backend, alphabet: list[str]) -> Backend:
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return backend


# name: how it splits, its template, its own tokens, its beginning and its end
FAMILIES: dict[str, tuple[Callable[[], Backend], str, list[str], str | None, str]] = {
    "chatml": (_chatml, CHATML, ["<|im_start|>"], None, "<|im_end|>"),
    "qwen": (_qwen, CHATML, ["<|im_start|>"], None, "<|im_end|>"),
    "mistral": (_mistral, MISTRAL, ["[INST]", "[/INST]"], "<s>", "</s>"),
    "llama3": (_llama3, LLAMA3, ["<|start_header_id|>", "<|end_header_id|>"], "<|begin_of_text|>", "<|eot_id|>"),
    "phi3": (_phi3, PHI3, ["<|user|>", "<|assistant|>", "<|system|>"], None, "<|end|>"),
    "gemma": (_gemma, GEMMA, ["<start_of_turn>"], "<bos>", "<end_of_turn>"),
}


@cache
def family(name: str) -> Tokenizer:
    make, template, own, begin, end = FAMILIES[name]
    backend = make()
    trailing = name == "phi3"  # its tokens swallow the space after them
    backend.add_special_tokens([AddedToken(token, rstrip=trailing, normalized=False) for token in [*own, *filter(None, [begin]), end]])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=begin, eos_token=end, pad_token=end)
    tokenizer.chat_template = template
    return tokenizer
