"""The base model and its adapter, as torch and PEFT hold them."""

from pathlib import Path
from typing import Any

import torch

from gswa.backends.torch.attention import register
from gswa.backends.torch.blocks import use_lean_blocks
from gswa.backends.torch.lora import use_lean_lora
from gswa.backends.torch.loss import use_chunked_loss
from gswa.backends.torch.quantised import keep, kept
from gswa.backends.torch.room import give_room
from gswa.backends.torch.rotary import use_lean_rotary
from gswa.config import RunConfig
from gswa.errors import ConfigError
from gswa.memory import AT_ONCE

ALL = 1 << 40  # rows, as a number that torch can add to
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_base(model: str, config: RunConfig) -> Any:
    """The frozen base on the run's device, in the run's number format: NF4 with double quantisation where 4 bits are asked for.

    Weights come from safetensors only, and no code of the model's folder is run.
    """
    from transformers import AutoModelForCausalLM

    dtype = DTYPES[config.number_format]
    quantization = _nf4(dtype) if config.quantization == "4bit" else None
    ready = kept(model, quantization) if quantization is not None else Path(model)
    made = ready.is_dir()
    base = AutoModelForCausalLM.from_pretrained(
        ready if made else model,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **({} if made else {"quantization_config": quantization}),  # None would be taken for "not quantised"
        device_map={"": "cuda:0" if config.device == "cuda" else "cpu"},
    )
    if not made and quantization is not None:
        keep(base, ready)
    base.name_or_path = base.config._name_or_path = model  # what the adapter names as its base
    make_ready(base, config)
    if quantization is not None:
        modules: list[Any] = list(base.modules())
        for module in modules:
            # bitsandbytes 0.50 repacks a layer for inference when a CPU with AVX512-BF16 evaluates it, and never back: every
            # gradient after the first evaluation would be wrong, without a word.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    return base


def make_ready(base: Any, config: RunConfig) -> None:
    """Freeze it, and give it our loss, blocks and attention."""
    base.config.use_cache = False  # with a cache, packed rows leak into each other silently
    base.requires_grad_(False)
    use_chunked_loss(base)
    use_lean_blocks(base, at_once=AT_ONCE[config.number_format] if config.device == "cpu" else ALL)
    use_lean_rotary(base)
    if config.device == "cpu" and base.config._attn_implementation == "sdpa":
        base.set_attn_implementation(register())
    give_room(base, config)


def _nf4(dtype: torch.dtype) -> Any:
    try:
        import bitsandbytes  # noqa: F401  (asked for before transformers asks, for our message)
    except ImportError as error:
        raise ConfigError("quantization 4bit needs bitsandbytes; run 'make setup-cuda', or set quantization: none") from error
    from transformers import BitsAndBytesConfig

    arguments: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    return BitsAndBytesConfig(load_in_4bit=True, **arguments)  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def add_adapter(base: Any, config: RunConfig) -> Any:
    """Plain LoRA on all linear layers of the last `num_layers` blocks, in fp32: the form that vLLM, llama.cpp and mlx-lm load."""
    from peft import LoraConfig, get_peft_model

    total = base.config.num_hidden_layers
    layers = None if config.num_layers is None or config.num_layers >= total else list(range(total - config.num_layers, total))
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT's annotation says int, its arithmetic does not
        lora_dropout=config.lora_dropout,
        target_modules=_linear_names(base),
        layers_to_transform=layers,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, lora)
    use_lean_lora(model)
    # A README in each checkpoint, by a template that took a third of the time of saving one.
    model.create_or_update_model_card = lambda *_, **__: None  # type: ignore[method-assign]
    return model


def _linear_names(base: Any) -> list[str]:
    """q_proj, gate_proj … of the blocks: all linear layers but the head. PEFT's own "all-linear" cannot be kept to some layers."""
    head = base.get_output_embeddings()
    linear = (torch.nn.Linear,)  # bitsandbytes' layers are among them
    return sorted({name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, linear) and module is not head})


def load_adapter(base: Any, folder: Path) -> Any:
    """The base with a finished adapter, for reading only."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(folder), is_trainable=False)
    use_lean_lora(model)
    return model
