"""What came of the training."""

from prefect import task
from prefect.artifacts import create_markdown_artifact

from gswa import attempt, intake
from gswa import export as exporting
from gswa.report import figures, markdown, page
from gswa.rundir import RunDir


@task
def evaluate(run: RunDir) -> None:
    """Held-out loss and samples of the adapter as it lies on disk."""
    attempt.evaluate(run)


@task
def export(run: RunDir) -> None:
    """Modelfile and GGUF beside the adapter."""
    exporting.export(run)


@task
def report(run: RunDir) -> None:
    """Plots, reports/report.html and the `report` artifact."""
    if intake.request_of(run).skip_plots:
        return
    figures.write_plots(run)
    page.write_report(run)
    create_markdown_artifact(markdown.report_markdown(run), key="report", description=f"Run {run.id}")
