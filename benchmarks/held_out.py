"""Loss per answer token on held-out chats, the same code for every trainer's adapter: fp32, each chat by itself, up to 2,048 tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

LONGEST = 2048
LITGPT = {
    "attn.proj": "self_attn.o_proj",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}
LITGPT_TOP = {"lm_head": "lm_head", "transformer.wte": "model.embed_tokens", "transformer.ln_f": "model.norm"}


def held_out_loss(model: Path, data: Path, adapter: Path | None) -> float:
    """Nats per token of the answers in valid.jsonl; without an adapter the base model's."""
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    network: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    if adapter is not None and (adapter / "lit_model.pth").is_file():
        network.load_state_dict(_litgpt_weights(network.config, adapter))
    elif adapter is not None:
        for module, difference in _differences(adapter):
            network.get_submodule(module).weight.data += difference
    total, count = 0.0, 0
    for ids, start in _chats(tokenizer, data):
        with torch.no_grad():
            logits = network(torch.tensor([ids])).logits[0, start - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[start:]), reduction="sum").item()
        count += len(ids) - start
    return total / count


def _chats(tokenizer: Any, data: Path) -> Iterator[tuple[list[int], int]]:
    """Token ids of each chat, and where its answer begins."""
    for line in (data / "valid.jsonl").read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.encode(tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True))
        whole = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n"))
        assert whole[: len(prompt)] == prompt
        yield whole[:LONGEST], len(prompt)


def _differences(adapter: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Of a PEFT folder, the form that torchtune writes too: for each module what its weight becomes more."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    weights = load_file(adapter / "adapter_model.safetensors")
    for key in weights:
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            b = weights[f"{module}.lora_B.weight"].float()
            yield module.removeprefix("base_model.model."), config["lora_alpha"] / config["r"] * b @ weights[key].float()


def _litgpt_weights(config: Any, adapter: Path) -> dict[str, torch.Tensor]:
    """litgpt's merged model under transformers' names."""
    stored = torch.load(adapter / "lit_model.pth", mmap=True, weights_only=True)
    size, heads, keys = config.hidden_size // config.num_attention_heads, config.num_attention_heads, config.num_key_value_heads
    found = {}
    for key, weight in stored.get("model", stored).items():
        name = key.removesuffix(".weight")
        if name in LITGPT_TOP:
            found[f"{LITGPT_TOP[name]}.weight"] = weight.float()
            continue
        layer, part = name.removeprefix("transformer.h.").split(".", 1)
        if part == "attn.qkv":
            for projection, rows in zip("qkv", weight.split([heads * size, keys * size, keys * size]), strict=True):
                found[f"model.layers.{layer}.self_attn.{projection}_proj.weight"] = rows.float()
        else:
            found[f"model.layers.{layer}.{LITGPT[part]}.weight"] = weight.float()
    return found
