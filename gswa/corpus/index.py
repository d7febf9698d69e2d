"""A folder of papers → a folder of documents, each read once for as long as its content stays the same.

`plan` says which files must be read, `read_batch` reads some of them, `finish` writes the report. `parse_corpus` does all
three in one process; a flow hands the batches to whoever runs its tasks.
"""

import hashlib
import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from gswa.corpus.files import find_files, fingerprint, hashed, is_priority, mark_duplicates, suffix
from gswa.corpus.guards import MORE_FORMATS
from gswa.corpus.isolate import Job, read_all
from gswa.corpus.read import safe_stem
from gswa.corpus.report import Report, Row, read_report, write_report
from gswa.corpus.similar import alike
from gswa.errors import ConfigError, CorpusError
from gswa.files import write_atomically
from gswa.records import OF_THE_MOMENT, READABLE, Document

READER_VERSION = "4"  # raise it when a reader's output changes: every document is then read anew
LIBRARIES = ("pypdfium2", "python-docx", "charset-normalizer", "ftfy", "py3langid", "rensa")
TRIES = 2
SECONDS_BELIEVED = 24 * 3600
OURS = re.compile(r".+\.([0-9a-f]{16})\.json")
WHAT_BELONGS = "put the author's papers there (PDF, DOCX, TXT, MD), the most typical ones in its subfolder important_examples/"
LONG_TITLE = 4  # words; a shorter title ("Introduction", "Untitled document") does not make two documents one

log = logging.getLogger("gswa")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Corpus:
    """A parsed corpus. `fingerprint` depends on contents only; `documents` counts those that can be trained on."""

    fingerprint: str
    folder: Path
    documents: int
    files: int
    set_aside: int


@dataclass(frozen=True)
class ParsePlan:
    """What there is to do: files that must be read (`jobs`), and rows of those that need not be."""

    parsed: Path
    parser: str
    reader: str
    jobs: list[Job]
    rows: list[Row]
    before: Report | None

    def batches(self, files: int) -> list[list[Job]]:
        return [self.jobs[at : at + files] for at in range(0, len(self.jobs), files)]


def parse_corpus(raw: Path, parsed: Path, parser: str = "auto", on_progress: Progress | None = None) -> Corpus:
    """Bring `parsed` up to date with `raw`: new contents are read, unchanged ones are not, documents that left are removed.

    Raises CorpusError where there is nothing to read or nothing readable, ConfigError for a parser that is not there.
    """
    todo = plan(raw, parsed, parser)
    return finish(todo, read_batch(todo.jobs, parsed, on_progress=on_progress))


def plan(raw: Path, parsed: Path, parser: str = "auto") -> ParsePlan:
    """Raises CorpusError where there is nothing to read, ConfigError for a parser that is not there."""
    sources, others = check_corpus(raw, parser)
    reader, before = reader_key(parser), read_report(parsed)
    stored = {match.group(1): path for path in parsed.glob("*.json") if (match := OURS.fullmatch(path.name))}
    figures = {row.file: row for row in before.rows if row.file} if before else {}
    todo = ParsePlan(parsed, parser, reader, [], others, before)
    for row in mark_duplicates(hashed(raw, sources, before)):
        if row.status == "duplicate" or not row.sha256:
            todo.rows.append(row)
            continue
        key = cache_key(row, reader)
        named = row.model_copy(update={"file": f"{safe_stem(row.source)}.{key}.json"})
        known = _from_cache(named, stored[key], figures) if key in stored else None
        if known and not _worth_another_try(known, stored[key]):
            todo.rows.append(known)
        else:
            todo.jobs.append(Job(raw / row.source, named.model_copy(update={"failures": known.failures if known else 0}), parser))
    return todo


def read_batch(jobs: Sequence[Job], parsed: Path, children: int | None = None, on_progress: Progress | None = None) -> list[Row]:
    """Read the files, each in a child, and write their documents into `parsed`. Gives their rows."""
    rows = []
    for job, outcome in read_all(jobs, children):
        try:
            write_atomically(parsed / job.row.file, outcome.document)
        except OSError as error:
            raise CorpusError(f"{parsed}: the parsed documents cannot be written ({error.strerror or error})") from error
        if outcome.row.status not in READABLE:
            log.warning("%s set aside (%s): %s", job.row.source, outcome.row.status, outcome.row.reason)
        rows.append(outcome.row)
        if on_progress:
            on_progress(len(rows), len(jobs))
    return rows


def finish(todo: ParsePlan, read: Iterable[Row]) -> Corpus:
    """Write the report, remove documents that left the corpus. Raises CorpusError where none can be trained on."""
    fresh = list(read)
    rows = sorted([*todo.rows, *fresh], key=lambda row: row.source)
    rows = with_groups(rows, todo.before) if fresh or _changed(rows, todo.before) else rows
    cached = sum(bool(row.file) for row in todo.rows)
    report = Report(
        reader=todo.reader, parser=todo.parser, fingerprint=fingerprint(rows), read=len(fresh), from_cache=cached, rows=tuple(rows)
    )  # fmt: skip
    try:
        _remove_stale(todo.parsed, keep={row.file for row in rows})
        write_report(todo.parsed, report)
    except OSError as error:
        raise CorpusError(f"{todo.parsed}: the report cannot be written ({error.strerror or error})") from error
    return _corpus(todo.parsed, report)


