"""Papers to chunks."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import deployment, flow_run

from gswa import chunking, intake
from gswa.config import RunRequest
from gswa.corpus.index import Corpus
from gswa.records import LengthStats
from gswa.rundir import RunDir


@task
def create_run(request: RunRequest) -> RunDir:
    return intake.open_run(request, flow_run.get_id(), deployment.get_id())


@task
def parse(run: RunDir) -> Corpus | None:
    """`data/corpus/raw` to one record per document; the `corpus` artifact has a row per file."""
    corpus = intake.parse(run)
    if corpus is not None:
        create_markdown_artifact((corpus.folder / "report.md").read_text(encoding="utf-8"), key="corpus", description="Files of the corpus")
    return corpus


@task
def prepare(run: RunDir, corpus: Corpus | None) -> None:
    """Documents to chat examples, split by document."""
    intake.prepare(run, corpus)


@task
def preprocess(run: RunDir) -> LengthStats:
    """Examples to chunks that fit, with statistics and the conservation check."""
    return chunking.chunks(run, run.current_config())
