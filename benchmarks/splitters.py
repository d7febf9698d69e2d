"""A text splitter and the tokenizer it counts by, timed in one process; run by benchmarks/chunking.py.

    python splitters.py CONTESTANT FOLDER_OF_TOKENIZER TEXTS.json OUT.json CAPACITY REPEATS

CONTESTANT is semantic-text-splitter, langchain, a chunker of chonkie, or gswa:STRATEGY:LIMIT. Only the contestant's own
environment is needed. Seconds are of CPU and one thread; each repeat times the tokenizer's encode_batch of the same texts too.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer

Split = Callable[[list[str]], list[list[str]]]


def semantic(tokenizer: Tokenizer, capacity: int) -> Split:
    from semantic_text_splitter import TextSplitter

    splitter = TextSplitter.from_huggingface_tokenizer(tokenizer, capacity)
    return lambda texts: [splitter.chunks(text) for text in texts]


def langchain(tokenizer: Tokenizer, capacity: int) -> Split:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    splitter = RecursiveCharacterTextSplitter(chunk_size=capacity, chunk_overlap=0, length_function=tokens)
    return lambda texts: [splitter.split_text(text) for text in texts]


def chonkie(tokenizer: Tokenizer, capacity: int, kind: str) -> Split:
    import chonkie as library

    chunker = getattr(library, kind)(tokenizer, chunk_size=capacity, **({"chunk_overlap": 0} if kind != "RecursiveChunker" else {}))
    return lambda texts: [[chunk.text for chunk in chunker.chunk(text)] for text in texts]


def gswa(folder: str, strategy: str, limit: int) -> Split:
    from gswa.dataset import load_tokenizer
    from gswa.measure import word_counts
    from gswa.parts import Rules, split_examples
    from gswa.records import Example, Message

    rules = Rules(load_tokenizer(folder), limit, strategy)  # type: ignore[arg-type]

    def split(texts: list[str]) -> list[list[str]]:
        word_counts.cache_clear()  # every repeat begins knowing no word
        asked = Message(role="user", content="Write the paper.")
        examples = (Example(id=str(n), messages=(asked, Message(role="assistant", content=text))) for n, text in enumerate(texts))
        divided = list(split_examples(examples, rules))
        split.tokens = [[chunk.tokens for chunk in one.chunks] for one in divided]  # type: ignore[attr-defined]
        return [[chunk.target for chunk in one.chunks] for one in divided]

    return split


def contestant(name: str, folder: str, tokenizer: Tokenizer, capacity: int) -> Split:
    if name.startswith("gswa:"):
        _, strategy, limit = name.split(":")
        return gswa(folder, strategy, int(limit))
    if name == "semantic-text-splitter":
        return semantic(tokenizer, capacity)
    if name == "langchain":
        return langchain(tokenizer, capacity)
    return chonkie(tokenizer, capacity, name.removeprefix("chonkie "))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    began = time.process_time()
    done = work()
    return time.process_time() - began, done


def main(name: str, folder: str, texts_file: str, out: str, capacity: int, repeats: int) -> None:
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    split = contestant(name, folder, Tokenizer.from_file(f"{folder}/tokenizer.json"), capacity)
    encoding, splitting, pieces = [], [], []
    for _ in range(repeats):
        seconds, _encoded = timed(lambda: len(tokenizer.encode_batch(texts, add_special_tokens=False)))
        encoding.append(seconds)
        seconds, pieces = timed(lambda: split(texts))
        splitting.append(seconds)
    found = {"encoding": encoding, "splitting": splitting, "pieces": pieces, "tokens": getattr(split, "tokens", None)}
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument in ("name", "folder", "texts_file", "out"):
        parser.add_argument(argument)
    for argument in ("capacity", "repeats"):
        parser.add_argument(argument, type=int)
    main(**vars(parser.parse_args()))