def read_documents(parsed: Path) -> Iterator[Document]:
    """The readable documents with text to train on, priority ones first, then by source. Raises CorpusError before the first parse."""
    report = read_report(parsed)
    if report is None:
        raise CorpusError(f"{parsed}: no parsed corpus here; run 'python -m gswa.train parse' first")
    for row in sorted(report.rows, key=lambda row: (not is_priority(row.source), row.source)):
        if row.usable:
            document = Document.model_validate_json((parsed / row.file).read_text(encoding="utf-8"))
            yield document.model_copy(update={"group": row.group})


def logged_progress(every: float = 5.0) -> Progress:
    """Says in the log how far reading is: '[######                  ] 1,000 of 4,000 files read, 41.3 files/s'."""
    started = told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= every or done == total:
            told = now
            rate = done / max(now - started, 1e-9)
            bar = "#" * (24 * done // total)
            log.info(
                "[%-24s] %s of %s files read, %.1f files/s", bar, f"{done:,}", f"{total:,}", rate, extra={"step": done, "total": total}
            )

    return tell


# -- what can be known before a file is opened -----------------------------------------------------------------------------
def check_corpus(raw: Path, parser: str) -> tuple[list[str], list[Row]]:
    """What there is to read, and the files that nobody reads; raises as `plan` does, as far as names tell."""
    check_parser(parser)
    sources, others = find_files(raw)
    if not sources:
        raise CorpusError(_nothing(raw, others))
    return sources, others


def check_parser(parser: str) -> None:
    if parser in ("pymupdf", "unstructured") and util.find_spec(parser) is None:
        raise ConfigError(f'--parser {parser}: it is not installed; pip install "gswa[{parser}]", or leave it out')
    if parser not in ("auto", "pymupdf", "unstructured"):
        raise ConfigError(f"--parser {parser}: no such parser; one of auto, pymupdf, unstructured")


def _nothing(raw: Path, others: list[Row]) -> str:
    if not raw.is_dir():
        return f"{raw}: there is no such folder; make it and {WHAT_BELONGS}"
    found = f"only files that are not read ({', '.join(row.source for row in others[:3])})" if others else "the folder is empty"
    return f"{raw}: {found}; {WHAT_BELONGS}"


# -- the cache -------------------------------------------------------------------------------------------------------------
def reader_key(parser: str) -> str:
    """What besides the content decides how a document reads."""
    libraries = LIBRARIES if parser == "auto" else (*LIBRARIES, parser)
    return " ".join([f"gswa-{READER_VERSION}", parser, *map(_versioned, libraries)])


def _versioned(library: str) -> str:
    return f"{library}-{metadata.version(library)}"


def cache_key(row: Row, reader: str) -> str:
    by = _versioned("unstructured") if suffix(row) in MORE_FORMATS else ""
    return hashlib.sha256(f"{row.sha256} {suffix(row)} {reader} {by}".encode()).hexdigest()[:16]


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
        document = document.model_copy(update={"source": row.source})
        write_atomically(path.with_name(row.file), document.model_dump_json())
    return row.read_as(document)


def _worth_another_try(known: Row, path: Path) -> bool:
    """Whether a file that ended by want of time or memory or by a crash is read again.

    The next run reads it again, in case the machine was to blame. One that failed twice is believed for a day from when it was
    read: it costs its time limit, a minute, once a day and not in every run.
    """
    believed = known.failures >= TRIES and time.time() - path.stat().st_mtime < SECONDS_BELIEVED
    return known.status in OF_THE_MOMENT and not believed


def _remove_stale(parsed: Path, keep: set[str]) -> None:
    """Documents whose file left the corpus. What we did not write stays."""
    for path in parsed.glob("*.json"):
        if OURS.fullmatch(path.name) and path.name not in keep and _is_ours(path):
            path.unlink()


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(200)
    return head.startswith(b'{"schema_version":') and b'"source":' in head


# -- near duplicates -------------------------------------------------------------------------------------------------------
def with_groups(rows: Sequence[Row], before: Report | None) -> list[Row]:
    """Each usable row with its group, and the first of it by name. A document that was grouped before keeps its group's name:
    what is held out goes by that name, and a new paper must move no other."""
    usable = [row for row in rows if row.usable]
    first = alike([row.signature for row in usable], [_long_title(row.title) for row in usable])
    named = {row.sha256: row.group for row in before.rows if row.group} if before else {}
    members: dict[int, list[Row]] = defaultdict(list)
    for row, index in zip(usable, first, strict=True):
        members[index].append(row)
    grouped = {}
    for group in members.values():
        names = Counter(named[row.sha256] for row in group if row.sha256 in named)
        name = min(names, key=lambda name: (-names[name], name)) if names else min(row.sha256 for row in group)[:16]
        for row in group:
            grouped[row.source] = row.model_copy(update={"group": name, "like": group[0].source if row is not group[0] else ""})
    return [grouped.get(row.source, row) for row in rows]


def _long_title(title: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in title.lower()).split()
    return " ".join(words) if len(words) >= LONG_TITLE else ""


def _changed(rows: Sequence[Row], before: Report | None) -> bool:
    return before is None or [(row.source, row.file) for row in rows] != [(row.source, row.file) for row in before.rows]


def _corpus(parsed: Path, report: Report) -> Corpus:
    usable = sum(row.usable for row in report.rows)
    if not usable:
        reasons = "; ".join(f"{row.source}: {row.reason or row.status}" for row in report.rows[:3])
        raise CorpusError(f"no document with usable text among {len(report.rows)} files ({reasons}); see {parsed / 'report.md'}")
    return Corpus(report.fingerprint, parsed, usable, len(report.rows), len(report.rows) - usable)
