"""The folder of training examples, written from the parsed papers; what a user wrote is read by `gswa.formats`."""

import hashlib
import json
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gswa.conservation import count_missing, paragraph_digests
from gswa.errors import CorpusError, DataError
from gswa.files import read_lines, write_json, write_lines
from gswa.passages import make_examples, training_paragraphs, weighted
from gswa.records import SPLITS, Document, Example, Record, Split
from gswa.splits import MIN_GROUPS, Identity, group_documents, identity, split_groups

MANIFEST = ".gswa.json"


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
