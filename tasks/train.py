"""The train task: retried as long as the ladder has a rung left."""

import logging
import time
from typing import Any

from prefect import Task, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from gswa import attempt
from gswa.records import StepMetrics
from gswa.report.terminal import progress_line
from gswa.rundir import RunDir

log = logging.getLogger("gswa")
RETRIES = 64  # above the length of every ladder: its foot ends the retries, not this number
SECONDS_BETWEEN_LINES = 1.0


def descend_ladder(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether to train again, one rung down. A plain function: Prefect passes over partials and methods without a word."""
    context = TaskRunContext.get()
    error = state.result(raise_on_failure=False)
    if context is None or not isinstance(error, BaseException):
        return False
    run: RunDir = context.parameters["run"]
    if not attempt.step_down(run, error):
        return False
    create_table_artifact(
        [event.model_dump(mode="json") for event in run.fallbacks()], key="oom-fallback", description="Steps down the ladder"
    )
    return True


@task(retries=RETRIES, retry_delay_seconds=0, retry_condition_fn=descend_ladder)
def train(run: RunDir) -> None:
    """One attempt in a child process. Called again with the same arguments, so the rung lives in the run."""
    attempt.train(run, log_steps())


def log_steps() -> attempt.Tell:
    """Logs the first step, the last, and between them one a second: each line is a row in the dashboard's database."""
    logged = float("-inf")

    def tell(step: StepMetrics, total: int) -> None:
        nonlocal logged
        if step.step == total or time.monotonic() - logged >= SECONDS_BETWEEN_LINES:
            logged = time.monotonic()
            log.info("%s", progress_line(step, total), extra={"step": step.step, "total": total})

    return tell
