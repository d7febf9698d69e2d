"""Predicted memory against measured: bases of several architectures and sizes with random weights, each tried by a dry run.

    python benchmarks/memory_model.py [--plain] [--only N] [--judge FILE]

Each configuration is trained for two steps on its longest rows, evaluated and saved, in a child as every run starts one; the
figures are the part of the peak above the process itself. A correction is fitted to the shapes of FITTED and judged on those of
JUDGED, which it has not seen. The child runs under a memory limit, and so gives tensors pages of their own; `--plain`: with
glibc's heap as it is, which is what runs without a limit have. Prints a row per configuration, and one JSON line.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine
from random_base import make_run, random_base

from gswa.calibration import Measurement, fit, measurements
from gswa.config import RunConfig
from gswa.console import table
from gswa.forecast import device_name, for_run
from gswa.hardware import probe
from gswa.planning import dry_run
from gswa.workspace import Workspace

STEPS = 2
PLAIN = "glibc's heap"


class Case(NamedTuple):
    family: str
    hidden: int
    inner: int
    blocks: int
    heads: tuple[int, int]
    vocabulary: int
    batch_size: int
    length: int
    settings: dict[str, Any] = {}  # noqa: RUF012  (never changed)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model_type": self.family, "hidden_size": self.hidden, "intermediate_size": self.inner, "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads[0], "num_key_value_heads": self.heads[1], "vocab_size": self.vocabulary,
            "head_dim": self.hidden // self.heads[0], "tie_word_embeddings": self.family != "phi3",
        }  # fmt: skip

    def __str__(self) -> str:
        more = "".join(f", {name} {value}" for name, value in self.settings.items())
        heads = f"{self.heads[0]}:{self.heads[1]} heads"
        sizes = f"{self.family} {self.hidden}/{self.inner}, {self.blocks} blocks, {heads}, {self.vocabulary:,} words"
        return f"{sizes}; {self.batch_size} × {self.length}{more}"


CHECKPOINTED = {"gradient_checkpointing": True}
FITTED = (
    Case("llama", 128, 384, 4, (4, 2), 1024, 4, 512),
    Case("qwen2", 256, 704, 6, (4, 2), 8192, 2, 1024),
    Case("phi3", 320, 896, 6, (5, 5), 4096, 4, 384),
    Case("gemma", 256, 1024, 8, (4, 1), 16384, 2, 512, CHECKPOINTED),
    Case("llama", 512, 1376, 8, (8, 4), 32000, 2, 512, {"number_format": "bf16"}),
)
JUDGED = (
    Case("llama", 384, 1024, 8, (6, 2), 4096, 4, 512),
    Case("llama", 384, 1024, 8, (6, 2), 4096, 8, 256, CHECKPOINTED),
    Case("llama", 576, 1536, 10, (9, 3), 49152, 2, 768),
    Case("llama", 512, 1408, 12, (8, 8), 8000, 4, 256, {"num_layers": 4}),
    Case("qwen2", 448, 2432, 6, (7, 1), 60000, 2, 512),
    Case("qwen2", 192, 512, 12, (6, 6), 2048, 8, 384, {"lora_rank": 32}),
    Case("qwen2", 640, 1728, 6, (10, 2), 151936, 1, 512, CHECKPOINTED),
    Case("phi3", 448, 1184, 8, (7, 7), 32064, 2, 512),
    Case("phi3", 256, 1024, 4, (4, 4), 2048, 4, 1024),
    Case("gemma", 320, 1280, 6, (5, 1), 24000, 4, 384),
    Case("gemma", 192, 1152, 10, (3, 3), 4096, 2, 1024),
    Case("qwen3", 384, 1152, 6, (6, 2), 16384, 4, 512),
    Case("mistral", 512, 1792, 4, (8, 2), 32768, 2, 512, {"number_format": "bf16"}),
)


def measured(case: Case, folder: Path, limit_gb: float | None) -> tuple[Measurement, float]:
    """What the dry run put into the calibration file, and the seconds of CPU that it took."""
    base = random_base(folder / "base", case.config, "float32")
    settings = RunConfig(
        batch_size=case.batch_size, gradient_accumulation=2, eval_batch_size=case.batch_size, max_seq_length=case.length,
        memory_limit_gb=limit_gb, device="cpu",
    ).replace(**case.settings)  # fmt: skip
    given = {
        name: value
        for name, value in settings.model_dump(exclude={"model_id", "epochs", "iters", "evaluations"}).items()
        if value is not None
    }
    run = make_run(folder, base, sentences=case.length // 8, **given)
    config = run.settled().config
    before = os.times()
    dry_run(run, config, STEPS, 600.0)
    after = os.times()
    (found,) = measurements(Workspace(), device_name(probe().compute_name, limit_gb is not None))[-1:]
    forecast = for_run(run, config)
    assert forecast is not None and abs(forecast.above_gb - found.predicted_gb) < 1e-9
    return found, sum(after[2:4]) - sum(before[2:4])


def error(predicted: float, real: float) -> float:
    return predicted / real - 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plain", action="store_true", help="glibc's heap as it is")
    parser.add_argument("--only", type=int, help="so many configurations of each group (3 and more)")
    parser.add_argument("--judge", type=Path, help="a line that was printed before: fit and judge its figures anew")
    options = parser.parse_args()
    if options.judge:
        return judge_again(json.loads(options.judge.read_text(encoding="utf-8").splitlines()[-1]))
    limit = None if options.plain else probe().memory.total_gb
    cases = [*FITTED[: options.only], *JUDGED[: options.only]]
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["GSWA_HOME"] = home
        for number, case in enumerate(cases):
            found.append(measured(case, Path(home) / str(number), limit)[0])
            print(f"{number + 1} of {len(cases)}: {case}: {found[-1].measured_gb:.3f} GB", file=sys.stderr, flush=True)
    report(cases, found, len(FITTED[: options.only]), options.plain)
    return 0


def judge_again(line: dict[str, Any]) -> int:
    cases = [*FITTED, *JUDGED]
    figures = {name: (float(predicted), float(real)) for name, predicted, real in line["configurations"]}
    found = [
        Measurement(time="", device="", settings="", predicted_gb=predicted, measured_gb=real, baseline_gb=line["baseline_gb"])
        for predicted, real in (figures[str(case)] for case in cases)
    ]
    report(cases, found, len(FITTED), line["allocator"] == PLAIN)
    return 0


def report(cases: list[Case], found: list[Measurement], fitted: int, plain: bool) -> None:
    correction = fit(found[:fitted])
    rows, errors = [], []
    for number, (case, each) in enumerate(zip(cases, found, strict=True)):
        before = error(each.predicted_gb, each.measured_gb)
        after = error(correction.apply(each.predicted_gb), each.measured_gb) if correction and number >= fitted else None
        errors += [(abs(before), abs(after))] if after is not None else []
        shown = "fitted" if after is None else f"{after:+.1%}"
        rows.append((str(case), f"{each.predicted_gb:.3f}", f"{each.measured_gb:.3f}", f"{before:+.1%}", shown))
    print("\n".join(table(("GB above the process", "predicted", "measured", "error", "corrected"), rows)))
    uncalibrated, calibrated = zip(*errors, strict=True)
    figures = {
        "benchmark": "memory_model",
        "allocator": PLAIN if plain else "pages of its own for each tensor",
        "fitted": fitted,
        "judged": len(errors),
        "median_error_uncalibrated": round(statistics.median(uncalibrated), 4),
        "worst_error_uncalibrated": round(max(uncalibrated), 4),
        "median_error_calibrated": round(statistics.median(calibrated), 4),
        "worst_error_calibrated": round(max(calibrated), 4),
        "correction": str(correction),
        "baseline_gb": round(statistics.median(each.baseline_gb for each in found), 3),
        "configurations": [row[:3] for row in rows],
    }
    print(json.dumps({**figures, **machine()}))


if __name__ == "__main__":
    sys.exit(main())
