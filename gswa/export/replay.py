"""Exported files at work: the prompt's tokens and the greedy answer, as llama.cpp computes them, against transformers + PEFT.

The engine here is the GGUF specification in numpy: it shares no code with what wrote the files.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gswa.export.verify import ExportFault

log = logging.getLogger("gswa")
Numbers = npt.NDArray[Any]

ANSWER_TOKENS = 24
LARGEST_FILE = 2**30  # bytes; a larger base takes minutes per answer in numpy
# Logits: where the first two are closer than this, rounding may choose either. llama.cpp rounds what it multiplies with
# fp16 weights to fp16 too, which moved the logits of the built-in base by 0.009.
TIE, TIE_IN_16_BITS = 1e-3, 0.05

# llama.cpp's splitting rules by name (llama-vocab.cpp).
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
WORDS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "qwen2": [WORDS + r"\p{N}" + REST],
    "llama-bpe": [WORDS + r"\p{N}{1,3}" + REST],
}
CONTROL, USER_DEFINED = 3, 4  # token types
ALL_F32 = 0  # file type


class Reference(NamedTuple):
    """What transformers + PEFT make of the prompt; `margins` are the logits' distance of the first from the second choice."""

    prompt: str
    prompt_ids: list[int]
    answer: list[int]
    margins: list[float]


class Model(NamedTuple):
    fields: dict[str, Any]
    tensors: dict[str, Numbers]
    adapter: dict[str, Numbers]
    scale: float


def check_answers(base_file: Path, adapter_file: Path, peft: Path, base: Path) -> Iterator[str]:
    """Gives what was compared; nothing for a base too large to try. Raises ExportFault where tokens or answers differ."""
    if base_file.stat().st_size > LARGEST_FILE:
        log.info("export: %s is too large to compute an answer with; its numbers were compared", base_file.name)
        return
    if find_spec("torch") is None or find_spec("peft") is None:
        log.info("export: without torch and PEFT no answer can be compared; the files' numbers were")
        return
    reference = ask_transformers(base, peft)
    model = load(base_file, adapter_file)
    if tokenize(model.fields, reference.prompt) != reference.prompt_ids:
        raise ExportFault(f"export: {base_file.name} splits the prompt into other tokens than the base; nothing was put in place")
    yield f"{base_file.name}: the same {len(reference.prompt_ids)} prompt tokens as the base's tokenizer"
    yield f"same greedy answer as transformers and PEFT, computed from the GGUF files: {_agree(reference, greedy(model, reference), TIE)}"
    tie = TIE if model.fields["general.file_type"] == ALL_F32 else TIE_IN_16_BITS
    if (answer := ask_llama_cpp(base_file, adapter_file, reference)) is not None:
        yield f"same greedy answer as transformers and PEFT, from llama.cpp: {_agree(reference, answer, tie)}"


def _agree(reference: Reference, answer: Sequence[int], tie: float) -> str:
    """How many tokens agree; a difference where two tokens are tied ends the comparison, another one is a fault."""
    for i, (expected, token) in enumerate(zip(reference.answer, answer, strict=True)):
        if expected != token and reference.margins[i] > tie:
            raise ExportFault(
                f"export: the exported files answer otherwise from token {i + 1} on; nothing was put in place, please report this"
            )
        if expected != token:
            return f"{i} tokens, then a tie"
    return f"{len(answer)} tokens"


def ask_transformers(base: Path, peft: Path) -> Reference:
    """In a process of its own, so that this one need not load torch."""
    command = [sys.executable, "-m", "gswa.export.reference", str(base), str(peft), str(ANSWER_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportFault(f"export: transformers and PEFT cannot load what was trained ({reason}); nothing was put in place")
    return Reference(**json.loads(done.stdout.splitlines()[-1]))


def ask_llama_cpp(base_file: Path, adapter_file: Path, reference: Reference) -> list[int] | None:
    """None where llama-cpp-python is not installed."""
    if find_spec("llama_cpp") is None:
        return None
    llama_cpp: Any = import_module("llama_cpp")
    # Its default keeps keys and values in fp16, which moves logits by 3e-4.
    exact: dict[str, Any] = {"type_k": 0, "type_v": 0, "flash_attn": False}
    length = len(reference.prompt_ids) + ANSWER_TOKENS + 1
    model = llama_cpp.Llama(str(base_file), lora_path=str(adapter_file), n_ctx=length, n_gpu_layers=0, verbose=False, **exact)
    if model.tokenize(reference.prompt.encode(), add_bos=False, special=True) != reference.prompt_ids:
        raise ExportFault(f"export: llama.cpp splits the prompt into other tokens than {base_file.name}'s base; nothing was put in place")
    tokens = model.generate(reference.prompt_ids, temp=0.0, top_k=1, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
    return [int(token) for token, _ in zip(tokens, range(ANSWER_TOKENS), strict=False)]


# -- the tokenizer, from the GGUF file alone ---------------------------------------------------------------------------
def tokenize(fields: dict[str, Any], text: str) -> list[int]:
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=fields["tokenizer.ggml.pre"] == "llama-bpe"))
    splits = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in RULES[fields["tokenizer.ggml.pre"]]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    added = [tokens[i] for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added])
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


