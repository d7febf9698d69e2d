"""Ollama's Modelfile, as text."""

from typing import NamedTuple

from gswa.errors import ConfigError
from gswa.export.chat import ChatForm

TEMPERATURE = 0.3  # a rewrite should keep the facts: well below a library model's 0.8
TOP_P = 0.9


class Modelfile(NamedTuple):
    """`base` is what FROM names. `form` is given for a base that lies beside the file: a library model brings its own template.

    `system` is the system text of training; `context` is in tokens.
    """

    run_id: str
    model: str
    rank: int
    alpha: float
    base: str
    form: ChatForm | None
    system: str
    context: int

    def text(self) -> str:
        """Relative paths only, so that the folder can be moved."""
        lines = [
            f"# GSWA run {self.run_id}, base {one_line(self.model)}, LoRA rank {self.rank}, alpha {self.alpha:g}",
            f"# ollama create gswa-gilles -f runs/{self.run_id}/adapters/Modelfile",
            f"FROM {from_name(self.base)}",
            "ADAPTER ./gswa-adapter.gguf",
        ]
        if self.form:
            lines.append(f"TEMPLATE {quoted(self.form.go_template())}")
        if self.system:
            lines.append(f"SYSTEM {quoted(self.system)}")
        lines += [f"PARAMETER temperature {TEMPERATURE}", f"PARAMETER top_p {TOP_P}", f"PARAMETER num_ctx {self.context}"]
        lines += [f'PARAMETER stop "{stop}"' for stop in (self.form.stops if self.form else ())]
        return "\n".join(lines) + "\n"


def holdable(text: str) -> bool:
    """Whether a Modelfile can quote the text."""
    return '"""' not in text and not text.endswith('"')


def quoted(text: str) -> str:
    return f'"""{text}"""'


def from_name(name: str) -> str:
    """Raises ConfigError for what cannot be one word after FROM."""
    if not name.strip() or len(name.split()) != 1:
        raise ConfigError(f"--ollama-base {name!r}: not a model name; give one as 'ollama list' shows it, such as qwen2.5:7b-instruct-fp16")
    return name.strip()


def one_line(text: str) -> str:
    return " ".join(text.split())
