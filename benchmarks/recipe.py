"""Learning rate, rank and epochs over several authors: what lowers the loss on papers of the author that were held out.

    python benchmarks/recipe.py AUTHORS [--scratch FOLDER] [--model smollm2-135m] [--grid rates|ranks|epochs] [--format bf16]

AUTHORS holds a folder of papers for each author (PDF, DOCX, TXT or MD). Each author's papers are parsed, prepared and split by
document as in any run; one JSON line per author and setting. Losses are nats per target token on the author's held-out test
papers and on those of all the other authors, before and after. What stands in --out already is not done again. --table prints
the lines of --out as a Markdown table, in place of trying anything.
"""

import argparse
import json
import logging
import shutil
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from machine import machine

from gswa import attempt
from gswa.backends.child import run_child
from gswa.chunking import chunks
from gswa.config import Layer, RunConfig, RunRequest, resolve
from gswa.corpus.index import parse_corpus, read_documents
from gswa.examples import prepare
from gswa.files import write_lines
from gswa.formats import read_examples
from gswa.records import SPLITS, Example
from gswa.rundir import RunDir

CHARACTERS_PER_TOKEN = 4
SEED = 42
MIDDLE = {"learning_rate": 1e-3, "lora_rank": 16, "epochs": 3.0}
GRIDS: dict[str, list[dict[str, float]]] = {
    "rates": [{"learning_rate": rate} for rate in (2e-4, 1e-3, 5e-4, 2e-3, 1e-4)],
    "ranks": [{"lora_rank": rank} for rank in (4, 64)],
    "epochs": [{"epochs": epochs} for epochs in (1.0, 6.0)],
}


def prepared(papers: Path, folder: Path, train_tokens: int, held_out_tokens: int) -> Path:
    """train, valid and test examples of an author, of about so many tokens."""
    if not (folder / "test.jsonl").is_file():
        whole = folder / "whole"
        prepare(read_documents(parse_corpus(papers, folder / "parsed").folder), whole, SEED)
        for split in SPLITS:
            room = train_tokens if split == "train" else held_out_tokens
            write_lines(folder / f"{split}.jsonl", _first(read_examples(whole / f"{split}.jsonl"), room))
    return folder


def _first(examples: Iterator[Example], tokens: int) -> Iterator[Example]:
    """Spread over all papers: the second of every paper comes after the first of each."""
    by_paper: dict[str, list[Example]] = {}
    for example in examples:
        by_paper.setdefault(example.document, []).append(example)
    longest = max(map(len, by_paper.values()), default=0)
    for number, paper in product(range(longest), by_paper.values()):
        if number < len(paper) and tokens > 0:
            tokens -= len(paper[number].target) // CHARACTERS_PER_TOKEN
            yield paper[number]


def new_run(folder: Path, data: Path, settings: dict[str, Any]) -> tuple[RunDir, RunConfig]:
    run = RunDir.create(folder)
    shutil.copytree(data, run.examples, ignore=shutil.ignore_patterns("whole", "parsed"))
    settled = resolve(Layer("recipe", settings))
    run.write_config(RunRequest(), settled)
    chunks(run, settled.config)
    return run, settled.config


