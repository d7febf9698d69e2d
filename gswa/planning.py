"""The planner on real data: predictions for the run's own rows, dry runs of the candidates in child processes, and what they taught."""

import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gswa import advice, chunking, hardware, intake, planner, settle
from gswa.attempt import job_for
from gswa.backends.child import run_child
from gswa.candidates import Foretold, Surroundings
from gswa.config import RunConfig, RunRequest, Settled, settings_in_words
from gswa.disk import check_writable
from gswa.dryruns import Known, fingerprint
from gswa.errors import ConfigError, GswaError, Interrupted, NoPlan, TrainingError
from gswa.files import write_json
from gswa.flops import tokens_per_second
from gswa.forecast import Forecaster, forecaster, learn, rows_uncut
from gswa.hardware import Hardware
from gswa.memory import Alive, Rows
from gswa.number_formats import with_formats
from gswa.planner import Measured
from gswa.records import Plan
from gswa.rundir import RunDir
from gswa.workspace import Workspace

log = logging.getLogger("gswa")
COUNT_SECONDS = 60.0
TryOut = Callable[[RunDir, RunConfig, int, float], Measured]  # run, settings, steps, seconds it may take


def dry_run(run: RunDir, config: RunConfig, steps: int, seconds: float) -> Measured:
    """The candidate on the longest real rows, with an evaluation step and a checkpoint, in a scratch folder.

    Raises what training would raise, and TrainingError where it takes longer than `seconds`.
    """
    chunking.chunks(run, config)
    with tempfile.TemporaryDirectory(dir=run.path) as folder:
        scratch = RunDir(Path(folder))
        job = job_for(run, config, action="dry_run").model_copy(update={"run": scratch.path, "max_steps": steps})
        result = run_child(job, seconds=seconds)
        speeds = sorted(step.tokens_per_sec for step in scratch.steps()[1:] or scratch.steps())  # the first one also warms up
    if not speeds:
        raise TrainingError("the dry run ended without a step")
    learn(run, config, result)
    return Measured(tokens_per_sec=speeds[len(speeds) // 2], peak_memory_gb=result["peak_memory_gb"])


def plan_run(run: RunDir, base: Settled, machine: Hardware, request: RunRequest, try_out: TryOut = dry_run) -> Plan:
    """Measure candidates around `base` on the run's own data; writes config/plan.json.

    What a flag or a file settled is not varied. A run that is resumed keeps its plan. Raises NoPlan when no candidate can be used.
    """
    made = run.plan()
    if made is not None and made.chosen is not None:
        return made
    began = time.monotonic()
    known = Known(Workspace().dry_runs, fingerprint(base.config.model_id, run, machine))
    forecast, rows = foreseen(run, base.config, machine)
    plan = planner.plan(
        base.config,
        memory_gb=machine.memory_gb,
        max_candidates=request.max_candidates,
        steps=request.dry_run_steps,
        max_seconds=request.max_plan_seconds,
        seed=base.config.seed,
        dry_run=None if request.skip_dry_run else _known_or_tried(run, known, request.dry_run_steps, try_out),
        here=surroundings(base, machine, request, forecast, rows),
    )
    if plan.chosen is not None:
        left = request.max_plan_seconds - (time.monotonic() - began)
        plan = plan.model_copy(update={"counted_memory_gb": counted_gb(run, base.config.replace(**plan.chosen), forecast, left)})
    write_json(run.plan_file, plan.model_dump(mode="json"))
    if plan.chosen is None:
        raise NoPlan(f"{planner.refusal(plan)}\n{_way_out(plan, machine)}")
    return plan


def foreseen(run: RunDir, config: RunConfig, machine: Hardware) -> tuple[Forecaster | None, Rows]:
    """What predicts memory for this run's longest rows, and their lengths. One for the whole plan: its dry runs teach the next one."""
    chunking.chunks(run, config)
    rows = rows_uncut(run, config)
    return forecaster(config.model_id, machine.compute_name, Workspace(), rows), rows


def surroundings(base: Settled, machine: Hardware, request: RunRequest, forecast: Forecaster | None, rows: Rows) -> Surroundings:
    """What the run's data and this machine say of candidates; settings that a flag or a file gave are fixed."""
    return Surroundings(
        fixed={name for name, origin in base.origin.items() if origin in ("command line", str(request.config))},
        foretell=partial(_foretell, forecast, rows, machine) if forecast else None,
        formats=machine.number_formats,
        longest=rows.train,
    )


def counted_gb(run: RunDir, config: RunConfig, forecast: Forecaster | None, seconds: float) -> float | None:
    """The peak of memory by the second opinion: the step gone through on tensors without data. None where it cannot be had in time."""
    if forecast is None:
        return None
    try:
        counted = run_child(job_for(run, config, action="count", rows=forecast.rows), seconds=min(seconds, COUNT_SECONDS))
    except Interrupted:
        raise
    except GswaError as error:
        log.info("live tensors were not counted: %s", error)
        return None
    return forecast(config, Alive(**counted)).peak_gb if counted else None


def _foretell(forecast: Forecaster, rows: Rows, machine: Hardware, config: RunConfig) -> Foretold:
    speed = tokens_per_second(forecast.shape, config, rows.train, machine.number_formats)
    return Foretold(forecast(config).peak_gb, speed)


def _known_or_tried(run: RunDir, known: Known, steps: int, try_out: TryOut) -> planner.DryRun:
    """A dry run, or what an earlier one of the same model, data, machine and versions measured."""

    def measured(config: RunConfig, seconds: float) -> Measured:
        found = known.get(config, steps)
        if found is None:
            found = try_out(run, config, steps, seconds)
            known.put(config, steps, found)
        settings = settings_in_words(config.model_dump())
        log.info("dry run: %s: %s tok/s, peak %.2f GB", settings, f"{found.tokens_per_sec:,.0f}", found.peak_memory_gb)
        return found

    return measured


def _way_out(plan: Plan, machine: Hardware) -> str:
    """The size of machine that would do, and the models that fit this one; where memory was not the reason, the flags that may help."""
    if not planner.is_short_of_memory(plan):
        return "--max-seconds gives the dry runs more time; --skip-dry-run chooses by prediction alone"
    peaks = [peak for trial in plan.trials if (peak := trial.peak_memory_gb or trial.predicted_memory_gb)]
    fitting = [each for each in advice.outlooks(machine, Workspace()) if each.verdict == "fits" or each.with_less]
    named = [f"{each.model.model_id} ({each.with_less or 'as it is'})" for each in fitting[:3]]
    needed = f"a machine or card with {min(peaks) / plan.margin:.1f} GB would do; " if peaks else ""
    here = f"here would fit --model {', or '.join(named)}" if named else "none of the models that GSWA knows fits here"
    return f"{needed}{here}; closing other programs helps where they hold memory"


def plan_command(request: RunRequest, output: Path | None) -> tuple[Plan, Path]:
    """Plan without training: the papers are read and prepared, the dry runs live in a scratch folder. Gives plan and file."""
    workspace = Workspace()
    machine = with_formats(hardware.probe(settle.memory_limit_gb(request)), workspace)
    base = settle.settle(request, machine)
    file = output or workspace.plan
    if file.is_dir():
        raise ConfigError(f"{file}: a folder; give --output the name of a file")
    check_writable(file.parent)
    intake.check(request)
    workspace.plan.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.plan.parent) as folder:
        run = RunDir.create(Path(folder), request.name)
        write_json(run.request_file, request.model_dump(mode="json"))
        write_json(run.hardware_file, machine.model_dump(mode="json"))
        intake.prepare(run, intake.parse(run))
        run.write_config(request, base)
        plan = plan_run(run, base, machine, request)
    write_json(file, plan.model_dump(mode="json"))
    return plan, file
