"""A folder of papers → a folder of documents, each read once for as long as its content stays the same."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from gswa.corpus.files import find_files, fingerprint, hashed, mark_duplicates, suffix
from gswa.corpus.isolate import Job, read_all
from gswa.corpus.read import paragraphs, safe_stem, words
from gswa.corpus.report import Report, Row, read_report, write_report
from gswa.errors import ConfigError, CorpusError
from gswa.files import write_atomically
from gswa.records import READABLE, Document

READER_VERSION = "1"  # raise it when a reader's output changes: every document is then read anew
LIBRARIES = ("pypdfium2", "python-docx", "charset-normalizer", "ftfy")
OURS = re.compile(r".+\.([0-9a-f]{16})\.json")
WHAT_BELONGS = "put the author's papers there (PDF, DOCX, TXT, MD), the most typical ones in its subfolder important_examples/"

log = logging.getLogger("gswa")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Corpus:
    """A parsed corpus. `fingerprint` depends on contents and reader only; `documents` counts those that can be trained on."""

    fingerprint: str
    folder: Path
    documents: int
    files: int
    set_aside: int


def parse_corpus(raw: Path, parsed: Path, parser: str = "auto", on_progress: Progress | None = None) -> Corpus:
    """Bring `parsed` up to date with `raw`: new contents are read, unchanged ones are not, documents that left are removed.

    Raises CorpusError where there is nothing to read or nothing readable, ConfigError for a parser that is not there.
    """
    sources, others = check_corpus(raw, parser)
    reader = reader_key(parser)
    before = read_report(parsed)
    rows = mark_duplicates(hashed(raw, sources, before))
    try:
        rows, read = _update(raw, parsed, rows, parser, reader, before, on_progress)
    except OSError as error:
        raise CorpusError(f"{parsed}: the parsed documents cannot be written ({error.strerror or error})") from error
    everything = tuple(sorted([*rows, *others], key=lambda row: row.source))
    cached = sum(bool(row.file) for row in rows) - read
    report = Report(reader=reader, parser=parser, fingerprint=fingerprint(rows, reader), read=read, from_cache=cached, rows=everything)
    write_report(parsed, report)
    return _corpus(parsed, report)


def read_documents(parsed: Path) -> Iterator[Document]:
    """The readable documents with text to train on, by source. Raises CorpusError before the first parse."""
    report = read_report(parsed)
    if report is None:
        raise CorpusError(f"{parsed}: no parsed corpus here; run 'python -m gswa.train parse' first")
    for row in report.rows:
        if row.usable:
            yield Document.model_validate_json((parsed / row.file).read_text(encoding="utf-8"))


def check_corpus(raw: Path, parser: str) -> tuple[list[str], list[Row]]:
    """What there is to read, and the files that nobody reads; raises as `parse_corpus` does, as far as names tell."""
    check_parser(parser)
    sources, others = find_files(raw)
    if not sources:
        raise CorpusError(_nothing(raw, others))
    return sources, others


def check_parser(parser: str) -> None:
    if parser == "unstructured":
        raise ConfigError(
            "--parser unstructured: not built into this version; leave it out, the built-in readers take PDF, DOCX, TXT and MD"
        )
    if parser == "pymupdf" and util.find_spec("pymupdf") is None:
        raise ConfigError('--parser pymupdf: PyMuPDF is not installed; pip install "gswa[pymupdf]", or leave it out')
    if parser not in ("auto", "pymupdf"):
        raise ConfigError(f"--parser {parser}: no such parser; one of auto, pymupdf, unstructured")


def _nothing(raw: Path, others: list[Row]) -> str:
    if not raw.is_dir():
        return f"{raw}: there is no such folder; make it and {WHAT_BELONGS}"
    found = f"only files that are not read ({', '.join(row.source for row in others[:3])})" if others else "the folder is empty"
    return f"{raw}: {found}; {WHAT_BELONGS}"


def reader_key(parser: str) -> str:
    """What besides the content decides how a document reads."""
    libraries = (*LIBRARIES, "pymupdf") if parser == "pymupdf" else LIBRARIES
    return " ".join([f"gswa-{READER_VERSION}", parser, *(f"{name}-{metadata.version(name)}" for name in libraries)])


def cache_key(row: Row, reader: str) -> str:
    return hashlib.sha256(f"{row.sha256} {suffix(row)} {reader}".encode()).hexdigest()[:16]


def _update(
    raw: Path, parsed: Path, rows: list[Row], parser: str, reader: str, before: Report | None, on_progress: Progress | None
) -> tuple[list[Row], int]:
    """The rows with their figures, and how many files were read for them."""
    stored = {match.group(1): path for path in parsed.glob("*.json") if (match := OURS.fullmatch(path.name))}
    figures = {row.file: row for row in before.rows if row.file} if before else {}
    done: list[Row] = []
    fresh: dict[str, Row] = {}
    for row in rows:
        key = cache_key(row, reader)
        named = row.model_copy(update={"file": f"{safe_stem(row.source)}.{key}.json"})
        if row.status == "duplicate" or not row.sha256:
            done.append(row)
        elif key in stored and (known := _from_cache(named, stored[key], figures)):
            done.append(known)
        else:
            fresh[row.source] = named
    jobs = [Job(raw / source, source, row.sha256, parser) for source, row in fresh.items()]
    done += _read(jobs, fresh, parsed, len(rows), on_progress)
    _remove_stale(parsed, keep={row.file for row in done})
    return done, len(fresh)


def _from_cache(row: Row, path: Path, figures: dict[str, Row]) -> Row | None:
    """The row of a document that is stored already, moved with its file where that has a new place; None where it is damaged."""
    known = figures.get(path.name)
    if known and known.source == row.source:
        return known.model_copy(update={"stamp": row.stamp})
    try:
        document = Document.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if document.source != row.source:
        write_atomically(path.with_name(row.file), document.model_copy(update={"source": row.source}).model_dump_json())
    figure = {"status": document.status, "reason": document.reason, "pages": document.pages}
    return row.model_copy(update={**figure, "words": words(document), "paragraphs": paragraphs(document)})


def _read(jobs: list[Job], rows: dict[str, Row], parsed: Path, total: int, on_progress: Progress | None) -> Iterator[Row]:
    done = total - len(jobs)
    for job, outcome in read_all(jobs):
        row = rows[job.source]
        write_atomically(parsed / row.file, outcome.document)
        if outcome.status not in READABLE:
            log.warning("%s set aside (%s): %s", job.source, outcome.status, outcome.reason)
        done += 1
        if on_progress:
            on_progress(done, total)
        figures = outcome._asdict()
        del figures["document"]
        yield row.model_copy(update=figures)


def _remove_stale(parsed: Path, keep: set[str]) -> None:
    """Documents whose file left the corpus. What we did not write stays."""
    for path in parsed.glob("*.json"):
        if OURS.fullmatch(path.name) and path.name not in keep and _is_ours(path):
            path.unlink()


def _is_ours(path: Path) -> bool:
    head = path.read_bytes()[:200]
    return head.startswith(b'{"schema_version":') and b'"source":' in head


def _corpus(parsed: Path, report: Report) -> Corpus:
    usable = sum(row.usable for row in report.rows)
    if not usable:
        reasons = "; ".join(f"{row.source}: {row.reason or row.status}" for row in report.rows[:3])
        raise CorpusError(f"no document with usable text among {len(report.rows)} files ({reasons}); see {parsed / 'report.md'}")
    return Corpus(report.fingerprint, parsed, usable, len(report.rows), len(report.rows) - usable)
