"""report.json and report.md: one row for every file of the corpus, also for those set aside."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from gswa.corpus.clean import count_words
from gswa.corpus.similar import signature
from gswa.files import write_atomically
from gswa.records import OF_THE_MOMENT, READABLE, BlockKind, Document, Record, Status

KINDS: dict[BlockKind, str] = {
    "reference": "references",
    "caption": "captions",
    "note": "notes, footnotes and small print",
    "acknowledgement": "acknowledgements, funding, contributions",
    "affiliation": "authors and affiliations",
    "heading": "headings",
    "title": "titles",
    "other": "tables, labels, formulas, lists of names",
}
ROWS_IN_ARTIFACT = 500


class Row(Record):
    """One file. `file` is its document in the parsed folder, `stamp` its size, mtime and ctime in ns when it was hashed.

    `group` names the documents that say nearly the same, `like` the first of them by name where that is another one.
    `left_out` counts words by the kind of the blocks that are kept and not trained on. `failures` counts how often in a row
    reading it ended by want of time or memory or by a crash.
    """

    source: str
    status: Status
    reason: str = ""
    title: str = ""
    language: str = ""
    pages: int | None = None
    words: int = 0
    paragraphs: int = 0
    left_out: dict[BlockKind, int] = Field(default_factory=dict)
    group: str = ""
    like: str = ""
    sha256: str = ""
    file: str = ""
    stamp: tuple[int, int, int] = (0, 0, 0)
    signature: str = ""
    failures: int = 0

    @property
    def usable(self) -> bool:
        """Read, and with paragraphs to train on."""
        return self.status in READABLE and self.paragraphs > 0

    def read_as(self, document: Document) -> "Row":
        """With what there is to say of the document that the file was read as."""
        readable = document.status in READABLE
        words: Counter[BlockKind] = Counter()
        for block in document.blocks if readable else ():
            words[block.kind] += count_words(block.text)
        prose = [block.text for block in document.blocks if block.kind == "paragraph"] if readable else []
        figures = {
            "status": document.status,
            "reason": document.reason,
            "title": document.title,
            "language": document.language,
            "pages": document.pages,
            "words": words.pop("paragraph", 0),
            "paragraphs": len(prose),
            "left_out": dict(words),
            "signature": signature(" ".join(prose)),
            "failures": self.failures + 1 if document.status in OF_THE_MOMENT else 0,
        }
        return self.model_copy(update=figures)


class Report(Record):
    """What the last parse found; `read` of the files were read anew, the other documents came from the cache."""

    schema_version: int = 2
    reader: str
    parser: str
    fingerprint: str
    read: int
    from_cache: int
    rows: tuple[Row, ...]


def read_report(parsed: Path) -> Report | None:
    """None where there is none, or one that this version cannot read: then everything is read anew."""
    try:
        return Report.model_validate_json((parsed / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None


def write_report(parsed: Path, report: Report) -> None:
    write_atomically(parsed / "report.json", report.model_dump_json() + "\n")
    write_atomically(parsed / "report.md", markdown(report))


def markdown(report: Report, most: int | None = None) -> str:
    """At most so many rows, those of files set aside first; the summary counts all."""
    rows = sorted(report.rows, key=lambda row: (row.usable, row.source))
    shown = rows if most is None else rows[:most]
    lines = [
        "# Corpus report",
        "",
        *_summary(report),
        "",
        "| File | Status | Pages | Paragraphs | Words | Left out | Language | Remark |",
        "|---|---|---:|---:|---:|---:|---|---|",
        *map(_line, shown),
    ]
    if len(shown) < len(rows):
        lines += ["", f"{len(rows) - len(shown):,} more files, all of them read, are in `report.md` of the parsed corpus."]
    return "\n".join(lines) + "\n"


def of_folder(parsed: Path) -> str:
    """The report of a parsed corpus, short enough for a dashboard."""
    report = read_report(parsed)
    return markdown(report, ROWS_IN_ARTIFACT) if report else ""


def _summary(report: Report) -> list[str]:
    usable = [row for row in report.rows if row.usable]
    pages = sum(row.pages or 0 for row in usable)
    like = sum(bool(row.like) for row in usable)
    left_out: Counter[BlockKind] = Counter()
    for row in usable:
        left_out.update(row.left_out)
    lines = [
        f"{len(usable):,} of {len(report.rows):,} files can be trained on: {sum(row.paragraphs for row in usable):,} paragraphs, "
        f"{sum(row.words for row in usable):,} words, {pages:,} pages of PDF. "
        f"{report.read:,} read now, {report.from_cache:,} from the cache.",
        f"Status: {_counts(row.status for row in report.rows)}.",
        f"Languages: {_counts(row.language or 'unknown' for row in usable) or 'none'}.",
    ]
    if like:
        lines.append(f"Near duplicates: {like:,} files say nearly the same as another one. They stay together when papers are held out.")
    if left_out:
        kinds = ", ".join(f"{KINDS[kind]} {count:,}" for kind, count in left_out.most_common())
        lines.append(f"Kept but not trained on, in words: {kinds}.")
    return [part for line in lines for part in (line, "")][:-1]


def _counts(names: Iterable[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in Counter(names).most_common())


def _line(row: Row) -> str:
    pages = row.pages if row.pages is not None else ""
    like = f"nearly the same text as {row.like}" if row.like else ""
    remark = "; ".join(filter(None, (row.reason, like)))
    left_out = sum(row.left_out.values())
    return (
        f"| {_cell(row.source)} | {row.status} | {pages} | {row.paragraphs:,} | {row.words:,} | {left_out:,} "
        f"| {row.language} | {_cell(remark)} |"
    )


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
