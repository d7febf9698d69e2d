"""The folder of training examples: written from the parsed papers (`prepare`), or read as the user wrote it (`read_examples`)."""

import hashlib
import json
import logging
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from gswa.conservation import count_missing, paragraph_digests
from gswa.errors import CorpusError, DataError
from gswa.files import read_lines, write_json, write_lines
from gswa.passages import make_examples, training_paragraphs, weighted
from gswa.records import SPLITS, Document, Example, Record, Split
from gswa.splits import MIN_GROUPS, Identity, group_documents, identity, split_groups

log = logging.getLogger("gswa")

MANIFEST = ".gswa.json"
ACCEPTED = 'accepted are lines such as {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
FAULTS_SHOWN = 5


class PrepareReport(Record):
    """What `prepare` wrote. `train_weight` is the sum of the weights: the examples an epoch shows."""

    documents: dict[Split, int]
    examples: dict[Split, int]
    train_weight: float
    documents_without_text: int
    paragraphs: int
    paragraphs_missing: int
    split_by: Literal["document", "passage"]
    note: str = ""


# -- from papers ---------------------------------------------------------------------------------------------------------
@dataclass
class _Seen:
    """What one pass over the documents leaves behind beside their examples."""

    identities: list[Identity] = field(default_factory=list)
    paragraphs: "array[int]" = field(default_factory=lambda: array("Q"))
    without_text: int = 0


def prepare(documents: Iterable[Document], training: Path, seed: int) -> PrepareReport:
    """Write train.jsonl, valid.jsonl and test.jsonl of examples, split by document.

    Raises CorpusError where no document has text, and DataError rather than write over files that the user made.
    """
    known = _known_files(training)
    staging = training / ".new"
    try:
        seen = _Seen()
        every = staging / "all.jsonl"
        write_lines(every, _examples(documents, seed, seen))
        if not seen.identities:
            raise CorpusError("no document has text to train on; put papers (PDF, DOCX, TXT, MD) into data/corpus/raw and parse them")
        report = _write_splits(every, staging, seen, seed)
        _move_in(staging, training, known)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def _examples(documents: Iterable[Document], seed: int, seen: _Seen) -> Iterator[Example]:
    for document in documents:
        paragraphs = training_paragraphs(document)
        if not paragraphs:
            seen.without_text += 1
            continue
        seen.identities.append(identity(document))
        for _, block in paragraphs:
            seen.paragraphs.extend(paragraph_digests(block.text))
        yield from make_examples(document, seed)


def _write_splits(every: Path, staging: Path, seen: _Seen, seed: int) -> PrepareReport:
    """The examples in their splits, in the order of the documents; then read back and compared with the paragraphs seen."""
    groups = group_documents(seen.identities)
    by_document = len(set(groups.values())) >= MIN_GROUPS
    units = set(groups.values()) if by_document else {example.id for example in _stored(every)}
    splits = split_groups(units, seed)

    def of_split(split: Split) -> Iterator[Example]:
        for example in _stored(every):
            example = example.model_copy(update={"group": groups[example.document]})
            if splits[example.group if by_document else example.id] == split:
                yield weighted(example) if split == "train" else example

    for split in SPLITS:
        write_lines(staging / f"{split}.jsonl", of_split(split))
    note = "" if by_document else _note(len(set(groups.values())), len(units))
    return _report(staging, seen, split_by="document" if by_document else "passage", note=note)


def _report(folder: Path, seen: _Seen, **fields: Any) -> PrepareReport:
    """Counts of the files as stored. Raises DataError where a paragraph that was seen is in none of them."""
    examples, stored, train_weight = Counter[Split](), array("Q"), 0.0
    documents: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for example in _stored(folder / f"{split}.jsonl"):
            examples[split] += 1
            train_weight += example.weight if split == "train" else 0
            documents[split].add(example.document)
            stored.extend(paragraph_digests(example.target))
    missing = count_missing(seen.paragraphs, stored)
    if missing:
        raise DataError(f"{missing} of {len(seen.paragraphs)} paragraphs are in no example; this is a fault in GSWA, please report it")
    return PrepareReport(
        documents={split: len(documents[split]) for split in SPLITS},
        examples={split: examples[split] for split in SPLITS},
        train_weight=train_weight,
        documents_without_text=seen.without_text,
        paragraphs=len(seen.paragraphs),
        paragraphs_missing=missing,
        **fields,
    )


def _stored(path: Path) -> Iterator[Example]:
    return (Example.model_validate(line) for line in read_lines(path))


def _note(documents: int, passages: int) -> str:
    if passages < MIN_GROUPS:
        return f"only {passages} passages of text: all are trained on, and nothing is held out to measure by"
    return (
        f"only {documents} different documents: passages of the same papers are held out, so held-out losses look better than"
        " they are; with three papers or more whole papers are held out"
    )


