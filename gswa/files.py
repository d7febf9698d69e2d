"""Files that a crash at any moment leaves readable: written whole and renamed into place, or appended to by whole lines."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel


def write_atomically(path: Path, content: str | bytes) -> None:
    """All of it or nothing; the folder is made."""
    with _renamed_into(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def _renamed_into(path: Path) -> Iterator[IO[bytes]]:
    """On disk before it gets its name: the name alone, of an empty file, is what a power cut would leave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def append_line(path: Path, record: BaseModel, exclude_none: bool = False) -> None:
    """One write(2) on an O_APPEND descriptor, so that lines never interleave and only the last can be torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # until the close: between the look at the end and the write
        line = record.model_dump_json(exclude_none=exclude_none) + "\n"
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end and os.pread(descriptor, 1, end - 1) != b"\n":
            line = "\n" + line  # the last writer died in mid-line: close its line, or ours would be lost with it
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL file; torn ones are passed over, a missing file is empty."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        yield from (content for content in map(_object, lines) if content is not None)


def read_new_lines(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines after byte `offset` of a file that is still written to, and the offset to go on from."""
    if not path.is_file():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        whole = file.read().rpartition(b"\n")[0]
    lines = [line for line in map(_object, whole.splitlines()) if line is not None]
    return lines, offset + len(whole) + 1 if whole else offset


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def file_digest(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_lines(path: Path, records: Iterable[BaseModel | dict[str, Any]]) -> None:
    """A whole JSONL file, renamed into place; the parent folder is made."""
    with _renamed_into(path) as file:
        for record in records:
            line = json.dumps(record, ensure_ascii=False) if isinstance(record, dict) else record.model_dump_json()
            file.write(line.encode() + b"\n")


def short_digest(text: str) -> int:
    """64 bits that tell texts apart where so many are compared that they cannot be held, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
