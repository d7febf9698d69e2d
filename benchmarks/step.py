"""Where the CPU time of a training step goes, for who wants to make it faster on a CPU that is at hand for minutes only.

    python benchmarks/step.py [--format bf16|fp32] [--tokens 304] [--top 40]

The model and LoRA of training.py, micro-batches of 4 rows, one thread. One JSON line: CPU milliseconds of a step, the least of six;
`operators`, torch's own count of them by name and sizes, without what they call; `kernels`, oneDNN's count by kernel and sizes, which
names the instructions that it took; `new_ms`, what it took to make kernels for a width that has not been seen.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

STEPS, ROWS = 6, 4
MARK = "step: "  # before what the child says of itself, among oneDNN's lines


def child(number_format: str, tokens: int, top: int) -> dict[str, Any]:
    import torch
    from random_base import random_base
    from training_assets import SHAPE

    from gswa.backends.torch.memory import keep_heap
    from gswa.backends.torch.model import add_adapter, load_base
    from gswa.config import RunConfig

    torch.set_num_threads(1)
    config = RunConfig.model_validate({"number_format": number_format, "lora_rank": 8, "lora_alpha": 16.0, "device": "cpu"})
    with tempfile.TemporaryDirectory() as scratch:
        base = random_base(Path(scratch) / "base", {"model_type": "llama", "vocab_size": 4096, **SHAPE})
        model = add_adapter(load_base(str(base), config), config).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step(tokens: int) -> float:
        began = time.process_time()
        ids = torch.randint(0, 4096, (ROWS, tokens))
        labels = ids.masked_fill(torch.arange(tokens) < tokens // 2, -100)
        model(input_ids=ids, labels=labels, num_items_in_batch=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return 1000 * (time.process_time() - began)

    step(tokens)
    keep_heap(config)
    least = min(step(tokens) for _ in range(STEPS))
    print(f"{MARK}new", flush=True)
    step(tokens + 16)
    print(f"{MARK}known", flush=True)
    step(tokens)
    print(f"{MARK}done", flush=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        for _ in range(STEPS):
            step(tokens)
    found = sorted(profile.key_averages(group_by_input_shape=True), key=lambda one: -one.self_cpu_time_total)
    operators = [
        [round(one.self_cpu_time_total / 1000 / STEPS, 2), one.count // STEPS, one.key, str(one.input_shapes)] for one in found[:top]
    ]
    return {"step_ms": round(least, 1), "operators": operators}


def kernels(lines: list[str]) -> tuple[float, dict[tuple[str, str], list[float]]]:
    """Milliseconds of making kernels, and those of each use by kernel and sizes."""
    made, used = 0.0, defaultdict(list)
    for line in lines:
        parts = line.split(",")
        if "create:cache_miss" in line:
            made += float(parts[-1])
        elif ",exec," in line:
            place = parts.index("exec")
            used[parts[place + 3], parts[-2]].append(float(parts[-1]))
    return made, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--tokens", type=int, default=304, help="of a row")
    parser.add_argument("--top", type=int, default=40, help="operators and kernels to name")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(MARK + json.dumps(child(asked.format, asked.tokens, asked.top)), flush=True)
        return
    from machine import machine

    from gswa.backends.child import CHILD_ENVIRONMENT

    environment = {**os.environ, **CHILD_ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", *sys.argv[1:]]
    timed, told = (  # apart: what oneDNN tells costs time
        subprocess.run(command, env={**environment, "ONEDNN_VERBOSE": level}, stdout=subprocess.PIPE, text=True, check=True).stdout
        for level in ("0", "2")
    )
    new, known = (re.split(f"{MARK}(?:new|known|done)\n", told)[part].splitlines() for part in (1, 2))
    report = json.loads(timed.rsplit(MARK, 1)[1])
    used = sorted(kernels(known)[1].items(), key=lambda one: -sum(one[1]))
    line = {
        "benchmark": "step",
        "format": asked.format,
        "tokens": asked.tokens,
        **report,
        "kernels_ms": round(sum(sum(times) for _, times in used), 1),
        "kernels": [[round(sum(times), 2), len(times), name, sizes] for (name, sizes), times in used[: asked.top]],
        "new_ms": round(kernels(new)[0], 1),
        **machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
