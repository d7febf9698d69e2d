"""From an out-of-memory error to the next optimizer step: through the preload server, and by a plain restart.

    python benchmarks/oom_recovery.py

Prints one JSON line; seconds, medians of the repetitions. The plain restart is what a script does that is started again: a
new interpreter, its imports, the model, one step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

from gswa import attempt
from gswa.backends.checkpoint import last_sealed
from gswa.config import Layer, RunRequest, resolve
from gswa.errors import OutOfMemory
from gswa.files import write_lines
from gswa.records import Example, Message
from gswa.rundir import RunDir

REPETITIONS = 3
TIGHT_GB, WIDE_GB = 0.3, 4.0
PLAIN = """
import sys; from pathlib import Path
from gswa import attempt; from gswa.rundir import RunDir
def stop(step, total):
    print(flush=True); raise KeyboardInterrupt
attempt.train(RunDir(Path(sys.argv[1])), stop)
"""


def make_run(folder: Path) -> RunDir:
    run = RunDir.create(folder)
    words = "the cell divides and we measured its growth under light in every culture. " * 12
    for split in ("train", "valid", "test"):
        chats = [
            Example(id=f"{split}{n}", messages=(Message(role="user", content="Go on."), Message(role="assistant", content=words)))
            for n in range(8)
        ]
        write_lines(run.examples / f"{split}.jsonl", chats)
    settled = resolve(Layer("benchmark", {"batch_size": 2, "gradient_accumulation": 1, "epochs": 5, "evaluations": 1}))
    run.write_config(RunRequest(), settled)
    return run


class Reached(Exception):
    pass


def at_first_step(step: object, total: int) -> None:
    raise Reached


def recovery(folder: Path) -> float:
    """Seconds from the error to the next step: the limit is too small for one attempt, and lifted for the next."""
    run = make_run(folder)
    tight = run.settled().config.replace(memory_limit_gb=TIGHT_GB)
    run.write_config(RunRequest(), run.settled()._replace(config=tight))
    try:
        attempt.train(run)
    except OutOfMemory:
        began = time.monotonic()
    run.write_config(RunRequest(), run.settled()._replace(config=tight.replace(memory_limit_gb=WIDE_GB)))
    try:
        attempt.train(run, at_first_step)
    except Reached:
        assert last_sealed(run.checkpoints)  # the stop saved what was done
        return run.steps()[0] and time_of_first_step(run, began)
    raise SystemExit("the second attempt ended without a step")


def time_of_first_step(run: RunDir, began: float) -> float:
    from datetime import datetime

    return datetime.fromisoformat(run.steps()[0].timestamp).timestamp() - (time.time() - (time.monotonic() - began))


def plain_restart(folder: Path) -> float:
    run = make_run(folder)
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", PLAIN, str(run.path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        process.stdout.readline()
        seconds = time.monotonic() - began
        process.kill()
    return seconds


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recovery(Path(folder))  # starts the preload server, as the first attempt of a run does
        through_server = [recovery(Path(folder)) for _ in range(REPETITIONS)]
        restarted = [plain_restart(Path(folder)) for _ in range(REPETITIONS)]
    result = {"oom_to_next_step_s": statistics.median(through_server), "plain_restart_to_first_step_s": statistics.median(restarted)}
    ratio = result["plain_restart_to_first_step_s"] / result["oom_to_next_step_s"]
    print(json.dumps({"benchmark": "oom_recovery", **{k: round(v, 2) for k, v in result.items()}, "ratio": round(ratio, 2), **machine()}))


if __name__ == "__main__":
    main()
