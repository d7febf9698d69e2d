"""Reads exported files back and compares them with PEFT's and the base's. Shares no code with what wrote them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gswa.errors import GswaError

Numbers = npt.NDArray[Any]

TOLERANCE = 1e-5  # of the largest number in a matrix
BLOCK = 2048  # rows of a matrix that are compared at once

# transformers' name of a layer's part -> GGUF's.
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
GGUF_ARCHITECTURE = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "phi3": "phi3"}  # by config.json's model_type


class ExportFault(GswaError):
    """An exported file does not say what was trained; it was not put in place."""


def check_adapter(file: Path, peft: Path, base: Path) -> str:
    """Every pair of PEFT's adapter, as a product, against the GGUF file. Gives what was checked; raises ExportFault."""
    config, settings = _json(base / "config.json"), _json(peft / "adapter_config.json")
    fields, tensors = _read_gguf(file)
    architecture = GGUF_ARCHITECTURE[config["model_type"]]
    said = [fields.get(key) for key in ("general.type", "adapter.type", "general.architecture")]
    _demand(said == ["adapter", "lora", architecture], f"{file.name}: header says {said}")
    trained = _read_safetensors(peft / "adapter_model.safetensors")
    shapes = {name: tensor.shape for name, tensor in _read_model(base).items()}
    modules = [name.removesuffix(".lora_A.weight") for name in trained if name.endswith(".lora_A.weight")]
    _demand(2 * len(modules) == len(tensors), f"{file.name}: holds {len(tensors)} tensors for {len(modules)} layers")
    for module in modules:
        a, b = (_floats(trained[f"{module}.lora_{letter}.weight"]) for letter in "AB")
        layer = module.removeprefix("base_model.model.")
        name = gguf_name(f"{layer}.weight")
        _demand(f"{name}.lora_a" in tensors and f"{name}.lora_b" in tensors, f"{file.name}: lacks {name}")
        if not (config.get("quantization_config") or config.get("quantization")):
            _demand(shapes.get(f"{layer}.weight") == (b.shape[0], a.shape[1]), f"{base}: has no {layer} of the adapter's shape")
        read_a, read_b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        alpha = fields["adapter.lora.alpha"]
        scale = alpha / read_a.shape[0] if alpha else 1.0
        _compare(_product(b, a, _peft_scale(settings, layer, len(a))), _product(in_order(read_b, name, config), read_a, scale), name)
    return f"{file.name}: scale·B·A of {len(modules)} layers equals adapter_model.safetensors, each layer is in the base"


def check_base(file: Path, base: Path) -> str:
    """Every weight and the vocabulary of the base against the GGUF file. Gives what was checked; raises ExportFault."""
    config = _json(base / "config.json")
    fields, tensors = _read_gguf(file)
    stored = {name: tensor for name, tensor in _read_model(base).items() if not name.endswith("inv_freq")}
    _demand({gguf_name(name) for name in stored} == set(tensors), f"{file.name}: holds other tensors than the base")
    for name, weight in stored.items():
        _compare(weight, in_order(tensors[gguf_name(name)], gguf_name(name), config), name)
    tokenizer = _json(base / "tokenizer.json")
    ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = fields["tokenizer.ggml.tokens"]
    same = len(tokens) == config["vocab_size"] and all(tokens[number] == token for token, number in ids.items())
    _demand(same, f"{file.name}: other tokens")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    _demand(fields["tokenizer.ggml.merges"] == merges, f"{file.name}: other merges")
    return f"{file.name}: {len(stored)} tensors, {len(tokens)} tokens and {len(merges)} merges equal the base's"


