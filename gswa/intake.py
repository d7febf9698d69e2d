"""What a run is made from: the run's folder, the papers or the user's own examples."""

import logging
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gswa import examples, hardware, settle
from gswa.chunking import data_digests
from gswa.config import RunConfig, RunRequest, Settings
from gswa.corpus import index
from gswa.corpus.files import find_files
from gswa.corpus.index import Corpus, ParsePlan, check_corpus, read_documents
from gswa.corpus.report import Row
from gswa.disk import check_writable
from gswa.errors import ConfigError, DataError
from gswa.examples import PrepareReport
from gswa.files import short_digest, write_json, write_lines
from gswa.formats import Faults, read_examples
from gswa.pairs import PairsReport, make_pairs, plain_sides, survey, write_pairs
from gswa.recipe import Recipe, read_recipe
from gswa.records import HELD_OUT, SPLITS, Example, Split
from gswa.rundir import RunDir
from gswa.workspace import Workspace
from gswa.writers import BaseWriter, ServerWriter, Writer

log = logging.getLogger("gswa")
PLAIN_EPOCHS = 3.0  # that a run's steps are taken for, where it counts steps in place of epochs


def check(request: RunRequest) -> None:
    """Raises what can be known before a run is made: no papers or data, a run that cannot be resumed, a folder that cannot be written."""
    workspace = Workspace()
    check_writable(workspace.runs)
    if request.resume:
        _unfinished(workspace.find_run(request.resume))
    elif request.data is None:
        check_corpus(_papers(workspace), request.parser)
        check_writable(workspace.parsed)
        check_writable(workspace.training)
    elif not (request.data / "train.jsonl").is_file():
        missing = f"{request.data}: is a file" if request.data.is_file() else f"{request.data / 'train.jsonl'}: no such file"
        raise DataError(
            f"{missing}; --data takes a folder of train.jsonl, valid.jsonl and test.jsonl, as 'python -m gswa.train prepare' writes them"
        )


def _unfinished(run: RunDir) -> RunDir:
    if run.status() == "completed":
        raise ConfigError(f"{run.id}: this run is completed; there is nothing to resume. Its report: {run.report_file}")
    return run


def open_run(request: RunRequest, flow_run: str | None = None, deployment: str | None = None) -> RunDir:
    """The run to continue, or a new one that remembers what was asked of it, and by which Prefect flow run and deployment.

    A flow run that Prefect starts again continues its own run. A deployment that is run again continues the newest run it
    left unfinished, where the same was asked.
    """
    workspace = Workspace()
    if request.resume:
        run = _unfinished(workspace.find_run(request.resume))
        log.info("continuing run %s", run.path)
        return run
    for run in workspace.run_dirs():
        metadata = run.metadata()
        again = flow_run is not None and metadata.get("flow_run_id") == flow_run
        redeployed = deployment is not None and metadata.get("deployment_id") == deployment and request_of(run) == request
        if (again or redeployed) and run.status() in ("created", "interrupted"):
            log.info("continuing run %s", run.path)
            return run
    check(request)
    run = RunDir.create(workspace.runs, request.name, request.description)
    write_json(run.request_file, request.model_dump(mode="json"))
    run.update(flow_run_id=flow_run, deployment_id=deployment)
    log.info("run %s", run.path)
    return run


def request_of(run: RunDir) -> RunRequest:
    return RunRequest.model_validate_json(run.request_file.read_text(encoding="utf-8"))


def papers(workspace: Workspace) -> Path:
    """The author's papers, or the sample corpus where there are none yet."""
    chosen = _papers(workspace)
    if chosen == workspace.sample_corpus:
        log.warning("no papers in %s yet: the sample corpus in %s takes their place", workspace.corpus, chosen)
    return chosen


def _papers(workspace: Workspace) -> Path:
    own = any(find_files(workspace.corpus)) or not any(find_files(workspace.sample_corpus))
    return workspace.corpus if own else workspace.sample_corpus


def plan_parse(run: RunDir) -> ParsePlan | None:
    """Which papers must be read; None where the request brings its own examples, and where a run that is resumed has them already."""
    request = request_of(run)
    if request.data is not None or run.examples.is_dir():
        return None
    workspace = Workspace()
    return index.plan(papers(workspace), workspace.parsed, request.parser)


def finish_parse(todo: ParsePlan, read: Iterable[Row]) -> Corpus:
    corpus = index.finish(todo, read)
    log.info("corpus: %s", outcome(corpus))
    return corpus


def parse(run: RunDir) -> Corpus | None:
    """The whole of it in this process."""
    todo = plan_parse(run)
    return finish_parse(todo, index.read_batch(todo.jobs, todo.parsed, on_progress=index.logged_progress())) if todo else None


def parse_command(folder: Path | None, parser: str, every: float) -> Corpus:
    """Without a run; how far it is, `every` so many seconds."""
    workspace = Workspace()
    return index.parse_corpus(folder or papers(workspace), workspace.parsed, parser, index.logged_progress(every))


