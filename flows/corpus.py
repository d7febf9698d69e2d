"""Papers to documents, in batches of files: each batch is a task, and who runs the tasks is a setting.

    threads      this process, a batch at a time; every core reads            (the default)
    processes    as many batches at a time as there are cores
    dask, ray    the cluster that DASK_SCHEDULER_ADDRESS or RAY_ADDRESS names, else one made on this machine

The same documents and the same report come out of each. A cluster's machines must see the project's folder.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from prefect import flow, unmapped
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from gswa import intake
from gswa.config import Runner
from gswa.corpus.index import Corpus
from gswa.corpus.isolate import stopped_with_us
from gswa.errors import ConfigError
from gswa.rundir import RunDir
from tasks.data import publish_corpus, read_batch

BATCH_FILES = 100


def parse(run: RunDir) -> Corpus | None:
    """`data/corpus/raw` to one record per document; None where the run has its examples already."""
    runner = intake.request_of(run).task_runner
    return parse_corpus.with_options(task_runner=task_runner(runner))(run, children=None if runner == "threads" else 1)


@flow(name="parse-corpus")
def parse_corpus(run: RunDir, children: int | None = None) -> Corpus | None:
    todo = intake.plan_parse(run)
    if todo is None:
        return None
    batches = todo.batches(BATCH_FILES)
    done = [at * BATCH_FILES for at in range(len(batches))]
    with stopped_with_us():
        read = read_batch.map(batches, unmapped(todo.parsed), done, unmapped(len(todo.jobs)), unmapped(children)) if batches else None
        rows = [row for rows in read.result() for row in rows] if read else []
    corpus = intake.finish_parse(todo, rows)
    publish_corpus(corpus)
    return corpus


def task_runner(name: Runner) -> TaskRunner[Any]:
    """Raises ConfigError where its package is not installed."""
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=1)
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=os.cpu_count())
    if find_spec(f"prefect_{name}") is None:
        raise ConfigError(f'--task-runner {name}: prefect-{name} is not installed; pip install "gswa[{name}]", or leave it out')
    address = os.environ.get(f"{name.upper()}_{'SCHEDULER_' if name == 'dask' else ''}ADDRESS")
    runner: TaskRunner[Any] = getattr(import_module(f"prefect_{name}"), f"{name.title()}TaskRunner")(address=address)
    return runner
