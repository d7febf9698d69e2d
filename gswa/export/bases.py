"""A run's base model as its files say: architecture, sizes, licence."""

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gswa.basemodel import is_of_hub
from gswa.config import BUILTIN_MODEL
from gswa.errors import DataError
from gswa.models import Model, model_named

BaseKind = Literal["builtin", "local", "hub"]

# transformers' architecture -> GGUF's.
ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Phi3ForCausalLM": "phi3"}


class Base(NamedTuple):
    """A base model's folder and its config.json; `architecture` is GGUF's word, None where GSWA has none."""

    model_id: str
    folder: Path
    kind: BaseKind
    config: dict[str, Any]

    @property
    def architecture(self) -> str | None:
        return ARCHITECTURES.get(self.transformers_architecture)

    @property
    def transformers_architecture(self) -> str:
        return str((self.config.get("architectures") or ["unknown"])[0])

    @property
    def heads(self) -> tuple[int, int]:
        """Attention heads of queries and of keys."""
        heads = int(self.config["num_attention_heads"])
        return heads, int(self.config.get("num_key_value_heads") or heads)

    @property
    def rope_theta(self) -> float:
        """transformers 4 keeps it at the top level, transformers 5 in `rope_parameters`."""
        return float(self.config.get("rope_theta") or (self.config.get("rope_parameters") or {}).get("rope_theta") or 10000.0)

    @property
    def quantised(self) -> bool:
        """True for weights stored in less than 16 bits: `quantization` is MLX's key."""
        return bool(self.config.get("quantization_config") or self.config.get("quantization"))

    @property
    def known(self) -> Model | None:
        """Its row in our table; none for a folder of the user's, whatever it is called."""
        return None if Path(self.model_id).expanduser().is_dir() else model_named(self.model_id)

    @property
    def name(self) -> str:
        """For files that leave the machine: of a local folder, its last part only."""
        return self.folder.name if self.kind == "local" else self.model_id


def read_base(model_id: str, folder: Path) -> Base:
    """Raises DataError where config.json cannot be read."""
    file = folder / "config.json"
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the base model's settings cannot be read ({error})") from error
    kind: BaseKind = "builtin" if model_id == BUILTIN_MODEL else "hub" if is_of_hub(model_id) else "local"
    return Base(model_id, folder, kind, config)


def licence(base: Base) -> str:
    """From the table, or from the front matter of the model card in the base's folder; empty where neither says."""
    if base.known:
        return base.known.licence
    card = base.folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    said = re.search(r"^license:\s*(\S+)\s*$", front.group(1), re.MULTILINE) if front else None
    return said.group(1) if said else ""
