"""Bases of random weights, and runs on them: no hub is asked, and any shape can be had."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import Layer, RunRequest, resolve
from gswa.files import write_json, write_lines
from gswa.hardware import probe
from gswa.records import Example, Message
from gswa.rundir import RunDir

WORDS = "the cell divides and we measured its growth under light in every culture. "


def random_base(folder: Path, config: Mapping[str, Any], number_format: str = "bfloat16") -> Path:
    """A model of this config.json with the built-in tokenizer, whatever its vocabulary's size is. Made on the GPU where there is one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    settings = {name: value for name, value in config.items() if name != "model_type"}
    full = AutoConfig.for_model(
        config["model_type"], max_position_embeddings=4096, bos_token_id=0, eos_token_id=2, pad_token_id=3, **settings
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(full, dtype=getattr(torch, number_format)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUILTIN_FOLDER).save_pretrained(folder)
    return folder


def make_run(folder: Path, base: Path, sentences: int = 20, **settings: Any) -> RunDir:
    """With 32 chats to train on, of `sentences` sentences and more, each of about 20 tokens."""
    run = RunDir.create(folder)
    for split, count in (("train", 32), ("valid", 4), ("test", 4)):
        texts = (WORDS * (sentences + n) for n in range(count))
        chats = ((Message(role="user", content="Go on."), Message(role="assistant", content=text)) for text in texts)
        write_lines(run.examples / f"{split}.jsonl", (Example(id=f"{split}{n}", messages=chat) for n, chat in enumerate(chats)))
    given = {"model_id": str(base), "iters": 4, "evaluations": 1, "learning_rate": 2e-4, **settings}
    run.write_config(RunRequest(), resolve(Layer("benchmark", given)))
    write_json(run.hardware_file, probe().model_dump(mode="json"))
    return run
