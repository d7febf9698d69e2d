"""A training job on the built-in model: chunks of a few words, in splits as a run has them."""

from pathlib import Path

from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import Layer, RunRequest, resolve
from gswa.cursor import write_order
from gswa.dataset import Tokenizer, render
from gswa.files import write_lines
from gswa.records import Chunk, Message, TrainJob
from gswa.rundir import RunDir

WORDS = ["the", "cell", "divides", "and", "we", "measured", "its", "growth", "under", "light", "in", "every", "culture"]


def chunk(tokenizer: Tokenizer, number: int, words: int) -> Chunk:
    text = " ".join(WORDS[(number + i * i) % len(WORDS)] for i in range(words)) + "."
    messages = (Message(role="user", content="Continue the section."), Message(role="assistant", content=text))
    rendered = render(tokenizer, messages)
    return Chunk(id=str(number), messages=messages, span=(0, len(text)), tokens=len(rendered.ids), target_tokens=sum(rendered.mask))


def make_job(folder: Path, tokenizer: Tokenizer, action: str = "train", **settings: object) -> TrainJob:
    """24 training chunks of 10 to 80 words in optimizer steps of 4: six an epoch."""
    run = RunDir.create(folder)
    for split, numbers in (("train", range(24)), ("valid", range(30, 34)), ("test", range(40, 44))):
        write_lines(run.chunks(1024) / f"{split}.jsonl", (chunk(tokenizer, n, 10 + 7 * (n % 11)) for n in numbers))
    defaults = {"batch_size": 2, "gradient_accumulation": 2, "epochs": 1, "learning_rate": 5e-3, "evaluations": 2, "lora_rank": 4}
    settled = resolve(Layer("test", {**defaults, **settings}))
    run.write_config(RunRequest(), settled)
    write_order(run, settled.config, start=0)
    return TrainJob(action=action, run=run.path, model=str(BUILTIN_FOLDER), data=run.chunks(1024), config=settled.config)
