"""Training examples as people keep them: a JSON object per line, in one of four forms.

messages    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}        OpenAI's, and GSWA's own
sharegpt    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}            `system` may stand beside it
alpaca      {"instruction": …, "input": …, "output": …}                             `system`, and `history` of [asked, answered]
text        {"text": …}                                                                         `prompt` may stand beside it

Whatever else a line holds is kept: under its own name, or in `own_fields` where that name is one of a chunk's (`part`, `parts`,
`span`, `tokens`, `target_tokens`), or of the form that the line is written in.
"""

import hashlib
import itertools
import json
import logging
from array import array
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from gswa.errors import DataError
from gswa.records import Chunk, Example, Message

log = logging.getLogger("gswa")

TEXT_KIND = "text"
WRITE = "Write a text."
ACCEPTED = (
    'accepted are lines such as {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}, and the '
    'forms of alpaca (instruction, input, output), ShareGPT (conversations) and plain text ({"text": "…"})'
)
FAULTS_SHOWN = 20
NEWEST = 65_536  # ids that are not yet sorted into the others
DEPTH = 200  # of lists and objects in one another; pydantic writes 255
OWN = "own_fields"
OURS = frozenset(("document", "group", "kind", "blocks", "cut"))  # where a user's is no such thing, it is not ours
OF_CHUNKS = Chunk.model_fields.keys() - Example.model_fields.keys()
COUNTED = {"span": list, "tokens": int, "target_tokens": int}  # which every chunk of ours has
NESTED = "lists or objects are nested too deeply"
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


# -- lines ---------------------------------------------------------------------------------------------------------------
def form_of(content: Any) -> str:
    """The name of a line's form. Raises ValueError with the reason in a few words."""
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    for name, form in FORMS.items():
        if form.needs <= content.keys():
            return name
    raise ValueError("none of messages, conversations, instruction and output, or text")


def parse_example(line: bytes, default_id: str) -> Example:
    """One line of JSON. Raises ValueError with the reason in a few words."""
    content = _json(line)
    name = form_of(content)
    fields = _fields(content, FORMS[name].takes)
    fields["id"] = str(fields.get("id", default_id))
    fields["messages"] = FORMS[name].read(content)
    if name == TEXT_KIND and content.get("prompt") is None:
        fields.setdefault("kind", TEXT_KIND)
    example = _validated(fields)
    _refuse_unanswered(example)
    if b"\\ud" in line.lower() or line.count(b"[") + line.count(b"{") > DEPTH:
        _refuse_unwritable(example)
    return example


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode())  # by itself it would take half of a surrogate pair in bytes
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    except RecursionError:
        raise ValueError(NESTED) from None
    except ValueError:
        raise ValueError("not valid JSON") from None


def as_line(example: Example, form: str) -> dict[str, Any]:
    """The fields of an example's line in a form; what was not set is left out. A chat that the form cannot hold is written as messages."""
    fields = example.model_dump(exclude={"messages"}, exclude_defaults=True)
    if form == TEXT_KIND and fields.get("kind") == TEXT_KIND:
        del fields["kind"]
    written = FORMS[form].write(example.messages)
    same = form_of(fields | written) == form_of(written)
    fields = _set_apart(fields, FORMS[form_of(written)].takes if same else frozenset().union(*(one.takes for one in FORMS.values())))
    back = {name: value for name, value in fields.get(OWN, {}).items() if name in OURS and name not in fields}
    if left := {name: value for name, value in fields.pop(OWN, {}).items() if name not in back}:
        fields[OWN] = left
    return written | fields | back


# -- fields that a user calls as we call ours ------------------------------------------------------------------------------
def _fields(content: Fields, taken: Container[str]) -> dict[str, Any]:
    """Our fields and the user's; those of a chunk are the user's, unless it is a chunk of ours that was written before."""
    fields = {
        name: value for name, value in content.items() if name not in taken and (value is not None or name not in Example.model_fields)
    }
    ours = all(isinstance(fields.get(name), kind) for name, kind in COUNTED.items())
    return fields if ours else _set_apart(fields, OF_CHUNKS)


def _set_apart(fields: Fields, names: Container[str]) -> dict[str, Any]:
    apart = {name: value for name, value in fields.items() if name in names}
    before = fields.get(OWN, {})
    own = {**(before if isinstance(before, dict) else {OWN: before}), **apart}
    return {**{name: value for name, value in fields.items() if name not in apart and name != OWN}, **({OWN: own} if own else {})}


def _validated(fields: dict[str, Any]) -> Example:
    """Raises ValueError with the first reason in a few words."""
    try:
        return Example.model_validate(fields)
    except ValidationError as error:
        faults = error.errors()
        odd = OURS.intersection(str(fault["loc"][0]) for fault in faults)
        if not odd:
            raise ValueError(f"{'.'.join(map(str, faults[0]['loc']))}: {faults[0]['msg']}") from None
    return _validated(_set_apart(fields, odd))


