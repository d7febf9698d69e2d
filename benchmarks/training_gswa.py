"""One GSWA run for benchmarks/training.py: the examples, a settled configuration, and the attempt that the flow makes.

python training_gswa.py JOB.json
"""

import argparse
import json
from pathlib import Path

from gswa import attempt
from gswa.config import Layer, RunRequest, resolve
from gswa.files import write_lines
from gswa.formats import read_examples
from gswa.rundir import RunDir


def main(job: dict[str, str | int | float]) -> None:
    run = RunDir.create(Path(str(job["work"])))
    write_lines(run.examples / "train.jsonl", read_examples(Path(str(job["data"])) / "train.jsonl"))
    settings = {
        "model_id": job["model"],
        "batch_size": job["batch"],
        "gradient_accumulation": 1,
        "max_seq_length": job["limit"],
        "iters": job["steps"],
        "learning_rate": job["learning_rate"],
        "warmup_ratio": 0.0,
        "lora_rank": 8,
        "lora_alpha": 16.0,
        "evaluations": 0,
        "number_format": job["format"],
        "seed": job["seed"],
    }
    run.write_config(RunRequest(), resolve(Layer("benchmark", settings)))
    attempt.train(run)
    Path(str(job["work"]), "adapter").symlink_to(run.adapters)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    main(json.loads(parser.parse_args().job.read_text(encoding="utf-8")))
