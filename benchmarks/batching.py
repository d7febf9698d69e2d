"""The two lossless ways to batch: rows of like length side by side, padded, against rows packed end to end into one line.

    python benchmarks/batching.py [--shape gswa-tiny|llama-15m|smollm2-135m] [--batch 4] [--limit 512] [--steps 3]

One JSON line: non-padding tokens per CPU second (on CUDA per second) of forward and backward passes over the same steps, taken in
turns, the best of each; the share that is padding; how far the summed losses differ. The rows have the lengths that chunks of
papers have.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine
from random_base import random_base
from training_assets import SHAPE

from gswa.backends.torch import packed
from gswa.backends.torch.data import collate, width_multiple
from gswa.backends.torch.model import add_adapter, load_base
from gswa.backends.torch.packed import pack, use_packed_attention
from gswa.basemodel import resolve_model
from gswa.config import RunConfig
from gswa.dataset import Rendered
from gswa.order import Turn, plan_steps
from gswa.packing import micro_batches

PROMPT = 30  # tokens without loss at the head of a row


def rows_of_papers(count: int, limit: int, vocabulary: int) -> list[Rendered]:
    """Half of them fill the limit, as chunks of long passages do; the others are what is left of a passage."""
    chance = random.Random(0)
    lengths = [limit if chance.random() < 0.5 else chance.randint(PROMPT + 20, limit) for _ in range(count)]
    return [
        Rendered([chance.randrange(5, vocabulary) for _ in range(length)], [place >= PROMPT for place in range(length)])
        for length in lengths
    ]


def seconds(model: Any, batches: list[dict[str, Any]]) -> tuple[float, float]:
    """Of forward and backward, and the summed loss."""
    clock = time.perf_counter if model.device.type == "cuda" else time.process_time
    began, loss = clock(), 0.0
    for batch in batches:
        one = model(**{name: value for name, value in batch.items() if name != "tokens"}, num_items_in_batch=1).loss
        one.backward()
        loss += float(one.detach())
    taken = clock() - began
    model.zero_grad(set_to_none=True)
    return taken, loss


def model_of(shape: str, config: RunConfig) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        if shape == "llama-15m":
            path = random_base(Path(scratch) / "base", {"model_type": "llama", "vocab_size": 4096, **SHAPE})
        else:
            path = resolve_model(shape)
        base = load_base(str(path), config)
    assert config.device == "cpu" or use_packed_attention(base), "no kernel for packed lines on this card"
    model = add_adapter(base, config)
    model.train()
    return model


def batches_of(rows: list[Rendered], config: RunConfig, capacity: int | None) -> list[dict[str, Any]]:
    """All steps' micro-batches, on the device."""
    lengths, effective = [len(row.ids) for row in rows], config.effective_batch_size
    planned = plan_steps([[Turn(n) for n in range(len(rows))]], lengths, effective, 0)
    steps = [[turn.chunk for turn in step] for step in planned]
    micro = [[rows[i] for i in some] for step in steps for some in micro_batches(step, config.batch_size, lengths, capacity) if some]
    made = [pack(some) if capacity else collate(some, 0, width_multiple(config)) for some in micro]
    return [{n: v.to(config.device) if torch.is_tensor(v) else v for n, v in batch.items()} for batch in made]


def compare(model: Any, rows: list[Rendered], config: RunConfig, repeats: int) -> dict[str, Any]:
    usual = model.config._attn_implementation
    tokens, longest = sum(len(row.ids) for row in rows), max(len(row.ids) for row in rows)
    given = {"length-grouped": batches_of(rows, config, None), "best-fit packing": batches_of(rows, config, config.batch_size * longest)}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in given}
    for _ in range(repeats + 1):  # the first is not counted
        for way, batches in given.items():
            model.base_model.model.set_attn_implementation(usual if way == "length-grouped" else packed.register())
            found[way].append(seconds(model, batches))
    speeds = {way: round(tokens / min(taken for taken, _ in each[1:]), 1) for way, each in found.items()}
    places = {way: sum(batch["input_ids"].numel() for batch in batches) for way, batches in given.items()}
    grouped, lines = (each[-1][1] for each in found.values())
    return {
        "tokens": tokens,
        "tokens_per_s": speeds,
        "packing_to_grouped": round(speeds["best-fit packing"] / speeds["length-grouped"], 3),
        "micro_batches": {way: len(batches) for way, batches in given.items()},
        "padding": {way: round(1 - tokens / count, 4) for way, count in places.items()},
        "loss_differs_by": abs(lines / grouped - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-15m", choices=["gswa-tiny", "llama-15m", "smollm2-135m"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--format", default="fp32", choices=["fp32", "bf16"])
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = {"batch_size": asked.batch, "gradient_accumulation": asked.accumulation}
    config = RunConfig(number_format=asked.format, device=device, lora_rank=8, **sizes)
    model = model_of(asked.shape, config)
    rows = rows_of_papers(asked.steps * config.effective_batch_size, asked.limit, model.config.vocab_size)
    setting = {"benchmark": "batching", "shape": asked.shape, "format": asked.format, "batch": asked.batch, "limit": asked.limit}
    print(json.dumps({**setting, **compare(model, rows, config, asked.repeats), **machine()}))


if __name__ == "__main__":
    main()
