"""What a run is made from: the run's folder, the papers or the user's own examples."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gswa import examples, settle
from gswa.config import RunConfig, RunRequest
from gswa.corpus.files import find_files
from gswa.corpus.index import Corpus, parse_corpus, read_documents
from gswa.errors import ConfigError
from gswa.records import SPLITS, Example
from gswa.rundir import RunDir, write_json, write_lines
from gswa.workspace import Workspace

log = logging.getLogger("gswa")


def open_run(request: RunRequest, flow_run: str | None = None, deployment: str | None = None) -> RunDir:
    """The run to continue, or a new one that remembers what was asked of it, and by which Prefect flow run and deployment.

    A flow run that Prefect starts again continues its own run. A deployment that is run again continues the newest run it
    left unfinished, where the same was asked.
    """
    workspace = Workspace()
    if request.resume:
        run = workspace.find_run(request.resume)
        if run.status() == "completed":
            raise ConfigError(f"{run.id}: this run is completed; there is nothing to resume. Its report: {run.report_file}")
        return run
    for run in workspace.run_dirs():
        metadata = run.metadata()
        again = flow_run is not None and metadata.get("flow_run_id") == flow_run
        redeployed = deployment is not None and metadata.get("deployment_id") == deployment and request_of(run) == request
        if (again or redeployed) and run.status() in ("created", "interrupted"):
            log.info("continuing run %s", run.path)
            return run
    run = RunDir.create(workspace.runs, request.name, request.description)
    write_json(run.request_file, request.model_dump(mode="json"))
    run.update(flow_run_id=flow_run, deployment_id=deployment)
    log.info("run %s", run.path)
    return run


def request_of(run: RunDir) -> RunRequest:
    return RunRequest.model_validate_json(run.request_file.read_text(encoding="utf-8"))


def papers(workspace: Workspace) -> Path:
    """The author's papers, or the sample corpus where there are none yet."""
    if any(find_files(workspace.corpus)) or not any(find_files(workspace.sample_corpus)):
        return workspace.corpus
    log.warning("%s is empty: training on the sample corpus in %s", workspace.corpus, workspace.sample_corpus)
    return workspace.sample_corpus


def parse(run: RunDir) -> Corpus | None:
    """Read the papers; None where the request brings its own examples, and where a run that is resumed has them already."""
    request = request_of(run)
    if request.data is not None or run.examples.is_dir():
        return None
    workspace = Workspace()
    corpus = parse_corpus(papers(workspace), workspace.parsed, request.parser)
    log.info("corpus: %d of %d files read, %d set aside", corpus.documents, corpus.files, corpus.set_aside)
    return corpus


def prepare(run: RunDir, corpus: Corpus | None) -> None:
    """Write the run's own copy of the examples, all of it or nothing: from the papers, or from the folder the request names."""
    if run.examples.is_dir():
        return
    request = request_of(run)
    workspace = Workspace()
    if corpus is not None:
        made = examples.prepare(read_documents(corpus.folder), workspace.training, seed_of(request))
        run.update(corpus_fingerprint=corpus.fingerprint, data=made.model_dump())
    source = workspace.training if request.data is None else request.data
    unfinished = run.examples.with_name("examples.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    for split in SPLITS:
        file = source / f"{split}.jsonl"
        given = examples.read_examples(file) if split == "train" or file.is_file() else iter(())
        write_lines(unfinished / file.name, _told_apart(given))
    unfinished.rename(run.examples)


def _told_apart(given: Iterator[Example]) -> Iterator[Example]:
    """Every id once: what was trained is kept by example, so that two of one name would be taken for each other."""
    seen: Counter[str] = Counter()
    for example in given:
        seen[example.id] += 1
        again = seen[example.id] > 1
        yield example.model_copy(update={"id": f"{example.id}#{seen[example.id]}"}) if again else example


def seed_of(request: RunRequest) -> int:
    """The seed of flag or file; what a run was split by is what it is reproduced by."""
    seed = settle.asked(request, "seed")
    return int(RunConfig.model_fields["seed"].default if seed is None else seed)
