"""What many tests share: the built-in model's tokenizer, and a small run whose papers were prepared."""

import os
from pathlib import Path

import pytest
from chats import chat

from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import Layer, RunRequest, resolve
from gswa.dataset import Tokenizer, load_tokenizer
from gswa.files import write_lines
from gswa.records import SPLITS
from gswa.rundir import RunDir


@pytest.fixture(scope="session", autouse=True)
def no_traces_in_the_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Base models that a test fetches or quantises are not the user's; matplotlib's list of fonts takes seconds to make."""
    mine = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("MPLCONFIGDIR", str(mine / "matplotlib"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer(BUILTIN_FOLDER)


@pytest.fixture
def tiny_run(tmp_path: Path) -> RunDir:
    """Settled on 256 tokens, with three examples in each split: two that fit and one of about 800 tokens."""
    run = RunDir.create(tmp_path / "runs")
    run.write_config(RunRequest(), resolve(Layer("test", {"max_seq_length": 256})))
    for split in SPLITS:
        texts = (
            "A short answer.",
            "Another one.",
            "\n\n".join(f"Paragraph {n} says that much in plain words. And more." for n in range(40)),
        )
        write_lines(run.examples / f"{split}.jsonl", (chat(f"{split}-{n}", text) for n, text in enumerate(texts)))
    return run
