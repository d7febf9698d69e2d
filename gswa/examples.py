"""The folder of training examples, written from the parsed papers; what a user wrote is read by `gswa.formats`."""

import json
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gswa.conservation import count_missing, piece_digests
from gswa.corpus.files import is_priority
from gswa.errors import CorpusError, DataError
from gswa.files import file_digest, read_lines, write_json, write_lines
from gswa.passages import digest, make_examples, training_paragraphs
from gswa.recipe import Recipe, read_recipe
from gswa.records import SPLITS, Document, Example, Record, Split
from gswa.splits import MIN_GROUPS, split_groups

MANIFEST = ".gswa.json"


class PrepareReport(Record):
    """What `prepare` wrote. `train_weight` is the sum of the weights: the examples an epoch shows. `repeats` are passages that
    another document holds word for word: they are trained on once."""

    documents: dict[Split, int]
    examples: dict[Split, int]
    kinds: dict[str, int]
    train_weight: float
    documents_without_text: int
    paragraphs: int
    paragraphs_missing: int
    repeats: int
    split_by: Literal["document", "passage"]
    note: str = ""


# -- from papers ---------------------------------------------------------------------------------------------------------
@dataclass
class _Seen:
    """What one pass over the documents leaves behind beside their examples. The text is remembered by digests."""

    groups: set[str] = field(default_factory=set)
    passages: set[str] = field(default_factory=set)
    pieces: "array[int]" = field(default_factory=lambda: array("Q"))
    paragraphs: int = 0
    repeats: int = 0
    without_text: int = 0


def prepare(
    documents: Iterable[Document], training: Path, seed: int, recipe: Recipe | None = None, plain: Mapping[str, str] | None = None
) -> PrepareReport:
    """Write train.jsonl, valid.jsonl and test.jsonl of examples, split by groups of documents.

    `plain` is the plain side of passages by their digest, where there is one. Raises CorpusError where no document has text,
    and DataError rather than write over files that the user made.
    """
    recipe = recipe or read_recipe()
    known = _known_files(training)
    staging = training / ".new"
    try:
        seen = _Seen()
        every = staging / "all.jsonl"
        write_lines(every, _examples(documents, recipe, seed, plain or {}, seen))
        if not seen.groups:
            raise CorpusError("no document has text to train on; put papers (PDF, DOCX, TXT, MD) into data/corpus/raw and parse them")
        splits = _splits(seen, training, seed, recipe)
        report = _write_splits(every, staging, seen, seed, recipe, splits)
        _move_in(staging, training, known, {"seed": seed, "splits": splits or {}})
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def _examples(documents: Iterable[Document], recipe: Recipe, seed: int, plain: Mapping[str, str], seen: _Seen) -> Iterator[Example]:
    for document in documents:
        paragraphs = training_paragraphs(document)
        if not paragraphs:
            seen.without_text += 1
            continue
        seen.paragraphs += len(paragraphs)
        for _, block in paragraphs:
            seen.pieces.extend(piece_digests(block.text))
        for example in make_examples(document, recipe, seed, plain):
            seen.groups.add(example.group)
            name = digest(example.target)
            if name in seen.passages:
                seen.repeats += 1
            else:
                seen.passages.add(name)
                yield example


def _splits(seen: _Seen, training: Path, seed: int, recipe: Recipe) -> dict[str, Split] | None:
    """Group → split, as it was for the groups that were there before; None where there are too few groups to hold any out."""
    if len(seen.groups) < MIN_GROUPS:
        return None
    written = _manifest(training)
    before = written.get("splits", {}) if written.get("seed") == seed else {}
    return split_groups(seen.groups, seed, recipe.held_out, before)


def _write_splits(
    every: Path, staging: Path, seen: _Seen, seed: int, recipe: Recipe, by_group: Mapping[str, Split] | None
) -> PrepareReport:
    """The examples in their splits, in the order of the documents; then read back and compared with the text seen."""
    units = set() if by_group else {example.id for example in _stored(every)}
    splits = by_group or split_groups(units, seed, recipe.held_out)

    def of_split(split: Split) -> Iterator[Example]:
        for example in _stored(every):
            if splits[example.group if by_group else example.id] == split:
                yield _weighted(example, recipe) if split == "train" else example

    for split in SPLITS:
        write_lines(staging / f"{split}.jsonl", of_split(split))
    note = "" if by_group else _note(len(seen.groups), len(units))
    return _report(staging, seen, split_by="document" if by_group else "passage", note=note)


def _weighted(example: Example, recipe: Recipe) -> Example:
    """An example of train, with the weight of its document's folder."""
    return example.model_copy(update={"weight": recipe.priority_weight}) if is_priority(example.document) else example


def _report(folder: Path, seen: _Seen, **fields: Any) -> PrepareReport:
    """Counts of the files as stored. Raises DataError where text that was seen is in none of them."""
    examples, kinds, stored, train_weight = Counter[Split](), Counter[str](), array("Q"), 0.0
    documents: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for example in _stored(folder / f"{split}.jsonl"):
            examples[split] += 1
            kinds[example.kind] += 1
            train_weight += example.weight if split == "train" else 0
            documents[split].add(example.document)
            stored.extend(piece_digests(example.target))
    missing = count_missing(seen.pieces, stored)
    if missing:
        raise DataError(f"{missing} of {len(seen.pieces)} sentences are in no example; this is a fault in GSWA, please report it")
    return PrepareReport(
        documents={split: len(documents[split]) for split in SPLITS},
        examples={split: examples[split] for split in SPLITS},
        kinds=dict(kinds),
        train_weight=train_weight,
        documents_without_text=seen.without_text,
        paragraphs=seen.paragraphs,
        paragraphs_missing=missing,
        repeats=seen.repeats,
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
    ours = _manifest(training).get("files", {})
    found = {path.name: file_digest(path) for path in _split_files(training) if path.is_file()}
    for name, content in found.items():
        if content not in ours.get(name, ()):
            raise DataError(
                f"{training / name}: not written by GSWA, or changed since, so it is not overwritten;"
                f" train on it with --data {training}, or move it out of {training}"
            )
    return found


def _manifest(training: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((training / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _move_in(staging: Path, training: Path, known: Mapping[str, str], memory: Mapping[str, Any]) -> None:
    """The manifest names old and new files before any is moved, so that after a crash in between all are still known as ours."""
    fresh = {path.name: file_digest(path) for path in _split_files(staging)}
    names = {name: sorted({digest, known.get(name, digest)}) for name, digest in fresh.items()}
    write_json(training / MANIFEST, {"schema": 2, "files": names, **memory})
    for path in _split_files(staging):
        path.replace(training / path.name)


def _split_files(folder: Path) -> list[Path]:
    return [folder / f"{split}.jsonl" for split in SPLITS]
