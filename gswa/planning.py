"""The planner on real data: dry runs of its candidates in child processes."""

import tempfile
from pathlib import Path

from gswa import chunking, hardware, intake, planner, settle
from gswa.attempt import job_for
from gswa.backends.child import run_child
from gswa.config import RunConfig, RunRequest, Settled
from gswa.disk import check_writable
from gswa.errors import ConfigError, TrainingError
from gswa.files import write_json
from gswa.hardware import Hardware
from gswa.planner import Measured
from gswa.records import Plan, StepMetrics
from gswa.rundir import RunDir
from gswa.workspace import Workspace


def plan_run(run: RunDir, base: Settled, machine: Hardware, request: RunRequest) -> Plan:
    """Measure candidates around `base` on the run's own data; writes config/plan.json.

    What a flag or a file settled is not varied. A run that is resumed keeps its plan. Raises ConfigError when no candidate
    can be used.
    """
    made = run.plan()
    if made is not None and made.chosen is not None:
        return made
    given = {name for name, origin in base.origin.items() if origin in ("command line", str(request.config))}
    plan = planner.plan(
        base.config,
        memory_gb=machine.memory_gb,
        max_candidates=request.max_candidates,
        steps=request.dry_run_steps,
        max_seconds=request.max_plan_seconds,
        seed=base.config.seed,
        dry_run=None if request.skip_dry_run else lambda config: dry_run(run, config, request.dry_run_steps),
        fixed=given,
    )
    write_json(run.plan_file, plan.model_dump(mode="json"))
    if plan.chosen is None:
        raise ConfigError(planner.refusal(plan))
    return plan


def dry_run(run: RunDir, config: RunConfig, steps: int) -> Measured:
    """The candidate on the longest real rows, in a scratch folder; raises what training would raise."""
    chunking.chunks(run, config)
    with tempfile.TemporaryDirectory(dir=run.path) as folder:
        scratch = RunDir(Path(folder))
        job = job_for(run, config, action="dry_run").model_copy(update={"run": scratch.path, "max_steps": steps})
        run_child(job)
        measured = scratch.steps()
    if not measured:
        raise TrainingError("the dry run ended without a step")
    seconds = sum((step.trained_tokens - before) / step.tokens_per_sec for step, before in _with_previous(measured))
    return Measured(
        tokens_per_sec=measured[-1].trained_tokens / seconds,
        peak_memory_gb=max(step.peak_reserved_gb or step.peak_memory_gb for step in measured),
    )


def _with_previous(steps: list[StepMetrics]) -> list[tuple[StepMetrics, int]]:
    return [(step, before) for step, before in zip(steps, [0, *(s.trained_tokens for s in steps)], strict=False)]


def plan_command(request: RunRequest, output: Path | None) -> tuple[Plan, Path]:
    """Plan without training: the papers are read and prepared, the dry runs live in a scratch folder. Gives plan and file."""
    workspace = Workspace()
    machine = hardware.probe(settle.memory_limit_gb(request))
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
        intake.prepare(run, intake.parse(run))
        run.write_config(request, base)
        plan = plan_run(run, base, machine, request)
    write_json(file, plan.model_dump(mode="json"))
    return plan, file
