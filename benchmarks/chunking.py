"""Splitting against the tokenizer's own encode_batch and against the text splitters that people use.

    python benchmarks/chunking.py --peers FOLDER [--texts FOLDER] [--tokenizer mistral] [--megabytes 4.5] [--limit 1024]
    python benchmarks/chunking.py --stream 500 [--texts FOLDER]          memory on a JSONL file of so many megabytes

One JSON line per contestant. `share_of_encode`: the tokenizer's own speed on the same texts, in the same process, is 1.
`over_bound`: chunks beside the fewest that the limit allows (tokens of text / room beside the prompt), `over_greedy`: beside
filling up with whole sentences. A chunk of GSWA is a chat, with an instruction and the words before it; the others get
the room that its instruction leaves. FOLDER of --texts holds .txt or .md files; else the standard library's docstrings are split.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from environments import python_with
from machine import machine

from gswa.basemodel import resolve_model
from gswa.basemodel.build import library_texts
from gswa.dataset import load_tokenizer, render
from gswa.parts import CONTINUE, Rules
from gswa.preprocess import preprocess_folder
from gswa.records import Message
from gswa.sentences import paragraph_starts, sentence_starts
from gswa.tokens import Line, Tokenizer, encode

HERE = Path(__file__).parent
PACKAGES = ["semantic-text-splitter==0.33.1", "langchain-text-splitters==1.1.3", "chonkie==1.7.0", "tokenizers==0.23.3"]
MISTRAL = ["mistral-common==1.13.1", "sentencepiece==0.2.3", "protobuf"]
PEERS = ("semantic-text-splitter", "langchain", "chonkie SentenceChunker", "chonkie RecursiveChunker", "chonkie TokenChunker")
STRATEGIES = ("auto", "paragraph", "sentence", "token")
DOCUMENT = 37_000  # characters: about a paper
TINY = 0.25  # of the room: a chunk below that is a scrap


# -- texts -----------------------------------------------------------------------------------------------------------------
def documents(folder: Path | None, megabytes: float) -> list[str]:
    texts, size = [], 0.0
    for text in _files(folder) if folder else _docstrings():
        if size >= megabytes:
            break
        texts.append(text)
        size += len(text.encode()) / 1e6
    return texts


def _files(folder: Path) -> Iterator[str]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".md"))
    return (path.read_text(encoding="utf-8") for path in paths)


def _docstrings() -> Iterator[str]:
    held: list[str] = []
    for text in library_texts():
        held.append(text)
        if sum(map(len, held)) > DOCUMENT:
            yield "\n\n".join(held)
            held = []


def tokenizer_folder(name: str, peers: Path) -> Path:
    if name != "mistral":
        return resolve_model(name)
    folder = peers.absolute() / "mistral_tokenizer"
    if not (folder / "tokenizer.json").is_file():
        python = python_with(peers, "mistral_common", [*MISTRAL, PACKAGES[-1]])
        subprocess.run([python, HERE / "mistral_tokenizer.py", folder], check=True)
    return folder


# -- what there is to reach --------------------------------------------------------------------------------------------------
def overhead(tokenizer: Tokenizer, asked: str) -> int:
    """Tokens of a chat beside the words of its answer."""
    return len(render(tokenizer, [Message(role="user", content=asked), Message(role="assistant", content=".")]).ids) - 1


def fewest(lengths: list[int], first: int, rest: int) -> int:
    """Chunks if every one of them were full."""
    return sum(1 + max(0, math.ceil((length - first) / rest)) for length in lengths)


def greedy(tokenizer: Tokenizer, texts: list[str], first: int, rest: int) -> int:
    """Chunks if each took whole sentences as long as they fit; a sentence over the room is cut wherever it is full."""
    chunks = 0
    for text in texts:
        line = Line(text)
        encode(tokenizer, [line])
        starts = [line.place(start) for start in sorted({*sentence_starts(text), *paragraph_starts(text)})]
        edges = [0, *(int((line.places.ends <= start).sum()) for start in starts), len(line.ids)]
        room, held = first, 0
        chunks += 1
        for size in (after - before for before, after in pairwise(edges)):
            if held + size <= room:
                held += size
                continue
            more = math.ceil(size / rest)
            chunks, room, held = chunks + more, rest, size - (more - 1) * rest
    return chunks


# -- contestants -------------------------------------------------------------------------------------------------------------
def run(python: Path, name: str, folder: Path, texts: list[str], capacity: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as room:
        given, made = Path(room) / "texts.json", Path(room) / "made.json"
        given.write_text(json.dumps(texts), encoding="utf-8")
        subprocess.run([python, HERE / "splitters.py", name, folder, given, made, str(capacity), str(repeats)], check=True)
        return dict(json.loads(made.read_text(encoding="utf-8")))


def is_lossless(text: str, pieces: list[str]) -> bool:
    """Whether the pieces say the text, in order, but for white space."""
    return "".join("".join(pieces).split()) == "".join(text.split())


def judged(tokenizer: Tokenizer, texts: list[str], found: dict[str, Any], capacity: int, limit: int) -> dict[str, Any]:
    pieces = [piece for some in found["pieces"] for piece in some]
    lines = [Line(piece) for piece in pieces]
    encode(tokenizer, lines)
    own = found["tokens"]
    tokens = [count for some in own for count in some] if own else [len(line.ids) for line in lines]
    most = limit if own else capacity
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    return {
        "chunks": len(pieces),
        "over_limit": sum(count > most for count in tokens),
        "longest": max(tokens),
        "lossless": all(is_lossless(text, some) for text, some in zip(texts, found["pieces"], strict=True)),
        "tiny_percent": round(100 * sum(len(line.ids) < TINY * capacity for line in lines) / len(lines), 1),
        "mb_per_cpu_s": round(megabytes / min(found["splitting"]), 2),
        "share_of_encode": round(min(found["encoding"]) / min(found["splitting"]), 2),
    }


def compare(asked: argparse.Namespace) -> None:
    texts = documents(asked.texts, asked.megabytes)
    folder = tokenizer_folder(asked.tokenizer, asked.peers)
    tokenizer = load_tokenizer(folder)
    rest, first = asked.limit - overhead(tokenizer, CONTINUE), asked.limit - overhead(tokenizer, "Write the paper.")
    lines = [Line(text) for text in texts]
    encode(tokenizer, lines)
    bound = fewest([len(line.ids) for line in lines], first, rest)
    sentences = greedy(tokenizer, texts, first, rest)
    setting = {"benchmark": "chunking", "tokenizer": asked.tokenizer, "limit": asked.limit, "documents": len(texts)}
    setting |= {"megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 2), "bound": bound, "greedy_sentences": sentences}
    ours = [(Path(sys.executable), f"gswa:{strategy}:{asked.limit}") for strategy in STRATEGIES]
    theirs = [(python_with(asked.peers, "splitters", PACKAGES), name) for name in PEERS]
    for python, name in ours + theirs:
        found = judged(tokenizer, texts, run(python, name, folder, texts, rest, asked.repeats), rest, asked.limit)
        shares = {"over_bound": round(found["chunks"] / bound - 1, 3), "over_greedy": round(found["chunks"] / sentences - 1, 3)}
        print(json.dumps({**setting, "contestant": name, **found, **shares, **machine()}), flush=True)


# -- memory ------------------------------------------------------------------------------------------------------------------
def stream(asked: argparse.Namespace) -> None:
    """A JSONL file of that size, of documents over and over, preprocessed by this process."""
    texts = documents(asked.texts, 20)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as room:
        source, size, number = Path(room) / "train.jsonl", 0, 0
        with source.open("w", encoding="utf-8") as out:
            while size < asked.stream * 1e6:
                size += out.write(json.dumps({"id": f"document-{number}", "text": texts[number % len(texts)]}) + "\n")
                number += 1
        rules = Rules(load_tokenizer(resolve_model(asked.tokenizer)), asked.limit)
        before = resource.getrusage(resource.RUSAGE_SELF)
        stats = preprocess_folder(source, Path(room) / "chunks", rules)
        after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    split = stats.splits["all"]
    found: dict[str, object] = {"benchmark": "chunking", "contestant": "gswa preprocess", "tokenizer": asked.tokenizer}
    found |= {"jsonl_mb": round(size / 1e6), "examples": number, "chunks": split.after.count, "cpu_s": round(seconds, 1)}
    found |= {"mb_per_cpu_s": round(size / 1e6 / seconds, 2), "peak_rss_mb": round(after.ru_maxrss / 1024)}
    found |= {"rss_before_mb": round(before.ru_maxrss / 1024), "over_limit": split.over_limit_after}
    print(json.dumps({**found, "conserved": stats.conservation["holds"], **machine()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path(".benchmarks"), help="folder for the peers' environments (default: %(default)s)")
    parser.add_argument("--texts", type=Path, help="folder of .txt or .md files")
    parser.add_argument("--tokenizer", default="smollm2-135m", help="mistral, or a base model (default: %(default)s)")
    parser.add_argument("--megabytes", type=float, default=4.5, help="of text (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=1024, help="tokens (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (default: %(default)s)")
    parser.add_argument("--stream", type=float, help="megabytes of JSONL to preprocess, in place of the comparison")
    parser.add_argument("--scratch", type=Path, help="folder for the JSONL file and its chunks")
    asked = parser.parse_args()
    stream(asked) if asked.stream else compare(asked)


if __name__ == "__main__":
    main()
