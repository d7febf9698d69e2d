"""All checks that need a GPU, one JSON line each: the card made to look like each of the guide's, and the run carried through.

    python benchmarks/gpu_check.py          (or: make gpu-check)

For 4, 8, 16, 24 and 48 GB: a random base of about 1.2 B parameters (no hub is asked), the guide's row for that card, a real
limit on the allocator, and the ladder walked as far as it takes. Then a micro-batch that cannot fit 4 GB, which must be
survived, and the same losses with and without a batch rung. Then the guide's rows without a limit, on bases of random weights in
the shapes of Qwen2.5 1.5B and 7B: what memory was predicted and measured, and how much of the card is left. Last the tests that
are marked for a GPU. `memory` is what each check taught: pairs of GB, predicted and measured, above the process itself. Ends with
exit 1 where a check failed, and 3 without a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine
from random_base import make_run, random_base

from gswa import attempt, chunking, hardware
from gswa.calibration import measurements
from gswa.errors import GswaError, OutOfMemory
from gswa.forecast import for_run
from gswa.models import model_named
from gswa.planning import dry_run
from gswa.profiles import number_format, row_for
from gswa.rundir import RunDir
from gswa.workspace import Workspace

TESTS = Path(__file__).parents[1] / "tests"
CARDS_GB = (4, 8, 16, 24, 48)
SHAPE = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 8, "vocab_size": 1024, "tie_word_embeddings": True,
}  # fmt: skip
SHAPES = {
    4: "Qwen/Qwen2.5-1.5B-Instruct",
    8: "Qwen/Qwen2.5-1.5B-Instruct",
    16: "Qwen/Qwen2.5-7B-Instruct",
    24: "Qwen/Qwen2.5-7B-Instruct",
    48: "Qwen/Qwen2.5-7B-Instruct",
}
UNCALIBRATED, TOO_LOW = 0.10, 0.03  # how far a prediction may be off, and a corrected one below


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
        **{name: value for name, value in run.metadata().items() if name.startswith(("batching", "cross_entropy"))},
    }


def predicted_and_measured(folder: Path, card_gb: int, common: dict[str, Any]) -> dict[str, Any]:
    """The guide's row for such a card, without a limit, on a base of the shape that it is for; a dry run of two steps."""
    model = model_named(SHAPES[card_gb])
    assert model is not None
    base = folder / model.model_id.replace("/", "-")
    if not base.is_dir():
        random_base(base, model.config)
    row = row_for("cuda", card_gb)
    settings = {"batch_size": row.batch_size, "max_seq_length": row.max_seq_length, "quantization": row.quantization}
    run = make_run(folder, base, sentences=150, **common, **settings, gradient_checkpointing=True)
    config = run.settled().config
    chunking.chunks(run, config)
    forecast = for_run(run, config)
    assert forecast is not None  # of both shapes
    dry_run(run, config, 2, 600.0)
    measured = measurements(Workspace(), hardware.probe().compute_name)[-1]
    peak = measured.baseline_gb + measured.measured_gb
    error = forecast.prediction.peak_gb / peak - 1
    corrected = forecast.peak_gb / peak - 1 if forecast.correction else None
    return {
        "ok": abs(error) <= UNCALIBRATED and (corrected is None or corrected >= -TOO_LOW),
        "model": model.model_id,
        "predicted_gb": round(forecast.prediction.peak_gb, 2),
        "corrected_gb": round(forecast.peak_gb, 2) if forecast.correction else None,
        "correction": str(forecast.correction) if forecast.correction else None,
        "measured_gb": round(peak, 2),
        "error": round(error, 3),
        "error_corrected": None if corrected is None else round(corrected, 3),
        "left_of_the_card_gb": round(card_gb - peak, 2),
        "fits": peak <= card_gb,
        "within_the_margin": peak <= config.margin * card_gb,
    }


def marked_tests() -> dict[str, Any]:
    """Only of files that have some: others may need packages that such a machine lacks."""
    files = [str(file) for file in sorted(TESTS.glob("test_*.py")) if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", *files], capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return {"ok": done.returncode == 0, "said": [line for line in lines if line.startswith(("FAILED", "ERROR"))] + lines[-1:]}


def said(name: str, check: Callable[[], dict[str, Any]]) -> bool:
    began, compute = time.monotonic(), hardware.probe().compute_name
    known = len(measurements(Workspace(), compute))
    try:
        figures = check()
    except GswaError as error:
        figures = {"ok": False, "error": str(error)}
    learnt = measurements(Workspace(), compute)[known:]
    figures["memory"] = [[round(each.predicted_gb, 2), round(each.measured_gb, 2)] for each in learnt]
    print(json.dumps({"check": name, **figures, "seconds": round(time.monotonic() - began, 1), **machine()}), flush=True)
    return bool(figures["ok"])


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = hardware.probe()
    if found.device != "cuda":
        print(json.dumps({"check": "gpu", "ok": False, "error": "no NVIDIA GPU that the installed torch can use", **machine()}))
        return 3
    common = {"device": "cuda", "number_format": number_format(found)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["GSWA_HOME"] = scratch  # where the measurements are kept
        base = random_base(folder / "base", SHAPE)
        checks = {f"card of {size} GB": (lambda size=size: card(base, folder, size, common)) for size in CARDS_GB if size < found.total_gb}
        checks["out of memory is survived"] = lambda: survives(base, folder, common)
        checks["a batch rung is exact"] = lambda: rung_is_exact(base, folder, common)
        for size in SHAPES:
            if size < found.total_gb:
                checks[f"memory of the row of {size} GB"] = lambda size=size: predicted_and_measured(folder, size, common)
        checks["tests marked gpu"] = marked_tests
        return 0 if all([said(name, check) for name, check in checks.items()]) else 1


if __name__ == "__main__":
    sys.exit(main())
