"""Papers to chunks."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import deployment, flow_run

from gswa import chunking, intake
from gswa.config import RunRequest
from gswa.corpus import index, report
from gswa.corpus.index import Corpus
from gswa.corpus.isolate import Job
from gswa.corpus.report import Row
from gswa.records import LengthStats
from gswa.rundir import RunDir


@task
def create_run(request: RunRequest) -> RunDir:
    return intake.open_run(request, flow_run.get_id(), deployment.get_id())


@task
def read_batch(jobs: list[Job], parsed: Path, done: int, total: int, children: int | None) -> list[Row]:
    """Some of the files to documents, each read in a child process; `done` of the `total` files are in batches before it."""
    tell = index.logged_progress()
    return index.read_batch(jobs, parsed, children, lambda read, _: tell(done + read, total))


@task
def publish_corpus(corpus: Corpus) -> None:
    """The `corpus` artifact: what was read, set aside and left out, with a row per file."""
    create_markdown_artifact(report.of_folder(corpus.folder), key="corpus", description="Files of the corpus")


@task
def pairs(run: RunDir, corpus: Corpus | None) -> None:
    """Plain versions of passages, by the base itself or a local server, to rewrite from."""
    intake.pairs(run, corpus)


@task
def prepare(run: RunDir, corpus: Corpus | None) -> None:
    """Documents to chat examples, split by document."""
    intake.prepare(run, corpus)


@task
def preprocess(run: RunDir) -> LengthStats:
    """Examples to chunks that fit, with statistics and the conservation check."""
    return chunking.chunks(run, run.current_config())