# -- the model, from the GGUF files alone ------------------------------------------------------------------------------
def load(base_file: Path, adapter_file: Path) -> Model:
    fields, tensors = _read(base_file)
    adapter_fields, adapter = _read(adapter_file)
    alpha = adapter_fields["adapter.lora.alpha"]
    rank = next(len(tensor) for name, tensor in adapter.items() if name.endswith(".lora_a"))
    return Model(fields, tensors, adapter, alpha / rank if alpha else 1.0)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Numbers]]:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(file)
    tensors = {tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float32) for tensor in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


def greedy(model: Model, reference: Reference) -> list[int]:
    ids = list(reference.prompt_ids)
    for _ in reference.answer:
        ids.append(int(logits(model, ids)[-1].argmax()))
    return ids[len(reference.prompt_ids) :]


def logits(model: Model, ids: Sequence[int]) -> Numbers:
    """(tokens, vocabulary), of a llama or qwen2 file with its adapter applied beside the weights."""
    x = model.tensors["token_embd.weight"][list(ids)]
    for block in range(_setting(model, "block_count")):
        x = x + _attention(model, f"blk.{block}", _norm(model, f"blk.{block}.attn_norm", x))
        h = _norm(model, f"blk.{block}.ffn_norm", x)
        gate = _linear(model, f"blk.{block}.ffn_gate", h)
        x = x + _linear(model, f"blk.{block}.ffn_down", gate / (1 + np.exp(-gate)) * _linear(model, f"blk.{block}.ffn_up", h))
    output = model.tensors.get("output.weight", model.tensors["token_embd.weight"])
    result: Numbers = _norm(model, "output_norm", x) @ output.T
    return result


def _attention(model: Model, block: str, x: Numbers) -> Numbers:
    heads, groups, width = (_setting(model, f"attention.{key}") for key in ("head_count", "head_count_kv", "key_length"))
    q, k, v = (_linear(model, f"{block}.attn_{part}", x).reshape(len(x), -1, width).swapaxes(0, 1) for part in "qkv")
    q, k = _rotate(model, q), np.repeat(_rotate(model, k), heads // groups, axis=0)
    scores = q @ k.swapaxes(1, 2) / np.sqrt(width) + np.triu(np.full((len(x), len(x)), -np.inf), 1)  # (heads, T, T)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ np.repeat(v, heads // groups, axis=0)
    return _linear(model, f"{block}.attn_output", mixed.swapaxes(0, 1).reshape(len(x), -1).astype(np.float32))


def _rotate(model: Model, x: Numbers) -> Numbers:
    """Rotary positions: a llama turns neighbouring numbers of a head, the others number i with i + half."""
    width = x.shape[-1]
    frequencies = _setting(model, "rope.freq_base") ** (-np.arange(0, width, 2) / width)
    angle = np.arange(x.shape[1])[:, None] * frequencies
    neighbours = model.fields["general.architecture"] == "llama"
    first, second = (x[..., 0::2], x[..., 1::2]) if neighbours else (x[..., : width // 2], x[..., width // 2 :])
    turned = first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)
    return np.stack(turned, -1).reshape(x.shape) if neighbours else np.concatenate(turned, -1)


def _linear(model: Model, name: str, x: Numbers) -> Numbers:
    y = x @ model.tensors[f"{name}.weight"].T + model.tensors.get(f"{name}.bias", np.float32(0))
    if f"{name}.weight.lora_a" in model.adapter:
        y = y + (x @ model.adapter[f"{name}.weight.lora_a"].T) @ model.adapter[f"{name}.weight.lora_b"].T * np.float32(model.scale)
    return np.asarray(y)


def _norm(model: Model, name: str, x: Numbers) -> Numbers:
    epsilon = _setting(model, "attention.layer_norm_rms_epsilon")
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * model.tensors[f"{name}.weight"])


def _setting(model: Model, key: str) -> Any:
    return model.fields[f"{model.fields['general.architecture']}.{key}"]