# -- files that were written here, and files of the user -------------------------------------------------------------------
def _known_files(training: Path) -> dict[str, str]:
    """The digests of the split files that stand there. Raises DataError where one of them was not written by `prepare`."""
    try:
        ours = json.loads((training / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        ours = {}
    found = {path.name: file_digest(path) for path in _split_files(training) if path.is_file()}
    for name, digest in found.items():
        if digest not in ours.get(name, ()):
            raise DataError(
                f"{training / name}: not written by GSWA, or changed since, so it is not overwritten;"
                f" train on it with --data {training}, or move it out of {training}"
            )
    return found


def _move_in(staging: Path, training: Path, known: Mapping[str, str]) -> None:
    """The manifest names old and new files before any is moved, so that after a crash in between all are still known as ours."""
    fresh = {path.name: file_digest(path) for path in _split_files(staging)}
    names = {name: sorted({digest, known.get(name, digest)}) for name, digest in fresh.items()}
    write_json(training / MANIFEST, {"schema": 1, "files": names})
    for path in _split_files(staging):
        path.replace(training / path.name)


def _split_files(folder: Path) -> list[Path]:
    return [folder / f"{split}.jsonl" for split in SPLITS]


def file_digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


# -- examples that the user wrote ------------------------------------------------------------------------------------------
def read_examples(path: Path, on_fault: Callable[[int, str], None] | None = None) -> Iterator[Example]:
    """Examples of a JSONL file of chats; `on_fault` is told the line (from 1) and the reason of each line passed over.

    Without it the first faults and their number are logged. Raises DataError where the file is missing, or has lines and
    none of them is an example.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; {ACCEPTED}")
    return _read(path, on_fault or _log_fault(path))


def _read(path: Path, on_fault: Callable[[int, str], None]) -> Iterator[Example]:
    first_fault, faults, good = "", 0, 0
    ids: set[str] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                example = parse_example(line.removeprefix(b"\xef\xbb\xbf"), f"{path.stem}-{number}")
            except ValueError as error:
                faults += 1
                first_fault = first_fault or f"line {number}: {error}"
                on_fault(number, str(error))
                continue
            if example.id in ids:  # what was trained is kept by id, so that no two examples may share one
                example = example.model_copy(update={"id": f"{example.id}-{number}"})
            ids.add(example.id)
            good += 1
            yield example
    if faults and not good:
        raise DataError(f"{path}: none of its {faults} lines is an example ({first_fault}); {ACCEPTED}")
    if faults:
        log.warning("%s: %d of %d lines passed over", path, faults, faults + good)


def _log_fault(path: Path) -> Callable[[int, str], None]:
    shown = []

    def log_fault(number: int, reason: str) -> None:
        shown.append(number)
        if len(shown) <= FAULTS_SHOWN:
            log.warning("%s line %d: %s", path, number, reason)

    return log_fault


def parse_example(line: bytes, default_id: str) -> Example:
    """One line of JSON. Raises ValueError with the reason in a few words."""
    try:
        content = json.loads(line)
    except ValueError:
        raise ValueError("not valid JSON") from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if not isinstance(content.get("messages"), list):
        raise ValueError(_other_format(content))
    fields = {name: value for name, value in content.items() if value is not None}
    fields["id"] = str(fields.get("id", default_id))
    fields["messages"] = [_message(message) for message in content["messages"]]
    try:
        example = Example.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    _refuse_unanswered(example)
    if b"\\ud" in line.lower():
        _refuse_half_characters(example)
    return example


def _refuse_half_characters(example: Example) -> None:
    """JSON can spell half of a surrogate pair; no tokenizer and no file takes it."""
    try:
        example.model_dump_json()
    except ValueError:
        raise ValueError("content: half of a character (a lone \\ud800 to \\udfff)") from None


def _message(message: Any) -> dict[str, Any]:
    """Role and content; what else a chat log keeps (names, weights) is not trained on."""
    if not isinstance(message, dict):
        raise ValueError("a message is not a JSON object")
    return {"role": message.get("role"), "content": message.get("content")}


def _refuse_unanswered(example: Example) -> None:
    roles = [message.role for message in example.messages]
    if roles[-1:] != ["assistant"]:
        raise ValueError("the last message is not the assistant's, so there is nothing to learn")
    if "user" not in roles:
        raise ValueError("no message of a user")
    if not example.target.strip():
        raise ValueError("the assistant's last message is empty")


def _other_format(content: Mapping[str, Any]) -> str:
    for name, keys in (("alpaca", {"instruction", "output"}), ("ShareGPT", {"conversations"}), ("completion", {"prompt", "completion"})):
        if keys <= content.keys():
            return f"{name} lines ({', '.join(sorted(keys))}) are not read yet"
    return "no list of messages"
