"""Whether splitting lost anything, counted in characters on what was stored: nothing here shares code with the splitting."""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gswa.errors import DataError
from gswa.files import read_lines, short_digest
from gswa.formats import read_chunks
from gswa.passages import training_paragraphs
from gswa.records import SPLITS, Chunk, Document, Example, Record, Split
from gswa.rundir import RunDir

PIECE_END = re.compile(r"(?<=[.!?…\])\"'”’])\s+|(?<=[。！？」』）])|\n\s*\n")
SET_ASIDE_FILE = "set_aside.jsonl"


class SetAside(Record):
    """An example that has no chunk, and why. `line` counts the examples of its split from 0; its `id` says where it was read."""

    split: Split
    line: int
    id: str
    characters: int
    reason: str


def conservation(run: RunDir, max_seq_length: int, documents: Iterable[Document] | None = None) -> dict[str, Any]:
    """The check of a run's stored examples and chunks, and of the parsed documents where they are given."""
    return check(run.read_examples, run.chunks(max_seq_length), documents)


def check(read: Callable[[Split], Iterable[Example]], folder: Path, documents: Iterable[Document] | None = None) -> dict[str, Any]:
    """Counts of what went in and what is stored, by character. Raises DataError where they do not agree.

    `targets_whole`: each target is its chunks' spans in order, with white space between. `characters_balanced`: in = in
    chunks + between them + set aside. `blocks_missing`: sentences of the documents' training paragraphs that no example holds.
    """
    count: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    pieces = array("Q")
    for split in SPLITS:
        examples = read(split) if documents is None else _watched(read(split), pieces)
        _follow(examples, read_chunks(folder / f"{split}.jsonl"), _stored_asides(folder, split), count, reasons)
    accounted = count["characters_in_chunks"] + count["characters_between"] + count["characters_set_aside"]
    blocks, wanted = (None, None) if documents is None else _in_documents(documents)
    missing = None if wanted is None else count_missing(wanted, pieces)
    found = {
        "targets_whole": not count["broken"] and not count["unknown_chunks"],
        "characters_balanced": count["characters_in"] == accounted,
        "blocks": blocks,
        "blocks_missing": missing,
        **{name: count[name] for name in ("examples", "chunks", "target_tokens", "broken", "unknown_chunks")},
        **{f"characters_{name}": count[f"characters_{name}"] for name in ("in", "in_chunks", "between", "set_aside")},
        "set_aside": dict(reasons),
    }
    holds = found["targets_whole"] and found["characters_balanced"] and not missing
    if not holds:
        raise DataError(f"{folder}: text was lost while splitting ({found}); this is a fault in GSWA, please report it")
    return {"holds": holds, **found}


def _stored_asides(folder: Path, split: Split) -> Iterator[SetAside]:
    records = (SetAside.model_validate(line) for line in read_lines(folder / SET_ASIDE_FILE))
    return (record for record in records if record.split == split)


# -- examples against their chunks ---------------------------------------------------------------------------------------
def _follow(
    examples: Iterable[Example], chunks: Iterator[Chunk], asides: Iterator[SetAside], count: Counter[str], reasons: Counter[str]
) -> None:
    """Both files stand in the same order, so that they are read side by side and held in memory never."""
    aside = next(asides, None)
    for line, example in enumerate(examples):
        count["examples"] += 1
        count["characters_in"] += len(example.target)
        if aside is not None and aside.line == line:
            count["characters_set_aside"] += aside.characters
            reasons[aside.reason] += 1
            aside = next(asides, None)
            continue
        parts = _parts(chunks)
        between = white_space_between(example, parts)
        count["broken"] += between is None
        count["characters_between"] += between or 0
        count["chunks"] += len(parts)
        count["characters_in_chunks"] += sum(len(chunk.target) for chunk in parts)
        count["target_tokens"] += sum(chunk.target_tokens for chunk in parts)
    count["unknown_chunks"] += sum(1 for _ in chunks)


def _parts(chunks: Iterator[Chunk]) -> list[Chunk]:
    first = next(chunks, None)
    return [first, *islice(chunks, first.parts - 1)] if first else []


def white_space_between(example: Example, parts: list[Chunk]) -> int | None:
    """Characters of the target that are in no part; None where one of them is not white space, or a part does not belong."""
    position = between = 0
    for number, chunk in enumerate(parts, 1):
        start, end = chunk.span
        gap = example.target[position:start]
        belongs = (chunk.id, chunk.part, chunk.parts) == (example.id, number, len(parts))
        if not belongs or start < position or gap.strip() or chunk.target != example.target[start:end]:
            return None
        between += len(gap)
        position = end
    tail = example.target[position:]
    return None if tail.strip() else between + len(tail)


# -- documents against examples ------------------------------------------------------------------------------------------
def piece_digests(text: str) -> list[int]:
    """Eight bytes for each sentence or less of it, so that the text of a large corpus fits in memory.

    The pieces end wherever a passage may end, and at many places more: no rule of sentences is needed to compare.
    """
    pieces = (piece.strip() for piece in PIECE_END.split(text))
    return [short_digest(piece) for piece in pieces if piece]


def count_missing(wanted: "array[int]", known: "array[int]") -> int:
    """How many of the wanted digests are not among the known ones."""
    return int((~np.isin(np.array(wanted, dtype=np.uint64), np.array(known, dtype=np.uint64))).sum())


def _watched(examples: Iterable[Example], pieces: "array[int]") -> Iterator[Example]:
    for example in examples:
        pieces.extend(piece_digests(example.target))
        yield example


def _in_documents(documents: Iterable[Document]) -> tuple[int, "array[int]"]:
    """How many paragraphs there are to train on, and what they say."""
    count, pieces = 0, array("Q")
    for document in documents:
        for _, block in training_paragraphs(document):
            count += 1
            pieces.extend(piece_digests(block.text))
    return count, pieces
