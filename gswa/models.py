"""The base models that GSWA names: what each is made of, what is true of it, and what the guide says of it."""

from collections.abc import Mapping
from typing import Any

from gswa.config import BUILTIN_MODEL
from gswa.records import Record

# Licences that ask for no more than their own text to be passed on. Any other is shown before the weights are fetched.
PERMISSIVE = frozenset(("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "unlicense"))


# Whose LoRA adapters vLLM 0.33 takes (vllm/model_executor/models: the classes that support LoRA); all that GSWA knows the size of.
VLLM_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text")


class Model(Record):
    """One base model. `config` holds those lines of its config.json that say how large it is.

    `memory_gb` and `quality` are the guide's; None and "" where the guide does not name the model. `ollama` is the library
    model that is the same base. `template` is what its chat template does beside marking the turns.
    """

    model_id: str
    config: Mapping[str, Any]
    licence: str
    memory_gb: int | None = None
    quality: str = ""
    ollama: str | None = None
    template: str = ""

    @property
    def family(self) -> str:
        """transformers' model_type."""
        return str(self.config["model_type"])


def _config(family: str, hidden: int, inner: int, blocks: int, heads: tuple[int, int], vocabulary: int, **more: Any) -> dict[str, Any]:
    """The words of config.json. Heads are those of queries and of keys."""
    return {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **more,
    }


# Sizes: config.json of each model on the Hugging Face hub, as quoted in torchtune 0.6 (torchtune/models), in litgpt
# (litgpt/config.py, Mistral-Large) and in Qwen's model cards; tests/test_memory.py holds them against the published totals.
_QWEN25_1B = _config("qwen2", 1536, 8960, 28, (12, 2), 151936, tie_word_embeddings=True)
_QWEN25_14B = _config("qwen2", 5120, 13824, 48, (40, 8), 152064)
_MISTRAL_7B = _config("mistral", 4096, 14336, 32, (32, 8), 32768)
_MISTRAL_7B_V02 = {**_MISTRAL_7B, "vocab_size": 32000}
_MLX = {"quantization": {"bits": 4, "group_size": 64}}
_QWEN_SYSTEM = "adds a system message of its own"
_EMPTY_THOUGHT = "puts an empty thought before the answer"
_RESEARCH = "Mistral Research License"

# Largest first: the first that fits wins.
GUIDE_MODELS = (
    Model(
        model_id="mistralai/Mistral-Large-Instruct-2407", memory_gb=48, quality="Best", licence=_RESEARCH,
        config=_config("mistral", 12288, 28672, 88, (96, 8), 32768), ollama="mistral-large:123b-instruct-2407-q4_K_M",
    ),
    Model(
        model_id="Qwen/Qwen2.5-14B-Instruct", memory_gb=24, quality="Excellent", licence="apache-2.0",
        config=_QWEN25_14B, ollama="qwen2.5:14b-instruct-fp16", template=_QWEN_SYSTEM,
    ),
    Model(
        model_id="Qwen/Qwen2.5-7B-Instruct", memory_gb=16, quality="Very Good", licence="apache-2.0",
        config=_config("qwen2", 3584, 18944, 28, (28, 4), 152064), ollama="qwen2.5:7b-instruct-fp16", template=_QWEN_SYSTEM,
    ),
    Model(
        model_id="mistralai/Mistral-7B-Instruct-v0.3", memory_gb=16, quality="Very Good", licence="apache-2.0",
        config=_MISTRAL_7B, ollama="mistral:7b-instruct-v0.3-fp16",
    ),
    Model(
        model_id="microsoft/Phi-3.5-mini-instruct", memory_gb=8, quality="Good", licence="mit",
        config=_config("phi3", 3072, 8192, 32, (32, 32), 32064), ollama="phi3.5:3.8b-mini-instruct-fp16",
    ),
    Model(
        model_id="Qwen/Qwen2.5-1.5B-Instruct", memory_gb=4, quality="Basic", licence="apache-2.0",
        config=_QWEN25_1B, ollama="qwen2.5:1.5b-instruct-fp16", template=_QWEN_SYSTEM,
    ),
)  # fmt: skip
# Published in 4 bits already. Memory is a Mac's, for all its programs.
APPLE_MODELS = (
    Model(
        model_id="mlx-community/Qwen2.5-14B-Instruct-4bit", memory_gb=64, quality="Excellent", licence="apache-2.0",
        config={**_QWEN25_14B, **_MLX}, ollama="qwen2.5:14b-instruct-fp16", template=_QWEN_SYSTEM,
    ),
    Model(
        model_id="mlx-community/Mistral-7B-Instruct-v0.2-4bit", memory_gb=16, quality="Very Good", licence="apache-2.0",
        config={**_MISTRAL_7B_V02, **_MLX}, ollama="mistral:7b-instruct-v0.2-fp16",
    ),
    Model(
        model_id="mlx-community/Qwen2.5-1.5B-Instruct-4bit", memory_gb=8, quality="Basic", licence="apache-2.0",
        config={**_QWEN25_1B, **_MLX}, ollama="qwen2.5:1.5b-instruct-fp16", template=_QWEN_SYSTEM,
    ),
)  # fmt: skip
# Bases that the guide does not name: newer dense ones, those that need no hub, and the one that a copy above was made from.
OTHER_MODELS = (
    Model(
        model_id="Qwen/Qwen3-32B", licence="apache-2.0", template=_EMPTY_THOUGHT,
        config=_config("qwen3", 5120, 25600, 64, (64, 8), 151936, head_dim=128),
    ),
    Model(
        model_id="Qwen/Qwen3-14B", licence="apache-2.0", template=_EMPTY_THOUGHT,
        config=_config("qwen3", 5120, 17408, 40, (40, 8), 151936, head_dim=128),
    ),
    Model(
        model_id="Qwen/Qwen3-8B", licence="apache-2.0", template=_EMPTY_THOUGHT,
        config=_config("qwen3", 4096, 12288, 36, (32, 8), 151936, head_dim=128),
    ),
    Model(
        model_id="Qwen/Qwen3-4B-Instruct-2507", licence="apache-2.0",
        config=_config("qwen3", 2560, 9728, 36, (32, 8), 151936, head_dim=128, tie_word_embeddings=True),
    ),
    Model(
        model_id="Qwen/Qwen3-1.7B", licence="apache-2.0", template=_EMPTY_THOUGHT,
        config=_config("qwen3", 2048, 6144, 28, (16, 8), 151936, head_dim=128, tie_word_embeddings=True),
    ),
    Model(model_id=BUILTIN_MODEL, licence="apache-2.0", config=_config("llama", 128, 384, 4, (4, 2), 1024, tie_word_embeddings=True)),
    Model(
        model_id="smollm2-135m", licence="apache-2.0", template="adds a system message of its own",
        config=_config("llama", 576, 1536, 30, (9, 3), 49152, tie_word_embeddings=True),
    ),
    Model(
        model_id="mistralai/Mistral-7B-Instruct-v0.2", licence="apache-2.0", config=_MISTRAL_7B_V02, ollama="mistral:7b-instruct-v0.2-fp16",
    ),
)  # fmt: skip
MODELS = (*GUIDE_MODELS, *APPLE_MODELS, *OTHER_MODELS)


def model_named(model_id: str) -> Model | None:
    """The row of a hub id; of an mlx-community copy that has none, the row of the model it was made from."""
    found = next((model for model in MODELS if model.model_id == model_id), None)
    if found is None and model_id.startswith("mlx-community/"):
        original = model_id.removeprefix("mlx-community/").removesuffix("-4bit")
        found = next((model for model in MODELS if model.model_id.partition("/")[2] == original), None)
    return found


def licence_note(name: str, licence: str) -> str:
    """What a person must read before they use this base or an adapter of it; "" under a licence that asks for nothing."""
    if licence in PERMISSIVE:
        return ""
    said = f"the licence of {name} is {licence}" if licence else f"{name} names no licence"
    return f"{said}: it may limit what you may do with the model, with an adapter trained on it, and with what they write"
