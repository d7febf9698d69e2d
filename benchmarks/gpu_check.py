"""All checks that need a GPU, one JSON line each: the card made to look like each of the guide's, and the run carried through.

    python benchmarks/gpu_check.py          (or: make gpu-check)

For 4, 8, 16, 24 and 48 GB: a random base of about 1.2 B parameters (no hub is asked), the guide's row for that card, a real
limit on the allocator, and the ladder walked as far as it takes. Then a micro-batch that cannot fit 4 GB, which must be
survived, and the same losses with and without a batch rung. Ends with exit 1 where a check failed, and 3 without a GPU.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine

from gswa import attempt, hardware
from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import Layer, RunRequest, resolve
from gswa.errors import GswaError, OutOfMemory
from gswa.files import write_lines
from gswa.profiles import number_format, row_for
from gswa.records import Example, Message
from gswa.rundir import RunDir

CARDS_GB = (4, 8, 16, 24, 48)
SHAPE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8}


def random_base(folder: Path, **shape: int) -> Path:
    """A Llama of random weights with the built-in tokenizer, in bf16."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(BUILTIN_FOLDER)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, tie_word_embeddings=True, **shape)  # type: ignore[arg-type]
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_run(folder: Path, base: Path, **settings: Any) -> RunDir:
    run = RunDir.create(folder)
    words = "the cell divides and we measured its growth under light in every culture. "
    for split, count in (("train", 32), ("valid", 4), ("test", 4)):
        texts = (words * (20 + n) for n in range(count))
        chats = ((Message(role="user", content="Go on."), Message(role="assistant", content=text)) for text in texts)
        write_lines(run.examples / f"{split}.jsonl", (Example(id=f"{split}{n}", messages=chat) for n, chat in enumerate(chats)))
    given = {"model_id": str(base), "iters": 4, "evaluations": 1, "learning_rate": 2e-4, **settings}
    run.write_config(RunRequest(), resolve(Layer("check", given)))
    return run


def walk(run: RunDir) -> None:
    while True:
        try:
            return attempt.train(run)
        except OutOfMemory as error:
            if not attempt.step_down(run, error):
                raise


def card(base: Path, folder: Path, gigabytes: int, common: dict[str, Any]) -> dict[str, Any]:
    """The guide's row for a card of this size, under a limit of this size."""
    row = row_for("cuda", gigabytes)
    settings = {"batch_size": row.batch_size, "max_seq_length": row.max_seq_length, "quantization": row.quantization}
    return trained(make_run(folder, base, **common, **settings, gradient_checkpointing=True, memory_limit_gb=float(gigabytes)))


def survives(base: Path, folder: Path, common: dict[str, Any]) -> dict[str, Any]:
    """A micro-batch far too large for 4 GB: at least one rung, and the end is reached."""
    run = make_run(folder, base, **common, batch_size=32, gradient_accumulation=1, max_seq_length=2048, memory_limit_gb=4.0)
    figures = trained(run)
    return {**figures, "ok": figures["ok"] and bool(figures["rungs"])}


def rung_is_exact(base: Path, folder: Path, common: dict[str, Any]) -> dict[str, Any]:
    """The losses of micro-batches of 4 and of 1 are the same, to what bf16 can tell."""
    runs = [make_run(folder, base, **common, batch_size=size, gradient_accumulation=8 // size) for size in (4, 1)]
    for run in runs:
        walk(run)
    first, second = ([step.train_loss for step in run.steps()] for run in runs)
    worst = max(abs(a - b) for a, b in zip(first, second, strict=True))
    return {"ok": worst < 0.02, "largest_difference": worst}


def trained(run: RunDir) -> dict[str, Any]:
    walk(run)
    steps = run.steps()
    return {
        "ok": [step.step for step in steps] == [1, 2, 3, 4],
        "rungs": [event.rung for event in run.fallbacks()],
        "peak_memory_gb": round(max(step.peak_memory_gb for step in steps), 2),
        "peak_reserved_gb": round(max(step.peak_reserved_gb or 0.0 for step in steps), 2),
        "tokens_per_sec": round(sorted(step.tokens_per_sec for step in steps)[len(steps) // 2], 1),
        "losses": [round(step.train_loss, 4) for step in steps],
    }


def said(name: str, check: Callable[[], dict[str, Any]]) -> bool:
    began = time.monotonic()
    try:
        figures = check()
    except GswaError as error:
        figures = {"ok": False, "error": str(error)}
    print(json.dumps({"check": name, **figures, "seconds": round(time.monotonic() - began, 1), **machine()}), flush=True)
    return bool(figures["ok"])


def main() -> int:
    found = hardware.probe()
    if found.device != "cuda":
        print(json.dumps({"check": "gpu", "ok": False, "error": "no NVIDIA GPU that the installed torch can use", **machine()}))
        return 3
    common = {"device": "cuda", "number_format": number_format(found)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = random_base(folder / "base", **SHAPE)
        checks = {f"card of {size} GB": (lambda size=size: card(base, folder, size, common)) for size in CARDS_GB if size < found.total_gb}
        checks["out of memory is survived"] = lambda: survives(base, folder, common)
        checks["a batch rung is exact"] = lambda: rung_is_exact(base, folder, common)
        return 0 if all([said(name, check) for name, check in checks.items()]) else 1


if __name__ == "__main__":
    sys.exit(main())
