"""How well papers are read, against their exact text: NAME.truth.json beside NAME.pdf, .docx or .txt (also NAME.variant.pdf).

    python benchmarks/parse_quality.py [FOLDER] [--parser auto] [--show]

Prints one JSON line with a row per document, and --show also prints each paragraph that was missed.

    order_recall  words of the truth found in the same order (longest common subsequence), as a share of them
    noise         share of the words read as body that are not among those
    paragraphs    share of the truth's paragraphs of 25 words and more that are one block of body text, 95 % similar or more

Body is what is trained on and what stands over it: title, headings, paragraphs; acknowledgements too, since the truth has them.
Words are compared in lower case, without the differences between kinds of quotes, dashes and compatibility characters.
"""

import argparse
import json
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import machine

from gswa.corpus.isolate import Job, read_all
from gswa.corpus.report import Row
from gswa.records import Document

BODY = ("title", "heading", "paragraph", "acknowledgement")
LONG = 25  # words of a paragraph that counts
SIMILAR = 0.95
ALIKE = str.maketrans({**dict.fromkeys("‘’", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("‐‑‒–—―−", "-")})
WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).translate(ALIKE).lower())


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by Hyyrö's bit-parallel recurrence (one long integer per word of `b`)."""
    places: dict[str, int] = defaultdict(int)
    for at, word in enumerate(a):
        places[word] |= 1 << at
    row = full = (1 << len(a)) - 1
    for word in b:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(a) - row.bit_count()


def similar(a: Sequence[str], b: Sequence[str]) -> float:
    return 2 * common(a, b) / max(len(a) + len(b), 1)


def missed(truth: list[list[str]], blocks: list[list[str]]) -> Iterator[tuple[list[str], float]]:
    """Paragraphs that no block is, each with the likeness of the nearest one."""
    holders: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for number, block in enumerate(blocks):
        for at in range(len(block) - 2):
            holders[tuple(block[at : at + 3])].add(number)
    for paragraph in truth:
        votes = Counter(n for at in range(0, len(paragraph) - 2, 3) for n in holders.get(tuple(paragraph[at : at + 3]), ()))
        best = max((similar(paragraph, blocks[n]) for n, _ in votes.most_common(3)), default=0.0)
        if best < SIMILAR:
            yield paragraph, best


def score(document: Document, truth: dict[str, Any], show: bool) -> dict[str, object]:
    expected = words(" ".join(block["text"] for block in truth["blocks"]))
    found = words(" ".join(block.text for block in document.blocks if block.kind in BODY))
    shared = common(expected, found)
    paragraphs = [p for p in (words(block["text"]) for block in truth["blocks"] if block["kind"] == "p") if len(p) >= LONG]
    lost = list(missed(paragraphs, [words(block.text) for block in document.blocks if block.kind == "paragraph"]))
    for paragraph, likeness in lost if show else ():
        print(f"  {document.source} {likeness:.2f} {' '.join(paragraph[:12])} … {' '.join(paragraph[-8:])}")
    return {
        "file": document.source,
        "status": document.status,
        "order_recall": round(shared / len(expected), 4),
        "noise": round(1 - shared / max(len(found), 1), 4),
        "paragraphs": round(1 - len(lost) / len(paragraphs), 4),
        "of": len(paragraphs),
    }


def with_truth(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.iterdir()):
        for stem in (path.stem, path.stem.rpartition(".")[0]):
            truth = folder / f"{stem}.truth.json"
            if stem and path.suffix.lower() != ".json" and truth.is_file():
                yield path, json.loads(truth.read_text(encoding="utf-8"))
                break


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parents[1] / "tests" / "data" / "corpus")
    parser.add_argument("--parser", default="auto")
    parser.add_argument("--show", action="store_true")
    asked = parser.parse_args()
    truths = dict(with_truth(asked.folder))
    jobs = [Job(path, Row(source=path.name, status="ok"), asked.parser) for path in truths]
    rows = [score(Document.model_validate_json(outcome.document), truths[job.path], asked.show) for job, outcome in read_all(jobs)]
    means = {name: round(statistics.mean(float(str(row[name])) for row in rows), 4) for name in ("order_recall", "noise", "paragraphs")}
    print(json.dumps({"benchmark": "parse_quality", "parser": asked.parser, "mean": means, "documents": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