# -- lines that are refused ------------------------------------------------------------------------------------------------


def _refuse_unwritable(example: Example) -> None:
    """JSON can spell half of a surrogate pair, which no tokenizer and no file takes, and lists deeper than can be written."""
    try:
        example.model_dump_json()
    except ValueError as error:
        half = "content: half of a character (a lone \\ud800 to \\udfff)"
        raise ValueError(half if "surrogate" in str(error) else NESTED) from None


def _refuse_unanswered(example: Example) -> None:
    roles = [message.role for message in example.messages]
    if roles[-1:] != ["assistant"]:
        raise ValueError("the last message is not the assistant's, so there is nothing to learn")
    if roles[-2:-1] != ["user"]:
        raise ValueError("no message of a user before the last answer")
    if roles[next(i for i, role in enumerate(roles) if role != "system")] != "user":
        raise ValueError("the chat begins with the assistant, whom nobody asked")
    if not example.target.strip():
        raise ValueError("the assistant's last message is empty")


# -- files ---------------------------------------------------------------------------------------------------------------
def read_examples(path: Path, on_fault: Callable[[int, str], None] | None = None, name: str = "") -> Iterator[Example]:
    """Examples of a JSONL file; `on_fault` is told the line (from 1) and the reason of each line passed over.

    Without it the first faults and their number are logged. An example without an id is called by `name` (the file's own
    where there is none) and its line. Ids are made unique. Raises DataError where the file is
    missing, or has lines and none of them is an example.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; {ACCEPTED}")
    return _unique(_read(path, on_fault or Faults(logged=True).of(path), name or path.stem))


class Faults:
    """Lines that were passed over, by file: how many, and the first of them in words."""

    def __init__(self, logged: bool = False) -> None:
        self.found: dict[str, Any] = {}
        self.logged = logged

    def of(self, path: Path) -> Callable[[int, str], None]:
        """Listens to one reading of a file."""
        first: list[str] = []
        count = itertools.count(1)

        def note(number: int, reason: str) -> None:
            self.found[path.name] = {"lines": next(count), "first": first}
            if len(first) < FAULTS_SHOWN:
                first.append(f"line {number}: {reason}")
                if self.logged:
                    log.warning("%s line %d: %s", path, number, reason)

        return note


def read_chunks(path: Path) -> Iterator[Chunk]:
    """Chunks as they were stored, in whatever form. Raises DataError where a line is none."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Chunk.model_validate(dict(parse_example(line, "")))
            except ValueError as error:
                raise DataError(f"{path} line {number}: damaged ({error}); delete the folder, and it is made anew") from error


def file_form(path: Path) -> str:
    """The form of a file's first example; `messages` where there is none."""
    with path.open("rb") as lines:
        for line in map(_without_mark, lines):
            try:
                return form_of(_json(line))
            except ValueError:
                continue
    return "messages"


def _read(path: Path, on_fault: Callable[[int, str], None], name: str) -> Iterator[Example]:
    first_fault, faults, good = "", 0, 0
    with path.open("rb") as lines:
        for number, line in enumerate(map(_without_mark, lines), 1):
            if not line.strip():
                continue
            try:
                example = parse_example(line, f"{name}-{number}")
            except ValueError as error:
                faults += 1
                first_fault = first_fault or f"line {number}: {error}"
                on_fault(number, str(error))
                continue
            good += 1
            yield example
    if faults and not good:
        raise DataError(f"{path}: none of its {faults} lines is an example ({first_fault}); {ACCEPTED}")
    if faults:
        log.warning("%s: %d of %d lines passed over", path, faults, faults + good)


def _without_mark(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf")


def _unique(examples: Iterable[Example]) -> Iterator[Example]:
    """What was trained is kept by id, so that no two examples may share one."""
    seen = _Seen()
    for number, example in enumerate(examples, 1):
        name = example.id
        while not seen.add(name):
            name = f"{name}-{number}"
        yield example if name == example.id else example.model_copy(update={"id": name})


class _Seen:
    """Fourteen to twenty bytes for each name: a digest of eight in a sorted array, and the newest, at most one in sixteen, in a set."""

    def __init__(self) -> None:
        self.sorted = array("Q")
        self.newest: set[int] = set()

    def add(self, name: str) -> bool:
        """False where it was there before."""
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
        place = bisect_left(self.sorted, digest)
        if digest in self.newest or (place < len(self.sorted) and self.sorted[place] == digest):
            return False
        self.newest.add(digest)
        if len(self.newest) > max(NEWEST, len(self.sorted) // 16):
            self._merge()
        return True

    def _merge(self) -> None:
        newest = np.fromiter(self.newest, np.uint64, len(self.newest))
        merged = np.concatenate([np.frombuffer(self.sorted, np.uint64), newest])
        merged.sort()
        self.sorted, self.newest = array("Q"), set()
        self.sorted.frombytes(merged.data.cast("B"))
