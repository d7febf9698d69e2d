"""The base's chat format: as llama.cpp reads it (Jinja), and as Ollama does (Go templates)."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

Turn = tuple[str, str]  # role, content
Render = Callable[[Sequence[Turn]], str]  # what training's chat template makes of turns, ready for the assistant's answer

PROBES: tuple[Sequence[Turn], ...] = (
    (("user", "Say it again."),),
    (("system", "Be brief."), ("user", "One"), ("assistant", "Two"), ("user", "Three")),
)


class ChatForm(NamedTuple):
    """A format in which each turn is written alike; `stops` end an answer."""

    turn: str
    prompt: str
    stops: tuple[str, ...]

    def render(self, turns: Sequence[Turn]) -> str:
        return "".join(self.turn.format(role=role, content=content) for role, content in turns) + self.prompt

    def go_template(self) -> str:
        return "{{- range .Messages }}" + self.turn.format(role="{{ .Role }}", content="{{ .Content }}") + "{{ end }}" + self.prompt


CHAT_FORMS = (
    ChatForm("<|im_start|>{role}\n{content}<|im_end|>\n", "<|im_start|>assistant\n", ("<|im_end|>", "<|im_start|>")),
    ChatForm(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|eot_id|>", "<|start_header_id|>"),
    ),
)


class Chat(NamedTuple):
    """The form that a base's template was found to follow; `default_system` is what it puts where a chat has no system turn."""

    form: ChatForm
    default_system: str


def starts_with_bos(render: Render, bos: str) -> bool:
    """Whether the template puts the token that begins a text before the first turn; SmolLM2's is a turn's own beginning."""
    return bool(bos) and render(PROBES[0]).startswith(bos) and recognise(render, "") is None


def recognise(render: Render, bos: str) -> Chat | None:
    """Compares renderings, never names. None where no form gives the same text as the base's own template.

    `bos` stands before the first turn where `starts_with_bos`, else it is empty.
    """
    plain, full = (render(probe).removeprefix(bos) for probe in PROBES)
    for form in CHAT_FORMS:
        if full != form.render(PROBES[1]):
            continue
        if plain == form.render(PROBES[0]):
            return Chat(form, "")
        before, _, after = form.turn.partition("{content}")
        system = plain.removeprefix(before.format(role="system")).partition(after)[0]
        if plain == form.render((("system", system), *PROBES[0])):
            return Chat(form, system)
    return None


def without_generation_marks(template: str) -> str:
    """`{% generation %}` marks the assistant's words for trainers; llama.cpp's Jinja has no such block, so it becomes an `if`."""
    template = re.sub(r"(\{%[-+]?)\s*generation\s*([-+]?%\})", r"\1 if true \2", template)
    return re.sub(r"(\{%[-+]?)\s*endgeneration\s*([-+]?%\})", r"\1 endif \2", template)
