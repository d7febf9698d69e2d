"""Hardware, plan and configuration."""

from prefect import task
from prefect.artifacts import create_table_artifact

from gswa import hardware, intake, planner, planning, settle
from gswa.config import RunConfig
from gswa.files import write_json
from gswa.hardware import Hardware
from gswa.number_formats import with_formats
from gswa.planner import Measured
from gswa.records import Plan
from gswa.rundir import RunDir
from gswa.workspace import Workspace


@task
def probe(run: RunDir) -> Hardware:
    """What this machine is, into config/hardware_info.json."""
    request = intake.request_of(run)
    found = with_formats(hardware.probe(settle.memory_limit_gb(request)), Workspace())
    write_json(run.hardware_file, found.model_dump(mode="json"))
    return found


@task
def dry_run(run: RunDir, config: RunConfig, steps: int, seconds: float) -> Measured:
    """One candidate of the planner, tried in a child process; a task of its own, so that the dashboard shows what each took."""
    return planning.dry_run(run, config, steps, seconds)


@task
def choose_plan(run: RunDir, machine: Hardware) -> Plan | None:
    """Candidates measured by dry runs, into config/plan.json; the `plan` artifact has a row for each."""
    request = intake.request_of(run)
    if not request.auto_plan:
        return None
    plan = planning.plan_run(run, settle.settle(request, machine), machine, request, dry_run)
    create_table_artifact(planner.plan_table(plan), key="plan", description=planner.explained(plan))
    return plan


@task
def settle_config(run: RunDir, machine: Hardware, plan: Plan | None) -> None:
    """The layers of settings, merged into config/run_config.json."""
    settle.settle_run(run, intake.request_of(run), machine, plan)
