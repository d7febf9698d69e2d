"""GGUF files for llama.cpp and Ollama: the adapter, and the base where no library has it."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gswa.errors import DataError
from gswa.export.adapter import Adapter
from gswa.export.bases import Base
from gswa.export.tokens import Vocabulary, read_vocabulary
from gswa.export.weights import FLOATS, Array, Stored, stored_tensors, weight_files

# Parameters. llama.cpp multiplies fp16 weights with numbers rounded to fp16, so a base this small is written in fp32: it
# costs at most 0.4 GB more and gives transformers' answers.
SMALL = 200_000_000


def write_adapter(adapter: Adapter, base: Base, path: Path) -> None:
    """In fp32. llama.cpp scales by alpha / rank, or by 1 where alpha is 0: then the scale is in B."""
    import gguf

    names, writer = _names(base), gguf.GGUFWriter(str(path), str(base.architecture))
    alpha = adapter.common_alpha()
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_name("gswa-adapter")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha or 0.0)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for module, pair in sorted(adapter.pairs.items()):
        name = _gguf_name(names, f"{module}.weight")
        b = pair.b if alpha else pair.b * np.float32(pair.scale)
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(pair.a))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(in_llama_cpp_order(b, f"{module}.weight", base)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def base_obstacle(base: Base) -> str:
    """Why the base cannot be written as GGUF, in words; empty when it can."""
    config = base.config
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if base.architecture not in ("llama", "qwen2"):
        return f"{base.transformers_architecture} bases are not written as GGUF"
    if base.quantised:
        return "its weights are quantised"
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        return "its rotary embedding is scaled"
    if _slides(config):
        return "its attention slides"
    if read_vocabulary(base.folder, config["vocab_size"]) is None:
        return "its tokenizer is not a byte-level BPE whose splitting rule llama.cpp has by name"
    names = _names(base)
    strange = [name for name in _weights(base) if _name_in(names, name) is None]
    return f"GGUF has no name for {strange[0]}" if strange else ""


def write_base(base: Base, path: Path, chat_template: str, starts_with_bos: bool) -> None:
    """For a base without obstacle. Vectors and small bases are fp32, other weights keep the format they are stored in."""
    import gguf

    writer = gguf.GGUFWriter(str(path), str(base.architecture))
    _add_shape(writer, base)
    vocabulary = read_vocabulary(base.folder, base.config["vocab_size"])
    if vocabulary is not None:
        _add_vocabulary(writer, vocabulary, starts_with_bos)
    writer.add_chat_template(chat_template)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_weights(writer, base)
    writer.close()


def _write_weights(writer: Any, base: Base) -> None:
    """All names and sizes first, as the format wants it, then one tensor after the other."""
    names, stored = _names(base), _weights(base)
    small = sum(math.prod(tensor.shape) for tensor in stored.values()) <= SMALL
    formats = {name: _format(tensor, small) for name, tensor in stored.items()}
    writer.add_file_type(_file_type({formats[name].gguf_type.name for name, tensor in stored.items() if len(tensor.shape) > 1}))
    for name, tensor in stored.items():
        dtype, gguf_type = formats[name]
        writer.add_tensor_info(_gguf_name(names, name), tensor.shape, dtype, dtype.itemsize * math.prod(tensor.shape), gguf_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in stored.items():
        content = tensor.float32() if formats[name].dtype == np.float32 else tensor.bits()
        writer.write_tensor_data(np.ascontiguousarray(in_llama_cpp_order(content, name, base)))


def in_llama_cpp_order(rows: Array, name: str, base: Base) -> Array:
    """llama.cpp turns neighbouring rows of a llama's query and key heads, transformers turns row i with row i + half."""
    heads = {"q_proj": base.heads[0], "k_proj": base.heads[1]}.get(name.split(".")[-2])
    if base.architecture != "llama" or heads is None:
        return rows
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


class _Format(NamedTuple):
    dtype: np.dtype[Any]
    gguf_type: Any


def _format(tensor: Stored, small: bool) -> _Format:
    from gguf import GGMLQuantizationType

    if tensor.dtype not in FLOATS:
        tensor.bits()  # raises with the reason
    kept = "F32" if small or len(tensor.shape) == 1 else tensor.dtype
    return _Format(FLOATS[kept], GGMLQuantizationType[kept])


def _file_type(formats: set[str]) -> Any:
    from gguf import LlamaFileType

    one = formats.pop() if len(formats) == 1 else "F16"
    return LlamaFileType.ALL_F32 if one == "F32" else LlamaFileType[f"MOSTLY_{one}"]


def _weights(base: Base) -> dict[str, Stored]:
    """Without the rotary frequencies that old files hold: they follow from the settings."""
    tensors = stored_tensors(weight_files(base.folder))
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


def _names(base: Base) -> Any:
    import gguf

    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == base.architecture)
    return gguf.get_tensor_name_map(architecture, base.config["num_hidden_layers"])


def _name_in(names: Any, name: str) -> str | None:
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    return found


def _gguf_name(names: Any, name: str) -> str:
    found = _name_in(names, name)
    if found is None:
        raise DataError(f"{name}: GGUF has no name for this tensor; use the PEFT files with transformers or vLLM")
    return found


def _slides(config: dict[str, Any]) -> bool:
    window = config.get("sliding_window")
    return bool(window) and config.get("use_sliding_window", True) and window < config["max_position_embeddings"]


def _add_shape(writer: Any, base: Base) -> None:
    config = base.config
    head = int(config.get("head_dim") or config["hidden_size"] // base.heads[0])
    writer.add_name(base.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(base.heads[0])
    writer.add_head_count_kv(base.heads[1])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(base.rope_theta)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config["vocab_size"])


def _add_vocabulary(writer: Any, vocabulary: Vocabulary, starts_with_bos: bool) -> None:
    from gguf import TokenType

    def kind(number: int, token: str | None) -> Any:
        if token is None:
            return TokenType.UNUSED
        if number in vocabulary.special:
            return TokenType.CONTROL
        return TokenType.USER_DEFINED if number in vocabulary.added else TokenType.NORMAL

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.splitting)
    writer.add_token_list([token or f"[PAD{number}]" for number, token in enumerate(vocabulary.tokens)])
    writer.add_token_types([kind(number, token) for number, token in enumerate(vocabulary.tokens)])
    writer.add_token_merges(list(vocabulary.merges))
    setters = {"bos_token": writer.add_bos_token_id, "eos_token": writer.add_eos_token_id, "pad_token": writer.add_pad_token_id}
    for name, number in vocabulary.named.items():
        setters[name](number)
    writer.add_add_bos_token(starts_with_bos)