def check_merged(folder: Path, peft: Path, base: Path) -> str:
    """Every weight of the merged model against base and adapter. Gives what was checked; raises ExportFault."""
    settings = _json(peft / "adapter_config.json")
    trained = _read_safetensors(peft / "adapter_model.safetensors")
    count = 0
    for source in sorted(folder.glob("*.safetensors")):
        before = _read_safetensors(base / source.name)
        for name, merged in _read_safetensors(source).items():
            layer = name.removesuffix(".weight")
            a, b = (trained.get(f"base_model.model.{layer}.lora_{letter}.weight") for letter in "AB")
            expected = _floats(before[name])
            if a is not None and b is not None:
                expected = expected + _product(b, a, _peft_scale(settings, layer, len(a)))
                count += 1
            rounding = 2.0**-10 if merged.dtype == np.float16 else TOLERANCE
            _compare(expected, merged, name, rounding)
    _demand(2 * count == len(trained), f"{folder.name}/: {count} layers were merged, the adapter has {len(trained) // 2}")
    return f"{folder.name}/: every weight equals base + scale·B·A ({count} layers changed)"


def gguf_name(name: str) -> str:
    """Of a tensor that transformers calls `name`."""
    layer, _, kind = name.rpartition(".")
    if layer in ENDS:
        return f"{ENDS[layer]}.{kind}"
    number, _, part = layer.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{PARTS.get(part, part)}.{kind}"


def in_order(rows: Numbers, name: str, config: dict[str, Any]) -> Numbers:
    """A GGUF tensor's rows as transformers orders them: the rotary pairs of a llama's heads stand side by side in the file."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config.get("num_key_value_heads") or config["num_attention_heads"]}
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if GGUF_ARCHITECTURE[config["model_type"]] != "llama" or part not in heads:
        return rows
    row = np.arange(len(rows))
    width = len(rows) // heads[part]
    within = row % width
    ordered: Numbers = rows[row - within + 2 * (within % (width // 2)) + within // (width // 2)]
    return ordered


def _product(b: Numbers, a: Numbers, scale: float) -> Numbers:
    return np.asarray(np.einsum("or,ri->oi", b, a * np.float32(scale), optimize=True))


def _peft_scale(settings: dict[str, Any], layer: str, rank: int) -> float:
    patterns = settings.get("alpha_pattern") or {}
    alpha = next((value for pattern, value in patterns.items() if layer.endswith(pattern)), settings["lora_alpha"])
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)


def _compare(expected: Numbers, found: Numbers, name: str, tolerance: float = TOLERANCE) -> None:
    _demand(expected.shape == found.shape, f"{name}: shape {found.shape} in place of {expected.shape}")
    for start in range(0, len(expected), BLOCK):
        wanted, read = (_floats(numbers[start : start + BLOCK]) for numbers in (expected, found))
        largest = float(np.abs(wanted).max(initial=0.0)) or 1.0
        error = float(np.abs(wanted - read).max(initial=0.0))
        _demand(error <= tolerance * largest, f"{name}: differs by {error:.3g}, its largest number is {largest:.3g}")


def _demand(true: bool, fault: str) -> None:
    if not true:
        raise ExportFault(f"export: the file read back is not what was trained ({fault}); nothing was put in place, please report this")


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _floats(numbers: Numbers) -> Numbers:
    """Sixteen-bit integers stand for bf16, which is the upper half of an fp32 number."""
    if numbers.dtype == np.uint16:
        return (numbers.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return numbers.astype(np.float32)


def _read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, Numbers]]:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    tensors = {tensor.name: tensor.data.view(np.uint16) if tensor.tensor_type.name == "BF16" else tensor.data for tensor in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


def _read_model(folder: Path) -> dict[str, Numbers]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in _read_safetensors(file).items()}


def _read_safetensors(file: Path) -> dict[str, Numbers]:
    """Mapped, not read. Quantised numbers stay bytes: only their shape means something."""
    length = int(np.fromfile(file, "<u8", 1)[0])
    header = json.loads(np.fromfile(file, np.uint8, length, offset=8).tobytes())
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            mapped = np.memmap(file, np.uint8, "r", 8 + length + first, (last - first,))
            tensors[name] = mapped.view(kinds[entry["dtype"]]).reshape(entry["shape"]) if entry["dtype"] in kinds else mapped
    return tensors