def outcome(corpus: Corpus) -> str:
    """'7 of 8 files read, 1 set aside (each with its reason in …/report.md)'."""
    aside = f", {corpus.set_aside} set aside (each with its reason in {corpus.folder / 'report.md'})" if corpus.set_aside else ""
    return f"{corpus.documents} of {corpus.files} files read{aside}"


def pairs(run: RunDir, corpus: Corpus | None) -> None:
    """Plain versions of the passages that are to be rewritten, into data/pairs; what is there already is kept."""
    if corpus is None or run.examples.is_dir():
        return
    request, workspace = request_of(run), Workspace()
    recipe = read_recipe(workspace.recipe)
    found = survey(read_documents(corpus.folder), recipe, seed_of(request))
    if not found.passages:
        return
    config = settle.settle(request, hardware.probe(settle.memory_limit_gb(request))).config
    made = make_pairs(found, workspace.pairs, _writer(run, config, recipe), recipe, config.epochs or PLAIN_EPOCHS)
    run.update(pairs=made.model_dump())
    log.log(logging.INFO if made.ready == made.wanted else logging.WARNING, "%s", made.in_words())


def pairs_command(model_id: str | None) -> PairsReport:
    """All of them, whatever it takes, for the corpus as it was parsed last. Gives what came of it."""
    workspace = Workspace()
    recipe = read_recipe(workspace.recipe)
    request = RunRequest(settings=Settings(model_id=model_id))
    found = survey(read_documents(workspace.parsed), recipe, seed_of(request))
    config = settle.settle(request, hardware.probe(None)).config
    workspace.pairs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.pairs) as folder:
        return write_pairs(found.passages, workspace.pairs, _writer(RunDir.create(Path(folder)), config, recipe))


def _writer(run: RunDir, config: RunConfig, recipe: Recipe) -> Writer:
    return ServerWriter(recipe.pairs.url, recipe.pairs.model) if recipe.pairs.url else BaseWriter(run, config)


def prepare(run: RunDir, corpus: Corpus | None) -> None:
    """Write the run's own copy of the examples, all of it or nothing: from the papers, or from the folder the request names."""
    if run.examples.is_dir():
        return
    request = request_of(run)
    workspace = Workspace()
    if corpus is not None:
        made = write_examples(workspace, seed_of(request))
        said = run.metadata().get("pairs")
        rewriting = {"rewriting": PairsReport.model_validate(said).in_words()} if said else {}
        run.update(corpus_fingerprint=corpus.fingerprint, data=made.model_dump() | rewriting)
    source = workspace.training if request.data is None else request.data
    unfinished = run.examples.with_name("examples.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    faults = Faults(logged=True)
    answers = {split: array("Q") for split in SPLITS}
    for split in SPLITS:
        file = source / f"{split}.jsonl"
        given = read_examples(file, faults.of(file)) if split == "train" or file.is_file() else iter(())
        write_lines(unfinished / file.name, _digested(given, answers[split]))
    if request.data is not None:
        _warn_of_known(answers)
    run.update(data_files=data_digests(source), passed_over=faults.found)
    unfinished.rename(run.examples)


def _digested(given: Iterable[Example], answers: "array[int]") -> Iterator[Example]:
    """As they pass, a digest of each example's answer."""
    for example in given:
        answers.append(short_digest(example.target.strip()))
        yield example


def _warn_of_known(answers: Mapping[Split, "array[int]"]) -> None:
    """The user's own splits are taken as they are; what their held-out losses are worth is said."""
    digests = {split: np.frombuffer(found, dtype=np.uint64) for split, found in answers.items()}
    for split in HELD_OUT:
        known = int(np.isin(digests[split], digests["train"]).sum())
        if known:
            of = len(digests[split])
            log.warning(
                "%s.jsonl: %d of its %d answers stand in train.jsonl too; a loss on them says nothing about new text", split, known, of
            )
    if not len(digests["valid"]):
        log.warning("valid.jsonl: missing or empty, so that the last checkpoint is taken and not the best one")


def prepare_command(workspace: Workspace, seed: int) -> dict[str, Any]:
    """Without a run: what was written, and whether rewriting will be trained."""
    made = write_examples(workspace, seed)
    meant = read_recipe(workspace.recipe).mix.get("rewrite", 0) > 0
    untrained = "untrained: no passage has a plain version to be rewritten from; the command `pairs` has them written"
    return made.model_dump() | ({"rewriting": untrained} if meant and "rewrite" not in made.kinds else {})


def write_examples(workspace: Workspace, seed: int) -> PrepareReport:
    """The papers as they were parsed last, and the plain versions that there are, to data/training."""
    recipe = read_recipe(workspace.recipe)
    plain = {} if recipe.pairs.make == "never" else plain_sides(workspace.pairs)
    return examples.prepare(read_documents(workspace.parsed), workspace.training, seed, recipe, plain)


def seed_of(request: RunRequest) -> int:
    """The seed of flag or file; what a run was split by is what it is reproduced by."""
    seed = settle.asked(request, "seed")
    return int(RunConfig.model_fields["seed"].default if seed is None else seed)
