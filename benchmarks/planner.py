"""The plan against an exhaustive sweep: how much of the best measured speed does the chosen candidate have?

    python benchmarks/planner.py [--model gswa-tiny] [--rounds 3] [--steps 10]

`python -m gswa.train plan` chooses first, in a folder of its own that remembers nothing. Then every candidate that respects the
margin is tried in this process by the same dry run, in shuffled order, in several rounds; a candidate's speed is its best round,
since what else the machine does can only slow it down. Prints a row per candidate, and one JSON line.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

from gswa import intake, settle
from gswa.candidates import candidates
from gswa.config import RunRequest, Settings, Settled, settings_in_words
from gswa.console import table
from gswa.errors import GswaError
from gswa.files import write_json
from gswa.hardware import Hardware, probe
from gswa.number_formats import with_formats
from gswa.planning import dry_run, foreseen, surroundings
from gswa.records import Plan
from gswa.rundir import RunDir
from gswa.workspace import Workspace

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "sample_corpus"


def planned(options: argparse.Namespace, home: Path) -> tuple[Plan, float]:
    command = [sys.executable, "-m", "gswa.train", "plan", "--model", options.model, "--dry-run-steps", str(options.steps)]
    began = time.monotonic()
    subprocess.run(
        [*command, "--max-candidates", str(options.candidates), "--output", str(home / "plan.json")], check=True, stdout=sys.stderr
    )
    return Plan.model_validate_json((home / "plan.json").read_text()), time.monotonic() - began


def swept(options: argparse.Namespace, home: Path) -> list[tuple[dict[str, Any], list[float], float]]:
    """Each candidate that respects the margin: its settings, the speed of each round, its peak in GB."""
    request = RunRequest(settings=Settings(model_id=options.model))
    machine_here = with_formats(probe(), Workspace())  # what the plan measured
    run = RunDir.create(home / "sweep")
    write_json(run.request_file, request.model_dump(mode="json"))
    write_json(run.hardware_file, machine_here.model_dump(mode="json"))
    intake.prepare(run, intake.parse(run))
    base = settle.settle(request, machine_here)
    run.write_config(request, base)
    here = surroundings(base, machine_here, request, *foreseen(run, base.config, machine_here))
    configs = candidates(base.config, base.config.seed, here, allowed_gb(base, machine_here))
    speeds: dict[int, list[float]] = {number: [] for number in range(len(configs))}
    peaks = dict.fromkeys(speeds, 0.0)
    shuffled = random.Random(time.time_ns())
    for _ in range(options.rounds):
        for number in shuffled.sample(sorted(speeds), len(speeds)):
            try:
                found = dry_run(run, configs[number], options.steps, 600.0)
            except GswaError as error:
                print(f"{settings_in_words(configs[number].model_dump())}: {error}", file=sys.stderr)
                continue
            speeds[number].append(found.tokens_per_sec)
            peaks[number] = max(peaks[number], found.peak_memory_gb)
            print(f"{settings_in_words(configs[number].model_dump())}: {found.tokens_per_sec:,.0f} tok/s", file=sys.stderr, flush=True)
    limit = allowed_gb(base, machine_here)
    return [(configs[n].model_dump(), speeds[n], peaks[n]) for n in speeds if speeds[n] and peaks[n] <= limit]


def allowed_gb(base: Settled, machine_here: Hardware) -> float:
    return base.config.margin * machine_here.memory_gb


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="gswa-tiny")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GSWA_HOME"] = folder
        (Path(folder) / "data").mkdir()
        (Path(folder) / "data" / "sample_corpus").symlink_to(SAMPLES)
        plan, seconds = planned(options, Path(folder))
        sweep = sorted(swept(options, Path(folder)), key=lambda each: -max(each[1]))
    chosen = plan.chosen or {}
    of_chosen = next(max(speeds) for settings, speeds, _ in sweep if all(settings[name] == chosen[name] for name in chosen))
    best = max(sweep[0][1])
    rows = [
        (
            settings_in_words(settings),
            f"{max(speeds):,.0f}",
            f"{min(speeds):,.0f}",
            f"{peak:.2f} GB",
            "chosen" if max(speeds) == of_chosen else "",
        )
        for settings, speeds, peak in sweep
    ]
    print("\n".join(table(("settings", "tok/s, best round", "worst round", "peak", ""), rows)))
    figures = {"candidates": len(sweep), "rounds": options.rounds, "chosen": settings_in_words(chosen), "plan_seconds": round(seconds, 1)}
    figures["threads"] = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    figures["tokens_per_sec"] = {settings_in_words(settings): [round(speed) for speed in speeds] for settings, speeds, _ in sweep}
    print(json.dumps({"benchmark": "planner", "share_of_best": round(of_chosen / best, 3), **figures, **machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
