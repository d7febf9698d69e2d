"""What a run is made from: the run's folder, the papers or the user's own examples."""

import logging
import shutil
from pathlib import Path

from gswa import examples
from gswa.config import RunRequest
from gswa.corpus.files import find_files
from gswa.corpus.index import Corpus, parse_corpus, read_documents
from gswa.errors import DataError
from gswa.records import SPLITS
from gswa.rundir import RunDir, write_json, write_lines
from gswa.workspace import Workspace

log = logging.getLogger("gswa")


def open_run(request: RunRequest) -> RunDir:
    """The run to continue, or a new one that remembers what was asked of it."""
    workspace = Workspace()
    if request.resume:
        return workspace.find_run(request.resume)
    run = RunDir.create(workspace.runs, request.name, request.description)
    write_json(run.request_file, request.model_dump(mode="json"))
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


def parse(request: RunRequest) -> Corpus | None:
    """Read the papers; None where the request brings its own examples."""
    if request.data is not None:
        return None
    workspace = Workspace()
    corpus = parse_corpus(papers(workspace), workspace.parsed, request.parser)
    log.info("corpus: %d of %d files read, %d set aside", corpus.documents, corpus.files, corpus.set_aside)
    return corpus


def prepare(run: RunDir, corpus: Corpus | None) -> None:
    """Write the run's own copy of the examples: from the papers, or from the folder that the request names."""
    request = request_of(run)
    workspace = Workspace()
    source = request.data or workspace.training
    if corpus is not None:
        made = examples.prepare(read_documents(corpus.folder), workspace.training, seed_of(request))
        run.update(corpus_fingerprint=corpus.fingerprint, data=made.model_dump())
    elif not (source / "train.jsonl").is_file():
        raise DataError(f"{source / 'train.jsonl'}: no such file; --data takes a folder of train.jsonl, valid.jsonl and test.jsonl")
    for split in SPLITS:
        file = source / f"{split}.jsonl"
        if corpus is not None:
            run.examples.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, run.examples / file.name)
        else:
            write_lines(run.examples / file.name, examples.read_examples(file) if file.is_file() else ())


def seed_of(request: RunRequest) -> int:
    from gswa.config import RunConfig

    return int(getattr(request.settings, "seed", None) or RunConfig.model_fields["seed"].default)
