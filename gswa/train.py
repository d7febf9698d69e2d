"""The front door: `python -m gswa.train COMMAND`. A parser and a table of commands; each body lives beside its room."""

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text
from typer.exceptions import TyperException

from gswa.config import RunRequest, Settings, of_flags, parse_memory
from gswa.console import afterwards, in_words, message, rows_of, shown, shown_path, table, with_way_on
from gswa.errors import ConfigError, GswaError, Interrupted
from gswa.rundir import RunDir

app = typer.Typer(
    name="gswa.train",
    help="One author's papers in, a LoRA adapter that writes like the author out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

# In any folder: pyproject.toml says the same, and is read in the checkout only.
PREFECT = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal shows our own lines; Prefect's go to its dashboard
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}

Model = Annotated[str | None, typer.Option("--model", "-m", help="gswa-tiny (built in), smollm2-135m, a local folder, or a hub id.")]
Limit = Annotated[float | None, typer.Option("--memory-limit", parser=parse_memory, metavar="8GB", help="Train as a machine of this size.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before starting.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Latest = Annotated[bool, typer.Option("--latest", help="The newest run.")]
RunOption = Annotated[Path | None, typer.Option("--run-dir", help="Folder or id of a run.")]


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    memory_limit: Limit = None,
    debug: Debug = False,
) -> None:
    """Show hardware, and the settings it would train with."""
    from gswa import advice, hardware
    from gswa.number_formats import with_formats
    from gswa.workspace import Workspace

    workspace = Workspace()
    machine = with_formats(hardware.probe(memory_limit), workspace, measure=lambda _: {})  # as measured before; not now, it takes seconds
    if as_json:
        console.print_json(data=advice.info_json(machine, workspace))
        return
    _table(["", ""], advice.info_table(machine, workspace))
    found = advice.outlooks(machine, workspace)
    for header, rows in (advice.models_table(found), advice.truths_table(found)):
        console.print()
        _table(header, rows)


@app.command()
def parse(
    input: Annotated[Path | None, typer.Option("--input", "-i", help="Folder of papers, in place of data/corpus/raw.")] = None,
    parser: Annotated[str, typer.Option("--parser", help="auto, unstructured or pymupdf.")] = "auto",
    debug: Debug = False,
) -> None:
    """Read the papers: PDF, DOCX, TXT and Markdown to paragraphs under headings."""
    from gswa import intake

    corpus = intake.parse_command(input, parser, every=0.5 if console.is_terminal else 5.0)
    console.print(f"{intake.outcome(corpus)}\nwritten to {corpus.folder}", markup=False)


@app.command()
def pairs(model: Model = None, debug: Debug = False) -> None:
    """Write plain versions of passages, to train rewriting from: with the base model, or the server of configs/examples.yaml."""
    from gswa import intake

    made = intake.pairs_command(model)
    _table(["", ""], rows_of(made.model_dump()))
    console.print(made.in_words(), markup=False)


@app.command()
def prepare(seed: Annotated[int, typer.Option("--seed", help="Seed of the split.")] = 42, debug: Debug = False) -> None:
    """Turn the parsed papers into chat examples, split by document."""
    from gswa import intake
    from gswa.workspace import Workspace

    workspace = Workspace()
    _table(["", ""], rows_of(intake.prepare_command(workspace, seed)))
    console.print(f"written to {workspace.training}", markup=False)


@app.command()
def preprocess(
    input: Annotated[Path | None, typer.Option("--input", "-i", help="Folder of train/valid/test.jsonl, or one JSONL file.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the chunks.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=128, help="Tokens per chunk, as the chat renders it.")] = None,
    overlap: Annotated[int, typer.Option("--overlap", min=0, help="Tokens of context before a later part; no loss on them.")] = 0,
    strategy: Annotated[str, typer.Option("--strategy", help="auto, paragraph, sentence or token.")] = "auto",
    analyze_only: Annotated[bool, typer.Option("--analyze-only", help="Write no chunks, only the report in --report-dir.")] = False,
    report_dir: Annotated[Path | None, typer.Option("--report-dir", help="Folder for preprocess_report.md.")] = None,
    model: Model = None,
    debug: Debug = False,
) -> None:
    """Split long examples so that none is ever cut, and report their lengths."""
    from rich.markdown import Markdown

    from gswa.preprocess import preprocess_command

    report = preprocess_command(input, output, max_tokens, overlap, strategy, analyze_only, report_dir, model)
    console.print(Markdown(report) if console.is_terminal else Text(report))


@app.command()
def plan(
    model: Model = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of train/valid/test.jsonl, in place of the corpus.")] = None,
    max_candidates: Annotated[int, typer.Option("--max-candidates", min=1, help="Dry runs at most.")] = 5,
    dry_run_steps: Annotated[int, typer.Option("--dry-run-steps", min=1, help="Optimizer steps per dry run.")] = 3,
    max_seconds: Annotated[int, typer.Option("--max-seconds", min=1, help="Seconds that planning may take.")] = 600,
    margin: Annotated[float | None, typer.Option("--margin", help="Share of memory that a plan may use.")] = None,
    memory_limit: Limit = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the candidates' order.")] = None,
    skip_dry_run: Annotated[bool, typer.Option("--skip-dry-run", help="Name the candidates and measure none.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the plan.")] = None,
    debug: Debug = False,
) -> None:
    """Find good settings by dry runs on the longest real rows."""
    from gswa.planner import explained, plan_table
    from gswa.planning import plan_command

    settings = of_flags(Settings, model_id=model, margin=margin, seed=seed, memory_limit_gb=memory_limit)
    request = of_flags(
        RunRequest, settings=settings, data=data, auto_plan=True, max_candidates=max_candidates, dry_run_steps=dry_run_steps,
        max_plan_seconds=max_seconds, skip_dry_run=skip_dry_run,
    )  # fmt: skip
    made, file = plan_command(request, output)
    header, *rows = plan_table(made)
    _table(header, rows)
    console.print(f"{explained(made)}\nwritten to {file}\ntrain with it: python -m gswa.train train --config {file}", markup=False)


@app.command()
def train(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML or JSON settings, or a run's run_config.json.")] = None,
    model: Model = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of train/valid/test.jsonl, in place of the corpus.")] = None,
    name: Annotated[str, typer.Option("--name", "-n", help="Added to the run's folder name.")] = "",
    description: Annotated[str, typer.Option("--description", help="A note for yourself.")] = "",
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", help="Sequences per micro-batch.")] = None,
    max_seq_length: Annotated[int | None, typer.Option("--max-seq-length", help="Tokens per sequence.")] = None,
    num_layers: Annotated[int | None, typer.Option("--num-layers", help="Adapted blocks, counted from the last.")] = None,
    iters: Annotated[int | None, typer.Option("--iters", help="Optimizer steps, in place of epochs.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the data.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr", help="Peak learning rate.")] = None,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", help="Rank of the adapter.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
    preprocess: Annotated[bool, typer.Option("--preprocess", help="Split long examples, which is always done.")] = False,
    auto_plan: Annotated[bool, typer.Option("--auto-plan", help="Choose settings by dry runs.")] = False,
    memory_safe: Annotated[bool, typer.Option("--memory-safe", help="One profile lower, evaluation batch 1, margin 0.7.")] = False,
    backend: Annotated[str | None, typer.Option("--backend", help="torch or mlx.")] = None,
    memory_limit: Limit = None,
    num_processes: Annotated[int | None, typer.Option("--num-processes", help="Processes that train together.")] = None,
    no_oom_fallback: Annotated[bool, typer.Option("--no-oom-fallback", help="Fail when memory runs out.")] = False,
    skip_plots: Annotated[bool, typer.Option("--skip-plots", help="No plots and no HTML report.")] = False,
    parser: Annotated[str, typer.Option("--parser", help="auto, unstructured or pymupdf.")] = "auto",
    task_runner: Annotated[str, typer.Option("--task-runner", help="Who reads the papers: threads, processes, dask or ray.")] = "threads",
    yes: Yes = False,
    debug: Debug = False,
) -> None:
    """Train: the whole way from papers to adapter and report."""
    settings = of_flags(
        Settings, model_id=model, batch_size=batch_size, max_seq_length=max_seq_length, num_layers=num_layers, iters=iters, epochs=epochs,
        learning_rate=learning_rate, lora_rank=lora_rank, seed=seed, backend=backend, num_processes=num_processes,
        preprocess_enabled=True if preprocess else None, enable_oom_fallback=False if no_oom_fallback else None,
        memory_limit_gb=memory_limit,
    )  # fmt: skip
    request = of_flags(
        RunRequest, name=name, description=description, config=config, settings=settings, data=data, parser=parser, task_runner=task_runner,
        auto_plan=auto_plan, memory_safe=memory_safe, skip_plots=skip_plots,
    )  # fmt: skip
    _show_settings(request, ask=not yes)
    _run(request)


@app.command()
def resume(run: Annotated[str, typer.Argument(help="Id or folder of the run.")], debug: Debug = False) -> None:
    """Continue a run from its last checkpoint."""
    from gswa import intake

    request = RunRequest(resume=run)
    intake.check(request)
    _run(request)


@app.command()
def visualize(
    run_dir: RunOption = None,
    latest: Latest = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow a live run.")] = False,
    ascii: Annotated[bool, typer.Option("--ascii", help="Draw the loss in the terminal.")] = False,
    plots: Annotated[str | None, typer.Option("--plots", help="Only these: loss,throughput,memory,length_distribution.")] = None,
    debug: Debug = False,
) -> None:
    """Draw plots and report of a run again."""
    from gswa.report import terminal

    run = _chosen(run_dir, latest)
    if watch:
        for line in terminal.watch(run):
            console.print(line, markup=False)
    if ascii:
        console.print(terminal.ascii_loss_curve(run.steps()), markup=False)
        return
    from gswa.report import figures, page

    written = figures.write_plots(run, plots.split(",")) if plots else [*figures.write_plots(run), page.write_report(run)]
    for path in written:
        console.print(f"wrote {shown_path(path)}", markup=False)


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many runs.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """List recent runs, the newest first."""
    from gswa.report.terminal import run_rows
    from gswa.workspace import Workspace

    runs = [run.summary() for run, _ in zip(Workspace().run_dirs(), range(limit), strict=False)]
    if as_json:
        console.print_json(data=[summary.model_dump() for summary in runs])
    elif runs:
        _table(*run_rows(runs))
    else:
        console.print("no run yet; start one with 'make train-linux'")


@app.command()
def evaluate(
    run_dir: RunOption = None,
    latest: Latest = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Held-out loss before and after, and samples, of the adapter as it lies on disk."""
    from gswa import attempt
    from gswa.export.adapter import read_adapter
    from gswa.report.terminal import evaluation_text

    run = _chosen(run_dir, latest)
    read_adapter(run.adapters)  # where there is none, that is the reason, and no library's complaint
    attempt.evaluate(run)
    evaluation = run.evaluation()
    if evaluation is None:
        raise ConfigError(f"{run.id}: nothing was evaluated")
    if as_json:
        console.print_json(evaluation.model_dump_json())
    else:
        console.print(evaluation_text(evaluation), markup=False)


@app.command()
def export(
    run_dir: RunOption = None,
    latest: Latest = False,
    to: Annotated[Literal["modelfile", "merged", "gguf"], typer.Option("--to", help="What to write.")] = "modelfile",
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Read the files back and compare.")] = True,
    ollama_base: Annotated[str | None, typer.Option("--ollama-base", help="Library model for the Modelfile's FROM.")] = None,
    debug: Debug = False,
) -> None:
    """Write the files that Ollama, llama.cpp and vLLM read."""
    from gswa import export as exporting

    run = _chosen(run_dir, latest)
    report = exporting.export(run, to, ollama_base=ollama_base, verify=verify)
    _table(["", ""], [["wrote", shown_path(run.path / file)] for file in report.files])
    _table(["", ""], [["checked", text] for text in report.checked])


@app.command()
def fetch(model: Annotated[str, typer.Argument(help="smollm2-135m, or the hub id of a base model.")], debug: Debug = False) -> None:
    """Download a base model, and no more."""
    from gswa.basemodel import resolve_model

    console.print(str(resolve_model(model)), markup=False)


# -- what the commands share ---------------------------------------------------------------------------------------------
def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for number, line in enumerate(table(header, rows, console.width if console.is_terminal else None)):
        console.print(Text(line, style="bold" if number == 0 and any(header) else ""))


def _chosen(run_dir: Path | None, latest: bool) -> RunDir:
    """The run that is named, else the newest."""
    from gswa.workspace import Workspace

    if run_dir and latest:
        raise ConfigError("--run-dir and --latest are both given; leave one of them out")
    return Workspace().find_run(run_dir) if run_dir else Workspace().latest_run()


def _show_settings(request: RunRequest, ask: bool) -> None:
    """The settled configuration with the origin of each value; a person at a terminal is asked to go on.

    What cannot succeed is refused here, before Prefect is started.
    """
    from gswa import hardware, intake, settle
    from gswa.number_formats import with_formats
    from gswa.workspace import Workspace

    machine = hardware.probe(settle.memory_limit_gb(request))
    settled = settle.settle(request, machine)
    intake.check(request)
    settle.check_disk(settled.config, Workspace().runs)
    if not ask or not (sys.stdin.isatty() and console.is_terminal):
        return
    settled = settle.settle(request, with_formats(machine, Workspace()))
    _table(["setting", "value", "from"], [[name, in_words(value), settled.origin[name]] for name, value in settled.config])
    if not typer.confirm("Start training?", default=True):
        console.print("not started")
        raise typer.Exit


def _run(request: RunRequest) -> None:
    """The flow, in this process; afterwards the summary in the terminal."""
    for name, value in PREFECT.items():
        os.environ.setdefault(name, value)
    from flows.local import run_here
    from flows.train import finetune
    from gswa.report.terminal import ascii_loss_curve, metrics_summary
    from gswa.workspace import Workspace

    known = {run.id for run in Workspace().run_dirs()}

    def ours() -> list[RunDir]:
        resumed = request.resume and Workspace().find_run(request.resume)
        return [resumed] if resumed else [run for run in Workspace().run_dirs() if run.id not in known]

    try:
        summary = run_here(finetune, request)
    except KeyboardInterrupt as error:
        raise with_way_on(Interrupted("stopped by Ctrl-C"), ours()) from error
    except GswaError as error:
        raise with_way_on(error, ours())  # noqa: B904  (it is the same error)
    run = Workspace().find_run(summary.path)
    console.print(Text(f"\n{metrics_summary(run)}\n\n{ascii_loss_curve(run.steps())}\n"))
    console.print(Text("\n".join(table(["", ""], afterwards(run)))))  # not wrapped: its commands are there to be copied


def _terminate(*_: Any) -> None:
    raise Interrupted("stopped by SIGTERM", exit_code=75)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; every error becomes one message and its exit code, with the traceback only under --debug."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with shown(console):
            code = app(arguments, standalone_mode=False)
        if code:  # typer makes it of Ctrl-C, and raises nothing
            raise Interrupted("interrupted", exit_code=code)
        return 0
    except (GswaError, KeyboardInterrupt, typer.Abort) as error:
        return _say(error, arguments)
    except TyperException as error:
        error.show()  # type: ignore[attr-defined]  # the parser's own message, with the nearest right flag
        return 2
    except Exception as error:  # noqa: BLE001  (the last door: a person gets one message, and the traceback on request)
        return _say(error, arguments)


def _say(error: BaseException, arguments: list[str]) -> int:
    if "--debug" in arguments:
        errors.print_exception()
    notes = getattr(error, "__notes__", ())
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        error = Interrupted("interrupted")
    errors.print(f"error: {message(error)}", style="red", markup=False)
    for note in notes:
        errors.print(note, markup=False)
    return error.exit_code if isinstance(error, GswaError) else 1


if __name__ == "__main__":
    sys.exit(main())
