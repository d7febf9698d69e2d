"""A large corpus: how fast it is read, in how much memory, and how fast when nothing changed.

    python benchmarks/parse_scale.py [--files 4000] [--source FOLDER]
    python benchmarks/parse_scale.py --corpus FOLDER        a folder as it is, such as files made to break readers

The files are made from those of FOLDER (PDF, DOCX, TXT; the sample corpus by default): a TXT or DOCX with its words changed
here and there, a PDF with another trailer, so that no two have the same bytes. Prints one JSON line. CPU seconds are those of
all processes; memory is the largest resident set of any child, and of the parent; `statuses` counts every file once.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from machine import machine

from gswa.corpus.index import parse_corpus
from gswa.corpus.report import read_report
from gswa.errors import CorpusError

SAMPLE = Path(__file__).parents[1] / "data" / "sample_corpus"
KIB = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss, in bytes


def changed_text(source: Path, target: Path, chance: random.Random) -> None:
    target.write_bytes(_shuffled(source.read_bytes(), chance))


def changed_docx(source: Path, target: Path, chance: random.Random) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry, _shuffled(content, chance) if entry.filename == "word/document.xml" else content)


def _shuffled(content: bytes, chance: random.Random) -> bytes:
    """Every use of one of the longer words replaced by another such word."""
    words = sorted({word for word in content.split() if len(word) > 6 and word.isalpha()})
    for _ in range(20):
        content = content.replace(b" " + chance.choice(words) + b" ", b" " + chance.choice(words) + b" ")
    return content


def changed_pdf(source: Path, target: Path, chance: random.Random) -> None:
    target.write_bytes(source.read_bytes() + b"\n%% copy %d\n%%%%EOF\n" % chance.getrandbits(64))


MAKERS: dict[str, Callable[[Path, Path, random.Random], None]] = {".txt": changed_text, ".docx": changed_docx, ".pdf": changed_pdf}


def make_corpus(source: Path, folder: Path, files: int) -> None:
    originals = [path for path in sorted(source.iterdir()) if path.suffix in MAKERS]
    chance = random.Random(0)
    for number in range(files):
        original = originals[number % len(originals)]
        target = folder / f"{number % 40:02d}" / f"{number:05d}-{original.name}"
        target.parent.mkdir(exist_ok=True)
        MAKERS[original.suffix](original, target, chance)


def cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def parse(raw: Path, parsed: Path) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        parse_corpus(raw, parsed)
    except CorpusError as error:
        print(error, file=sys.stderr)
    return time.perf_counter() - wall, cpu_seconds() - cpu


def measure(raw: Path, parsed: Path) -> dict[str, object]:
    wall, cpu = parse(raw, parsed)
    again, _ = parse(raw, parsed)
    report = read_report(parsed)
    rows = report.rows if report else ()
    pages = sum(row.pages or 0 for row in rows)
    return {
        "files": len(rows),
        "pages": pages,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "pages_per_cpu_second": round(pages / cpu, 1),
        "second_run_seconds": round(again, 2),
        "largest_child_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KIB >> 20,
        "parent_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB >> 20,
        "statuses": dict(Counter(row.status for row in rows).most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--source", type=Path, default=SAMPLE)
    parser.add_argument("--corpus", type=Path)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        raw = asked.corpus or folder / "raw"
        if asked.corpus is None:
            raw.mkdir()
            make_corpus(asked.source, raw, asked.files)
        print(json.dumps({"benchmark": "parse_scale", **measure(raw, folder / "parsed"), "machine": machine()}))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
