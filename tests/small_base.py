"""A base of 2 blocks with random weights and its adapter, as files that numpy writes: no torch, no hub."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from gswa.config import Layer, RunRequest, resolve
from gswa.rundir import RunDir

HIDDEN, INNER, HEADS, KEY_HEADS, VOCABULARY, RANK = 64, 128, 4, 2, 300, 4
HEAD = HIDDEN // HEADS
LAYERS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEY_HEADS * HEAD, HIDDEN),
    "self_attn.v_proj": (KEY_HEADS * HEAD, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_base(folder: Path, kind: str = "llama", dtype: Any = np.float32, **settings: Any) -> Path:
    """`kind` is llama, mistral or qwen2: config.json's model_type."""
    folder.mkdir(parents=True)
    architecture = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}[kind]
    config = {"architectures": [architecture], "model_type": kind, "hidden_size": HIDDEN, "intermediate_size": INNER}
    config |= {"num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "vocab_size": VOCABULARY}
    config |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 512, "tie_word_embeddings": True}
    config |= {"hidden_act": "silu", "sliding_window": None, "eos_token_id": 1, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: array.astype(dtype) for name, array in random_weights(kind).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _make_tokenizer(folder)
    return folder


def random_weights(kind: str = "llama") -> dict[str, Any]:
    """Large enough that a wrong row shows in the answer."""
    random = np.random.default_rng(1)
    weights = {"model.embed_tokens.weight": random.normal(size=(VOCABULARY, HIDDEN)), "model.norm.weight": 1 + random.random(HIDDEN)}
    for block in range(2):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{block}.{norm}.weight"] = 1 + random.random(HIDDEN)
        for layer, shape in LAYERS.items():
            weights[f"model.layers.{block}.{layer}.weight"] = random.normal(size=shape, scale=0.15)
            if kind == "qwen2" and layer[-6] in "qkv":
                weights[f"model.layers.{block}.{layer}.bias"] = random.normal(size=shape[0])
    return {name: array.astype(np.float32) for name, array in weights.items()}


def make_adapter(folder: Path, **settings: Any) -> Path:
    """PEFT's two files, for every layer of `make_base`; B is random, so that the adapter changes answers."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    pairs = {}
    for block in range(2):
        for layer, (rows, columns) in LAYERS.items():
            name = f"base_model.model.model.layers.{block}.{layer}"
            pairs[f"{name}.lora_A.weight"] = random.normal(size=(RANK, columns), scale=0.1).astype(np.float32)
            pairs[f"{name}.lora_B.weight"] = random.normal(size=(rows, RANK), scale=0.1).astype(np.float32)
    save_file(pairs, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = [layer.partition(".")[2] for layer in LAYERS]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8.0, "bias": "none", "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return folder


def make_run(folder: Path, model: str | Path) -> RunDir:
    """A run on `model` with a trained adapter, settled on 128 tokens."""
    run = RunDir.create(folder / "runs")
    run.write_config(RunRequest(), resolve(Layer("test", {"model_id": str(model), "max_seq_length": 128, "lora_rank": RANK})))
    make_adapter(run.adapters)
    return run


def _make_tokenizer(folder: Path) -> None:
    """Byte-level BPE that splits as GPT-2 does, with a few merges and ChatML's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("e", "r"), ("Ġ", "a")]
    vocabulary = {token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", *letters, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