def trained(folder: Path, author: Path, others: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Losses before and after one run. `others` is a folder of chunks of the same length."""
    run, config = new_run(folder, author, settings)
    attempt.train(run)
    summary, tests = run.summary(), run.evaluations("test")
    job = attempt.job_for(run, config, action="evaluate", attempt=1, samples=0).model_copy(update={"data": others})
    run_child(job)
    evaluation = run.evaluation()
    assert evaluation is not None
    found = {
        "steps": summary.steps,
        "tokens": run.steps()[-1].trained_tokens,
        "chosen_step": run.metadata()["chosen_step"],
        "valid": [round(metrics.eval_loss, 4) for metrics in run.evaluations("valid")],
        "before": round(tests[0].eval_loss, 4),
        "after": round(tests[-1].eval_loss, 4),
        "others_before": round(evaluation.test_loss_before or 0, 4),
        "others_after": round(evaluation.test_loss_after or 0, 4),
        "train_loss": [round(step.train_loss, 3) for step in run.steps()][-3:],
    }
    shutil.rmtree(run.path)
    return found


def held_out_of_others(folder: Path, authors: dict[str, Path], name: str, common: dict[str, Any]) -> Path:
    """Chunks of the other authors' test papers, a few of each."""
    data = folder / f"without-{name}"
    if not (data / "test.jsonl").is_file():
        some = [example for other, path in authors.items() if other != name for example in islice(read_examples(path / "test.jsonl"), 2)]
        for split in SPLITS:
            write_lines(data / f"{split}.jsonl", some)
    run, config = new_run(folder / "runs", data, common)
    return run.chunks(config.max_seq_length)


def table(lines: list[dict[str, Any]]) -> str:
    """A row per setting: how much lower the loss is after training, as the mean over authors with the least and the most."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        settings = line["settings"]
        rows.setdefault((settings["learning_rate"], settings["lora_rank"], settings["epochs"], line["batch"]), []).append(line)
    head = ("rate", "rank", "epochs", "batch", "authors", "steps", "author's held-out papers", "others' papers", "author beyond others")
    shown = [head, ("---",) * len(head)]
    for (rate, rank, epochs, batch), some in sorted(rows.items()):
        own, others = ([line[f"{whose}before"] - line[f"{whose}after"] for line in some] for whose in ("", "others_"))
        beyond = [a - b for a, b in zip(own, others, strict=True)]
        steps = f"{min(line['steps'] for line in some)} to {max(line['steps'] for line in some)}"
        shown.append((f"{rate:g}", str(rank), f"{epochs:g}", str(batch), str(len(some)), steps, *map(_spread, (own, others, beyond))))
    return "\n".join("| " + " | ".join(row) + " |" for row in shown)


def _spread(gains: list[float]) -> str:
    return f"{sum(gains) / len(gains):.3f} ({min(gains):.3f} to {max(gains):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("authors", type=Path, help="folder with a folder of papers per author")
    parser.add_argument("--scratch", type=Path, default=Path(".benchmarks") / "recipe", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("recipe.jsonl"), help="(default: %(default)s)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--grid", default=",".join(GRIDS), help="of rates, ranks, epochs; the others stay in the middle")
    parser.add_argument("--format", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=8, help="sequences per optimizer step (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=MIDDLE["learning_rate"], help="in the middle (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=512, help="tokens per sequence (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=12_000, help="of training text per author (default: %(default)s)")
    parser.add_argument("--held-out-tokens", type=int, default=4_000, help="of valid and of test (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print what stands in --out, and try nothing")
    asked = parser.parse_args()
    done = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.is_file() else []
    if asked.table:
        return print(table(done))
    logging.getLogger("gswa").setLevel(logging.ERROR)
    root = asked.scratch.absolute()
    papers = sorted(path for path in asked.authors.iterdir() if path.is_dir())
    authors = {path.name: prepared(path, root / path.name, asked.tokens, asked.held_out_tokens) for path in papers}
    batch = min(asked.batch, 4)
    common = {"model_id": asked.model, "number_format": asked.format, "max_seq_length": asked.limit, "seed": SEED, "evaluations": 3}
    common |= {"batch_size": batch, "gradient_accumulation": asked.batch // batch}
    for change, name in product([change for grid in asked.grid.split(",") for change in GRIDS[grid]], authors):
        settings = {**MIDDLE, "learning_rate": asked.rate, **change}
        if any(line["author"] == name and line["settings"] == settings for line in done):
            continue
        others = held_out_of_others(root, authors, name, common)
        found = trained(root / "runs", authors[name], others, {**common, **settings})
        line = {"benchmark": "recipe", "author": name, "model": asked.model, "format": asked.format}
        line |= {"batch": asked.batch, "limit": asked.limit, "settings": settings, **found}
        with asked.out.open("a") as out:
            out.write(json.dumps({**line, **machine()}) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
