"""Training examples as people keep them: a JSON object per line, in one of four forms.

messages    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}        OpenAI's, and GSWA's own
sharegpt    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}            `system` may stand beside it
alpaca      {"instruction": …, "input": …, "output": …}                             `system`, and `history` of [asked, answered]
text        {"text": …}                                                                         `prompt` may stand beside it
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gswa.records import Message

TEXT_KIND = "text"
WRITE = "Write a text."
ACCEPTED = (
    'accepted are lines such as {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}, and the '
    'forms of alpaca (instruction, input, output), ShareGPT (conversations) and plain text ({"text": "…"})'
)
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "developer": "system"}

Fields = Mapping[str, Any]
Turn = dict[str, Any]  # role and content, not yet validated


class Form(NamedTuple):
    """`needs` are the keys by which a line is known, `takes` all that become messages; `write` is the way back."""

    needs: frozenset[str]
    takes: frozenset[str]
    read: Callable[[Fields], list[Turn]]
    write: Callable[[Sequence[Message]], dict[str, Any]]


# -- messages ------------------------------------------------------------------------------------------------------------
def _read_messages(fields: Fields) -> list[Turn]:
    return [_turn(turn, "role", "content") for turn in _listed(fields, "messages")]


def _write_messages(messages: Sequence[Message]) -> dict[str, Any]:
    return {"messages": [message.model_dump() for message in messages]}


def _listed(fields: Fields, name: str) -> list[Any]:
    if not isinstance(fields[name], list):
        raise ValueError(f"{name} is not a list")
    return list(fields[name])


def _turn(turn: Any, role: str, content: str) -> Turn:
    """What else a chat log keeps of a turn (names, weights) is not trained on."""
    if not isinstance(turn, dict):
        raise ValueError("a message is not a JSON object")
    return {"role": ROLES.get(str(turn.get(role)), turn.get(role)), "content": _plain(turn.get(content))}


def _plain(content: Any) -> Any:
    """The text of OpenAI's list of content parts. Raises ValueError where one of them is no text."""
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {} for part in content]
    if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in parts):
        raise ValueError("content: a part of it is no text")
    return "".join(part["text"] for part in parts)


# -- ShareGPT ------------------------------------------------------------------------------------------------------------
def _read_sharegpt(fields: Fields) -> list[Turn]:
    return [*_system(fields), *(_turn(turn, "from", "value") for turn in _listed(fields, "conversations"))]


def _write_sharegpt(messages: Sequence[Message]) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[message.role], "value": message.content} for message in messages]}


def _system(fields: Fields) -> list[Turn]:
    return [] if _is_empty(fields, "system") else [{"role": "system", "content": fields["system"]}]


def _is_empty(fields: Fields, name: str) -> bool:
    return fields.get(name) in (None, "")


# -- alpaca --------------------------------------------------------------------------------------------------------------
def _read_alpaca(fields: Fields) -> list[Turn]:
    asked = [fields["instruction"], *([] if _is_empty(fields, "input") else [fields["input"]])]
    if not all(isinstance(part, str) for part in asked):
        raise ValueError("instruction or input is not a text")
    return [*_system(fields), *_history(fields), *_pair("\n\n".join(asked), fields["output"])]


def _write_alpaca(messages: Sequence[Message]) -> dict[str, Any]:
    system = {"system": messages[0].content} if messages[0].role == "system" else {}
    turns = messages[len(system) :]
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        return _write_messages(messages)
    asked = turns[-2].content
    instruction, _, context = asked.partition("\n\n")
    instruction = instruction if context else asked
    history = [[question.content, answer.content] for question, answer in zip(turns[:-2:2], turns[1:-2:2], strict=True)]
    return {
        "instruction": instruction,
        "input": context,
        "output": turns[-1].content,
        **system,
        **({"history": history} if history else {}),
    }


def _history(fields: Fields) -> list[Turn]:
    pairs = [] if _is_empty(fields, "history") else fields["history"]
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("history is not a list of [asked, answered]")
    return [turn for pair in pairs for turn in _pair(*pair)]


def _pair(asked: Any, answered: Any) -> list[Turn]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


# -- plain text ----------------------------------------------------------------------------------------------------------
def _read_text(fields: Fields) -> list[Turn]:
    prompt = fields.get("prompt")
    return _pair(WRITE if prompt is None else prompt, fields["text"])


def _write_text(messages: Sequence[Message]) -> dict[str, Any]:
    if len(messages) > 2:
        return _write_messages(messages)
    prompt = messages[0].content
    return {"text": messages[1].content, **({} if prompt == WRITE else {"prompt": prompt})}


def _form(needs: str, beside: str, read: Any, write: Any) -> Form:
    return Form(frozenset(needs.split()), frozenset(f"{needs} {beside}".split()), read, write)


FORMS = {  # the first whose keys a line has
    "messages": _form("messages", "", _read_messages, _write_messages),
    "sharegpt": _form("conversations", "system", _read_sharegpt, _write_sharegpt),
    "alpaca": _form("instruction output", "input system history", _read_alpaca, _write_alpaca),
    TEXT_KIND: _form("text", "prompt", _read_text, _write_text),
}


# -- which one -------------------------------------------------------------------------------------------------------------
def form_of(content: Any) -> str:
    """The name of a line's form. Raises ValueError with the reason in a few words."""
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    for name, form in FORMS.items():
        if form.needs <= content.keys():
            return name
    raise ValueError("none of messages, conversations, instruction and output, or text")
