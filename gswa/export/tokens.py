"""A byte-level BPE tokenizer as GGUF words it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

# llama.cpp knows a splitting rule by name only, so a rule that is not here cannot be exported.
_LLAMA3_LIKE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITTING_RULES = {_LLAMA3_LIKE % "{1,3}": "llama-bpe", _LLAMA3_LIKE % "": "qwen2"}


class Vocabulary(NamedTuple):
    """`tokens` has one entry per row of the embedding; `special` holds the ids of control tokens, `added` of the other added ones."""

    splitting: str
    tokens: tuple[str | None, ...]
    special: frozenset[int]
    added: frozenset[int]
    merges: tuple[str, ...]
    named: dict[str, int]


def read_vocabulary(folder: Path, size: int) -> Vocabulary | None:
    """None where the tokenizer is no byte-level BPE with a splitting rule that llama.cpp has. `size` is in tokens."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    splitting = splitting_rule(content)
    if splitting is None:
        return None
    ids = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    by_id = {number: token for token, number in ids.items()}
    return Vocabulary(
        splitting,
        tuple(by_id.get(number) for number in range(size)),
        frozenset(token["id"] for token in content["added_tokens"] if token["special"]),
        frozenset(token["id"] for token in content["added_tokens"] if not token["special"]),
        tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]),
        _named(folder, ids),
    )


def splitting_rule(content: dict[str, Any]) -> str | None:
    """llama.cpp's name for how a tokenizer.json splits text before merging."""
    if content.get("model", {}).get("type") != "BPE" or content["model"].get("byte_fallback"):
        return None
    outer = content.get("pre_tokenizer") or {}
    *steps, last = outer.get("pretokenizers") or [outer]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    normalizer = (content.get("normalizer") or {}).get("type")
    if last.get("use_regex", True):
        if normalizer or len(steps) > 1:
            return None
        digits = bool(steps) and steps[0].get("type") == "Digits" and steps[0].get("individual_digits")
        return "smollm" if digits else None if steps else "gpt-2"
    if len(steps) == 1 and steps[0].get("type") == "Split" and normalizer in (None, "NFC"):
        return SPLITTING_RULES.get(steps[0]["pattern"].get("Regex", ""))
    return None


def _named(folder: Path, ids: dict[str, int]) -> dict[str, int]:
    """The ids of bos_token, eos_token and pad_token, of those that the tokenizer has."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    named = {}
    for key in ("bos_token", "eos_token", "pad_token"):
        token = settings.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        if text in ids:
            named[key] = ids[text]
    return named
