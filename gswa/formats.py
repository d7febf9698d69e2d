"""Lines of JSON ⇄ examples, and the files that hold them; a bad line costs itself and is named.

What a line holds beside its chat is kept: under its own name, or in `own_fields` where that name is one of a chunk's (`part`,
`parts`, `span`, `tokens`, `target_tokens`), or of the form that the line is written in.
"""

import itertools
import json
import logging
from array import array
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from gswa.errors import DataError
from gswa.files import short_digest
from gswa.forms import ACCEPTED, FORMS, TEXT_KIND, Fields, form_of
from gswa.records import Chunk, Example

log = logging.getLogger("gswa")

FAULTS_SHOWN = 20
NEWEST = 65_536  # ids that are not yet sorted into the others
DEPTH = 200  # of lists and objects in one another; pydantic writes 255
OWN = "own_fields"
OURS = frozenset(("document", "group", "kind", "blocks", "cut"))  # where a user's is no such thing, it is not ours
OF_CHUNKS = Chunk.model_fields.keys() - Example.model_fields.keys()
COUNTED = {"span": list, "tokens": int, "target_tokens": int}  # which every chunk of ours has
NESTED = "lists or objects are nested too deeply"


# -- lines ---------------------------------------------------------------------------------------------------------------
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
        raise ValueError("not valid UTF-8; `iconv -f cp1252 -t utf-8` converts what Windows wrote") from None
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
        raise DataError(f"{path}: none of its {faults} lines is an example ({first_fault}); {_way_out(path)}")
    if faults:
        log.warning("%s: %d of %d lines passed over", path, faults, faults + good)


def _way_out(path: Path) -> str:
    """For a file without an example, by what it begins with."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"it is UTF-16, and must be UTF-8, which `iconv -f utf-16 -t utf-8 {path.name}` makes of it"
    first = _without_mark(head).lstrip().partition(b"\n")[0].strip()
    if first.startswith(b"[") and b"{" in head:
        return f"it is one array, and must have a line for each entry, which `jq -c '.[]' {path.name}` writes"
    if first == b"{":
        return f"its examples take several lines each, and must stand on one, as `jq -c . {path.name}` writes them"
    return ACCEPTED


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
        digest = short_digest(name)
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
