"""What every trainer is given: a Llama of 15.7 M random parameters with a ChatML tokenizer, and chats to rewrite texts.

FOLDER/model, FOLDER/data/{train,valid}.jsonl. Variants: `full`, chats that fill the limit of 512 tokens; `152k`, the same
model with that many words, most of which no text says. Texts are the standard library's docstrings, or --texts of the caller.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

LIMIT = 512
TRAIN, HELD_OUT = 500, 20
VOCABULARY = 4096
SHAPE = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 2}
SYSTEM = "Rewrite the passage in clear plain prose. Keep every number and name."
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Qwen2's rule: torchtune has a tokenizer for it.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Chat = dict[str, list[dict[str, str]]]


def make(folder: Path, texts: list[str], variant: str) -> dict[str, Any]:
    """Files of a variant, made where they are not there yet; the digest of its data."""
    model, data = folder / "model", folder / "data"
    paragraphs = _paragraphs(texts)
    if not (data / "train.jsonl").is_file():
        model.mkdir(parents=True, exist_ok=True)
        data.mkdir(parents=True, exist_ok=True)
        tokenizer = _train_tokenizer(paragraphs)
        _save_tokenizer(tokenizer, model)
        _save_model(model, 152_064 if variant == "152k" else VOCABULARY)
        chats = _full(paragraphs, tokenizer) if variant == "full" else _varied(paragraphs)
        rows = [json.dumps(next(chats), ensure_ascii=False) + "\n" for _ in range(TRAIN + HELD_OUT)]
        (data / "valid.jsonl").write_text("".join(rows[TRAIN:]), encoding="utf-8")
        (data / "train.jsonl").write_text("".join(rows[:TRAIN]), encoding="utf-8")
    return {"data": hashlib.sha256((data / "train.jsonl").read_bytes()).hexdigest()[:12], "variant": variant}


# -- chats -------------------------------------------------------------------------------------------------------------------
def _paragraphs(texts: list[str]) -> list[str]:
    found = {" ".join(paragraph.split()) for text in texts for paragraph in text.split("\n\n")}
    prose = sorted(one for one in found if 120 <= len(one) <= 1100 and sum(map(str.isalpha, one)) > 0.6 * len(one))
    random.Random(42).shuffle(prose)
    return prose


def _chat(answer: str, chance: random.Random) -> Chat:
    """The question is the answer, spoiled word by word."""
    words = [word.lower() if chance.random() < 0.3 else word for word in answer.split(" ")]
    spoiled = " ".join(word + (" really" if chance.random() < 0.06 else "") for word in words)
    turns = (("system", SYSTEM), ("user", f"Rewrite: {spoiled}"), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _varied(paragraphs: list[str]) -> Iterator[Chat]:
    """Of one to nine paragraphs: about one in five is above the limit."""
    chance, at = random.Random(42), 0
    while True:
        count = chance.choices([1, 2, 3, 5, 9], [0.45, 0.22, 0.14, 0.12, 0.07])[0]
        yield _chat("\n\n".join(paragraphs[(at + i) % len(paragraphs)] for i in range(count)), chance)
        at += count


def _full(paragraphs: list[str], tokenizer: Tokenizer) -> Iterator[Chat]:
    """Each as long as the limit allows, to a few tokens: no trainer cuts or pads anything."""
    chance = random.Random(42)
    words = [word for paragraph in paragraphs for word in paragraph.split()]
    at = 0
    while True:
        count = 200
        while _length(chat := _chat(" ".join(words[at : at + count]), chance), tokenizer) > LIMIT - 4:
            count -= 4
        at = (at + count) % (len(words) - 200)
        yield chat


def _length(chat: Chat, tokenizer: Tokenizer) -> int:
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in chat["messages"])
    return len(tokenizer.encode(text).ids)


# -- model -------------------------------------------------------------------------------------------------------------------
def _train_tokenizer(paragraphs: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), rest])
    tokenizer.decoder = decoders.ByteLevel()
    size, letters = VOCABULARY - len(SPECIAL), pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(paragraphs, trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, show_progress=False))
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """In the files of transformers 4 and 5, and as the two files that torchtune reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    learnt = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in learnt["merges"]]
    (folder / "vocab.json").write_text(json.dumps(learnt["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    named = {"eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, **named, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(named), encoding="utf-8")


def _save_model(folder: Path, vocabulary: int) -> None:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(42)
    ids = {"bos_token_id": None, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 3}
    shape = {**SHAPE, "vocab_size": vocabulary, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    model = LlamaForCausalLM(LlamaConfig(**shape, **ids, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))
    model.generation_config = GenerationConfig(eos_token_id=ids["eos_token_id"], pad_token_id=ids["pad_token_id"])
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in written.items() if name not in ("rope_parameters", "dtype")}  # transformers 4 knows neither
    (folder / "config.json").write_text(json.dumps({**kept, "rope_theta": 10000.0, "torch_dtype": "float32"}, indent=1), encoding="utf-8")
