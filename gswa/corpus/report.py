"""report.json and report.md: one row for every file of the corpus, also for those set aside."""

from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from gswa.files import write_atomically
from gswa.records import READABLE, Record, Status


class Row(Record):
    """One file. `file` is its document in the parsed folder, `stamp` its size, mtime and ctime in ns when it was hashed."""

    source: str
    status: Status
    reason: str = ""
    pages: int | None = None
    words: int = 0
    paragraphs: int = 0
    sha256: str = ""
    file: str = ""
    stamp: tuple[int, int, int] = (0, 0, 0)

    @property
    def usable(self) -> bool:
        """Read, and with paragraphs to train on."""
        return self.status in READABLE and self.paragraphs > 0


class Report(Record):
    """What the last parse found; `read` of the files were read anew, the other documents came from the cache."""

    schema_version: int = 1
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
    write_atomically(parsed / "report.json", report.model_dump_json(indent=1) + "\n")
    write_atomically(parsed / "report.md", markdown(report))


def markdown(report: Report) -> str:
    usable = [row for row in report.rows if row.usable]
    lines = [
        "# Corpus report",
        "",
        f"{len(usable)} of {len(report.rows)} files can be trained on: {sum(row.paragraphs for row in usable):,} paragraphs, "
        f"{sum(row.words for row in usable):,} words. {report.read} read now, {report.from_cache} from the cache.",
        "",
        "Status: " + ", ".join(f"{count} {status}" for status, count in Counter(row.status for row in report.rows).most_common()) + ".",
        "",
        "| File | Status | Pages | Paragraphs | Words | Remark |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in sorted(report.rows, key=lambda row: (row.usable, row.source)):
        pages = row.pages if row.pages is not None else ""
        lines.append(f"| {_cell(row.source)} | {row.status} | {pages} | {row.paragraphs:,} | {row.words:,} | {_cell(row.reason)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
