"""GSWA from end to end: one author's papers in, a LoRA adapter and a report out.

    python flows/train.py                     this machine, default settings
    prefect deployment run gswa/train-linux   the same, through Prefect's server and worker

Each line of `finetune` is a task in tasks/, and each task calls one plain function in gswa/:

    step            task              what it does                                       function
    create_run      tasks/data.py     a folder runs/<time>, or the one to resume         gswa/intake.py
    parse           flows/corpus.py   PDF, DOCX, TXT → paragraphs under headings         gswa/corpus/
    pairs           tasks/data.py     passages → plain versions, to rewrite from         gswa/pairs.py
    prepare         tasks/data.py     documents → chat examples, split by document       gswa/examples.py
    probe           tasks/settings.py GPU, CPU, memory, disk                             gswa/hardware.py
    choose_plan     tasks/settings.py dry runs of candidates, when asked for             gswa/planner.py
    settle_config   tasks/settings.py default < profile < plan < file < flag             gswa/settle.py
    preprocess      tasks/data.py     examples → chunks that fit, none cut short         gswa/chunking.py
    train           tasks/train.py    a child process; out of memory: one rung down      gswa/attempt.py, gswa/ladder.py
    evaluate        tasks/results.py  held-out loss and samples of what lies on disk     gswa/attempt.py
    export          tasks/results.py  Modelfile and GGUF                                 gswa/export/
    report          tasks/results.py  plots, report.html, the dashboard's report         gswa/report/
"""

from prefect import flow

from flows.corpus import parse
from flows.local import run_here
from gswa.config import RunRequest
from gswa.records import RunSummary
from tasks.data import create_run, pairs, prepare, preprocess
from tasks.results import evaluate, export, report
from tasks.settings import choose_plan, probe, settle_config
from tasks.train import train


@flow(name="gswa")
def finetune(request: RunRequest = RunRequest()) -> RunSummary:  # noqa: B008  (frozen, so it can be shared)
    """One author's papers in, adapters and report out."""
    run = create_run(request)
    with run.open():  # one process at a time; afterwards completed, failed or interrupted, whatever happens inside
        corpus = parse(run)
        pairs(run, corpus)
        prepare(run, corpus)
        hardware = probe(run)
        plan = choose_plan(run, hardware)
        settle_config(run, hardware, plan)
        preprocess(run)
        train(run)
        evaluate(run)
        export(run)
    report(run)
    return run.summary()


if __name__ == "__main__":
    run_here(finetune, RunRequest())
