"""One LoRA run, the same for every trainer, on a CPU with one thread: tokens per CPU-second, memory, time to the first step, loss.

    python benchmarks/training.py --peers FOLDER [--only gswa,trl] [--variant varied|full|152k] [--format fp32|bf16] [--texts FOLDER]

A Llama of 15.7 M random parameters (hidden 384, 8 layers, 4,096 words), 500 chats of which one in five is above the limit; LoRA of
rank 8 on all linear layers, 60 steps of batch 4 at 512 tokens, AdamW at 1e-4 constant. Loading, tokenising and saving are timed,
installing is not. One JSON line per trainer:

    tok_per_cpu_s      non-padding tokens per CPU-second of the training process, from the end of step 1 to the end of the last
    mfu                the same by the weights of the blocks (4 FLOP per weight and token), as a share of what this machine's matrix
                       products reach in this number format; the head is left out, since some multiply it with target tokens only,
                       and one with a cut vocabulary
    cold_start_s       from the start of the command to the end of the first step; GSWA's command is the attempt as the flow makes it
                       (training_gswa.py), not the whole flow
    cold_start_cpu_s   of the training process alone: GSWA's is forked from a process that has imported the libraries, whose seconds
                       are not in it, so that only cold_start_s compares the starts
    peak_rss_mb        of the training process; above_imports_mb: beyond what it held before it made the model
    held_out_loss      of the adapter, by one evaluation for all (held_out.py); the base's stands in `base_loss`
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chunking import documents
from environments import python_with
from held_out import held_out_loss
from machine import machine
from training_assets import make
from training_peers import PEERS, Job, Run

HERE = Path(__file__).parent
FLOP_PER_WEIGHT = 4  # forward, and back to the inputs; the frozen weights have no gradients
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"), "1")


def gswa(job: Job, python: Path) -> Run:
    file = job.work / "job.json"
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in job._asdict().items()}
    file.write_text(json.dumps(plain), encoding="utf-8")
    return Run([str(python), str(HERE / "training_gswa.py"), str(file)], job.work / "adapter")


def contestant(name: str, job: Job, peers: Path) -> Run:
    """The command of a trainer, in an environment of its own."""
    if name == "gswa":
        return gswa(job, Path(sys.executable))
    peer = PEERS[name]
    return peer.run(job, python_with(peers, name, peer.packages, peer.without))


def environment(job: Job, run: Run) -> dict[str, str]:
    pad = run.pad if run.pad is not None else json.loads((job.model / "config.json").read_text())["pad_token_id"]
    probe = {"PROBE_OUT": str(job.work / "probe.json"), "PROBE_PAD": str(pad), "PROBE_T0": repr(time.time())}
    paths = [str(HERE / "probe"), run.environment.get("PYTHONPATH", "")]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled", "HF_HOME": str(job.work / "hf")}
    own = {**os.environ, **THREADS, **OFFLINE, **quiet, "OMP_WAIT_POLICY": "PASSIVE", **run.environment, **probe}
    return {**own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def watched(job: Job, run: Run, seconds: float) -> tuple[int, dict[str, Any]]:
    """The exit code, and what the probe saw; no steps where the trainer took none."""
    with (job.work / "log.txt").open("w") as log:
        started = subprocess.Popen(run.command, stdout=log, stderr=subprocess.STDOUT, cwd=job.work, env=environment(job, run))
        try:
            code = started.wait(seconds)
        except subprocess.TimeoutExpired:
            started.terminate()
            code = started.wait(60)
    seen = job.work / "probe.json"
    return code, json.loads(seen.read_text()) if seen.is_file() else {"steps": []}


def figures(seen: dict[str, Any], weights: int, gflops: float) -> dict[str, Any]:
    steps = seen["steps"]
    if len(steps) < 2:
        return {"steps": len(steps)}
    first, last = steps[0], steps[-1]
    tokens, busy = last["tokens"] - first["tokens"], last["cpu"] - first["cpu"]
    padding = last["padding"] - first["padding"]
    return {
        "steps": len(steps),
        "tok_per_cpu_s": round(tokens / busy, 1),
        "mfu": round(tokens / busy * FLOP_PER_WEIGHT * weights / (gflops * 1e9), 3),
        "cpu_s_per_step": round(busy / (len(steps) - 1), 3),
        "cold_start_s": round(first["wall"] - seen["t0"], 2),
        "cold_start_cpu_s": round(first["cpu"], 2),
        "peak_rss_mb": round(last["peak_mb"]),
        "above_imports_mb": round(last["peak_mb"] - seen["baseline_mb"]),
        "tokens": last["tokens"],
        "padding": round(padding / (tokens + padding), 3),
        "rows": last["rows"],
    }


def matmul_gflops(dtype: str) -> float:
    """The best of this machine's matrix products at the model's sizes, one thread, in 1e9 FLOP per CPU-second."""
    import torch

    torch.set_num_threads(1)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    best = 0.0
    for rows, inner, columns in ((2048, 384, 1024), (2048, 1024, 384), (2048, 384, 4096), (2048, 1024, 1024)):
        x, weight = torch.randn(rows, inner, dtype=kind), torch.randn(columns, inner, dtype=kind)
        for _ in range(3):
            began = time.process_time()
            for _ in range(20):
                torch.nn.functional.linear(x, weight)
            best = max(best, 20 * 2 * rows * inner * columns / (time.process_time() - began) / 1e9)
    return best


def multiplied_weights(model: Path) -> int:
    """Weights of the blocks that every token is multiplied with: without the word embedding, the head and the norms."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "np") as stored:
        shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118  (it is no mapping)
    return sum(shape[0] * shape[1] for name, shape in shapes.items() if len(shape) == 2 and ".layers." in name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path(".benchmarks"), help="folder for environments and runs (default: %(default)s)")
    parser.add_argument("--only", default=",".join(["gswa", *PEERS]), help="trainers, with commas (default: all)")
    parser.add_argument("--variant", default="varied", choices=["varied", "full", "152k"])
    parser.add_argument("--format", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--texts", type=Path, help="folder of .txt or .md files to make the chats of")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, one round after the other")
    parser.add_argument("--seconds", type=float, default=3000, help="that one run may take")
    asked = parser.parse_args()
    root = asked.peers.absolute()
    assets = root / "assets" / asked.variant
    setting = make(assets, documents(asked.texts, 4), asked.variant)
    weights, gflops = multiplied_weights(assets / "model"), matmul_gflops(asked.format)
    setting |= {
        "format": asked.format,
        "gflops": round(gflops, 1),
        "base_loss": round(held_out_loss(assets / "model", assets / "data", None), 4),
    }
    for name in asked.only.split(",") * asked.repeats:
        work = root / "runs" / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        job = Job(assets / "model", assets / "data", work, steps=asked.steps, format=asked.format)
        run = contestant(name, job, root)
        load = os.getloadavg()[0]
        code, seen = watched(job, run, asked.seconds)
        found = {"exit_code": code, **figures(seen, weights, gflops)}
        if len(seen["steps"]) >= 2 and run.adapter.is_dir():
            found["held_out_loss"] = round(held_out_loss(job.model, job.data, run.adapter), 4)
        line = {"benchmark": "training", "contestant": name, **setting, **found, **machine(), "load": round(load, 2)}
        print(json.dumps({**line, "packages": PEERS[name].packages if name in PEERS else []}), flush=True)


if __name__ == "__main__":
    main()
