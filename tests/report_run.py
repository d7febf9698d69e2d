"""A synthetic run, written through RunDir's own writers, for the tests of gswa/report."""

import math
from pathlib import Path
from typing import Any

from gswa.candidates import PLANNED
from gswa.config import Layer, RunConfig, RunRequest, resolve
from gswa.files import write_json
from gswa.records import EvalMetrics, Evaluation, LengthStats, Plan, Quantiles, Sample, StepMetrics, Trial
from gswa.rundir import OomFallback, RunDir

HOSTILE = "<script>alert('x')</script> & \"quotes\" | `ticks` [link](javascript:alert(1)) 数学 😀"


def step_metrics(number: int, **fields: Any) -> StepMetrics:
    """Step `number` of a run that learns: a falling, slightly noisy loss."""
    given = {
        "step": number,
        "timestamp": f"2026-01-15T10:{number // 60 % 60:02d}:{number % 60:02d}.000+00:00",
        "train_loss": 4.2 + 1.4 * math.exp(-number / 15) + 0.06 * math.sin(number * 2.3),
        "learning_rate": 2e-4,
        "tokens_per_sec": 1204.0 + 90 * math.sin(number),
        "peak_memory_gb": 1.1 + 0.05 * math.sin(number / 3),
        "trained_tokens": number * 3500,
        "grad_norm": 1.0,
        "epoch": number / 14,
        "attempt": 1,
        "padding_fraction": 0.04,
    }
    return StepMetrics.model_validate({**given, **fields})


def evaluation_metrics(step: int, loss: float, split: str) -> EvalMetrics:
    return EvalMetrics.model_validate(
        {
            "step": step,
            "timestamp": "2026-01-15T10:30:45.000+00:00",
            "split": split,
            "eval_loss": loss,
            "perplexity": math.exp(loss),
            "eval_tokens": 9120,
            "peak_memory_gb": 0.9,
        }
    )


def empty_run(folder: Path, name: str = "") -> RunDir:
    """Created, and nothing more."""
    return RunDir.create(folder / "runs", name)


def trained_run(folder: Path, steps: int = 42) -> RunDir:
    """Steps, evaluations and a configuration: what every finished run has."""
    run = empty_run(folder, "trained")
    settled = resolve(Layer("profile cpu-8gb", {"batch_size": 4}), Layer("command line", {"max_seq_length": 512}))
    run.write_config(RunRequest(), settled)
    run.update(status="completed", model_id="gswa-tiny", attempts=1, started="2026-01-15T10:00:00+00:00", ended="2026-01-15T10:03:20+00:00")
    for number in range(1, steps + 1):
        run.append_step(step_metrics(number))
    for at, loss in ((0, 5.70), (steps // 2, 4.71), (steps, 4.52)):
        run.append_eval(evaluation_metrics(at, loss, "valid"))
    for at, loss in ((0, 5.66), (steps, 4.58)):
        run.append_eval(evaluation_metrics(at, loss, "test"))
    return run


def full_run(folder: Path, steps: int = 42) -> RunDir:
    """Everything that a report can show, with hostile text wherever text comes from outside."""
    run = trained_run(folder, steps)
    run.update(
        description=HOSTILE,
        predicted_memory_gb=1.31,
        versions={"torch": "2.13.0"},
        git_commit="0a1b2c3",
        attempts=2,
        chosen_step=42,
        batching="length-grouped",
        data={"documents": 12, "train": 300, "valid": 25, "test": 20},
    )
    run.update(export={"modelfile": {"files": ["adapters/Modelfile"], "checked": ["same greedy answer"], "notes": [HOSTILE]}})
    run.record(
        OomFallback(
            phase="train",
            step=12,
            error="Unable to allocate 1.2 GB",
            rung="batch_size",
            before={"batch_size": 4, "gradient_accumulation": 2},
            after={"batch_size": 2, "gradient_accumulation": 4},
            reason="a smaller micro-batch, with more accumulation: the effective batch stays",
            peak_memory_gb=1.9,
            time="2026-01-15T10:01:00.000+00:00",
            attempt=1,
        )
    )
    write_json(run.hardware_file, hardware())
    write_json(run.plan_file, plan().model_dump(mode="json"))
    write_json(run.evaluation_file, evaluation().model_dump(mode="json"))
    write_json(
        run.stats_file, {"splits": {name: lengths().model_dump(mode="json") for name in ("train", "all")}, "conservation": conservation()}
    )
    run.adapters.mkdir()
    write_json(run.adapters / "adapter_config.json", {"base_model_name_or_path": "models/base of 'mine'"})
    (run.adapters / "Modelfile").write_text("FROM ./gswa-base.gguf\n", encoding="utf-8")
    return run


def hardware() -> dict[str, Any]:
    return {
        "os": "Linux",
        "python": "3.12.1",
        "cpu": {"model": HOSTILE, "cores": 2, "features": ["AVX2"]},
        "memory": {"total_gb": 3.8, "available_gb": 3.6, "limited": True},
        "disk_free_gb": 20.0,
        "versions": {"torch": "2.13.0", "peft": "0.19.0"},
    }


def conservation() -> dict[str, Any]:
    return {
        "holds": True,
        "examples": 345,
        "blocks": 300,
        "blocks_missing": 0,
        "characters_in": 480_000,
        "characters_in_chunks": 477_400,
        "characters_between": 600,
        "characters_set_aside": 2_000,
        "set_aside": {HOSTILE: 1},
    }


def plan() -> Plan:
    good, large = ({name: getattr(RunConfig(batch_size=size), name) for name in PLANNED} for size in (4, 16))
    trials = (
        Trial(
            changes=good,
            tokens_per_sec=1210.0,
            peak_memory_gb=1.2,
            predicted_memory_gb=1.3,
            throughput_score=1,
            stability_score=1,
            effective_batch_factor=1,
            score=1,
        ),
        Trial(changes=large, predicted_memory_gb=4.4, rejected="predicted 4.4 GB, over 80 % of 3.8 GB"),
    )
    return Plan(margin=0.8, memory_gb=3.8, seed=42, dry_run_steps=3, trials=trials, chosen=good)


def evaluation() -> Evaluation:
    sample = Sample(prompt=HOSTILE, author="The author's own words.\n\nSecond paragraph.", base="the the the", tuned=HOSTILE)
    return Evaluation(test_loss_before=5.66, test_loss_after=4.58, test_tokens=9120, samples=(sample, sample))


def lengths() -> LengthStats:
    before = Quantiles(count=345, min=40, median=310, p90=620, p95=810, p99=1400, max=2100, total=120_000)
    after = Quantiles(count=402, min=40, median=290, p90=490, p95=505, p99=512, max=512, total=124_000)
    return LengthStats(
        before=before,
        after=after,
        over_limit_before=51,
        over_limit_after=0,
        truncated_percent_before=14.8,
        truncated_percent_after=0,
        chunks_per_example=1.17,
        set_aside=1,
        set_aside_reasons={f"prompt too long {HOSTILE}": 1},
        characters_in=480_000,
        characters_in_chunks=478_000,
        characters_set_aside=2_000,
        histogram_before=_histogram(310, 260, 2176),
        histogram_after=_histogram(330, 160, 512),
    )


def _histogram(middle: int, spread: int, end: int) -> tuple[tuple[int, int], ...]:
    counts = [(edge, int(60 * math.exp(-(((edge - middle) / spread) ** 2)))) for edge in range(0, end, 32)]
    return tuple((edge, number) for edge, number in counts if number)
