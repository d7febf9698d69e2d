"""The files of a corpus folder: which are there, what their contents hash to, which are the same."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from gswa.corpus import unstructured
from gswa.corpus.guards import FORMATS, MORE_FORMATS
from gswa.corpus.report import Report, Row

PRIORITY = "important_examples"  # the folder of the papers that weigh more


def is_priority(source: str) -> bool:
    return PRIORITY in PurePosixPath(source).parts[:-1]


def find_files(raw: Path) -> tuple[list[str], list[Row]]:
    """Sources to read, and rows for the files that nobody reads. Hidden files and README.md are passed over."""
    sources, others = [], []
    formats = FORMATS | MORE_FORMATS if unstructured.is_installed() else FORMATS
    for source in sorted(_walk(raw)):
        extension = Path(source).suffix.lower()
        if extension in formats:
            sources.append(source)
        else:
            others.append(Row(source=source, status="unsupported", reason=f"{_why_not(extension)}; save it as PDF, DOCX, TXT or MD"))
    return sources, others


def _why_not(extension: str) -> str:
    if extension in MORE_FORMATS:
        return f'{extension} files are read where Unstructured is installed: pip install "gswa[unstructured]"'
    return f"{extension} files are not read" if extension else "it has no extension that says what it is"


def _walk(raw: Path) -> Iterator[str]:
    """Every file below, links followed; a folder that a link leads back to is entered once."""
    seen: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(raw, followlinks=True):
        place = Path(folder).stat()
        if (place.st_dev, place.st_ino) in seen:
            names.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            path = Path(folder, name)
            if not name.startswith((".", "~$")) and name.lower() != "readme.md" and path.is_file():
                yield path.relative_to(raw).as_posix()


def fingerprint(rows: Iterable[Row]) -> str:
    """Of the set of contents: order, names, dates and copies do not count."""
    digest = hashlib.sha256()
    for content in sorted({row.sha256 for row in rows}):
        digest.update(content.encode())
    return digest.hexdigest()


def hashed(raw: Path, sources: list[str], before: Report | None) -> Iterator[Row]:
    known = {row.source: row for row in before.rows} if before else {}
    for source in sources:
        path = raw / source
        try:
            status = path.stat()
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            old = known.get(source)
            sha256 = old.sha256 if old and old.sha256 and old.stamp == stamp else _sha256(path)
        except OSError as error:
            reason = f"it cannot be read ({error.strerror or error})"
            yield Row(source=source, status="corrupt", reason=reason)
            continue
        yield Row(source=source, status="ok", sha256=sha256, stamp=stamp)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mark_duplicates(rows: Iterable[Row]) -> list[Row]:
    """Of several files with one content the priority one stays, else the first by name."""
    rows = list(rows)
    first: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: (not is_priority(row.source), row.source)):
        first.setdefault((row.sha256, suffix(row)), row)
    return [_marked(row, first[row.sha256, suffix(row)]) for row in rows]


def suffix(row: Row) -> str:
    return Path(row.source).suffix.lower()


def _marked(row: Row, first: Row) -> Row:
    if row.source == first.source or not row.sha256:
        return row
    return row.model_copy(update={"status": "duplicate", "reason": f"the same content as {first.source}"})
