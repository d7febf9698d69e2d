"""The plots: present and honest whatever the run holds, with titles that state the finding."""

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_run import empty_run, full_run, step_metrics, trained_run

from gswa.errors import ConfigError
from gswa.report import findings
from gswa.report.figures import PLOTS, svg, write_plots
from gswa.rundir import RunDir


def size(png: Path) -> tuple[int, int]:
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.mark.parametrize("make", [empty_run, lambda folder: trained_run(folder, 1), full_run])
def test_every_run_gets_all_four_plots(tmp_path: Path, make):
    paths = write_plots(make(tmp_path))
    assert [path.name for path in paths] == ["loss.png", "throughput.png", "memory.png", "length_distribution.png"]
    assert all(size(path)[0] >= 800 for path in paths)


def test_only_the_plots_asked_for_are_drawn(tmp_path: Path):
    run = trained_run(tmp_path, 3)
    write_plots(run, ["loss", "loss"])
    assert [path.name for path in run.plots.iterdir()] == ["loss.png"]


def test_an_unknown_plot_is_an_error_that_names_the_nearest_and_draws_nothing(tmp_path: Path):
    run = trained_run(tmp_path, 3)
    with pytest.raises(ConfigError, match="unknown plot 'troughput'; did you mean throughput"):
        write_plots(run, ["loss", "troughput"])
    assert not run.plots.exists()


def title(run: RunDir, plot: str) -> str:
    return PLOTS[plot](run).get_suptitle()


def test_titles_state_what_the_records_say(tmp_path: Path):
    run = full_run(tmp_path)
    steps = run.steps()
    assert title(run, "loss") == f"Train loss fell from {steps[0].train_loss:.2f} to {steps[-1].train_loss:.2f} in 42 steps"
    assert title(run, "memory") == "Memory peaked at 1.15 GB, 30 % of the 3.80 GB it may use"
    assert title(run, "length_distribution") == "51 of 345 examples were over 512 tokens; after splitting, none is"


def test_titles_of_a_run_without_steps_say_so(tmp_path: Path):
    assert {title(empty_run(tmp_path), plot) for plot in PLOTS} == {"No steps recorded", "No lengths recorded"}


def test_a_rising_loss_is_not_called_falling():
    assert (
        findings.loss_finding([step_metrics(1, train_loss=2.0), step_metrics(2, train_loss=3.0)])
        == "Train loss rose from 2.00 to 3.00 in 2 steps"
    )
    assert "not a number at step 2" in findings.loss_finding([step_metrics(1), step_metrics(2, train_loss=math.nan)])


def drawn_lines(run: RunDir, plot: str) -> dict[str, tuple[str, str]]:
    """Label → (colour, line style)."""
    return {str(line.get_label()): (str(line.get_color()), str(line.get_linestyle())) for line in PLOTS[plot](run).axes[0].get_lines()}


def test_colours_are_the_guides(tmp_path: Path):
    lines = drawn_lines(full_run(tmp_path), "loss")
    assert lines["train, mean of 5 steps"][0] == "#0072B2"
    assert lines["valid"] == ("#009E73", "-")
    assert lines["out of memory"] == ("#D55E00", "--")


def test_memory_shows_limit_and_prediction_as_lines_when_known(tmp_path: Path):
    known, unknown = full_run(tmp_path / "known"), trained_run(tmp_path / "unknown")
    assert {"limit: 3.80 GB", "predicted peak: 1.31 GB"} <= drawn_lines(known, "memory").keys()
    assert not [label for label in drawn_lines(unknown, "memory") if "limit" in label or "predicted" in label]


def test_a_limit_far_above_the_peak_does_not_flatten_the_curve(tmp_path: Path):
    run = full_run(tmp_path)
    run.hardware_file.write_text(run.hardware_file.read_text().replace("3.8", "62.0").replace("3.6", "61.0"))
    axes = PLOTS["memory"](run).axes[0]
    assert "limit: 62.0 GB (above this scale)" in {line.get_label() for line in axes.get_lines()}
    assert axes.get_ylim()[1] < 2


def test_the_same_run_gives_the_same_picture(tmp_path: Path):
    run = trained_run(tmp_path)
    assert svg(PLOTS["loss"](run)) == svg(PLOTS["loss"](run))


def test_a_long_run_gives_a_small_picture(tmp_path: Path):
    run = empty_run(tmp_path)
    run.train_steps_file.parent.mkdir()
    run.train_steps_file.write_text("".join(step_metrics(n).model_dump_json() + "\n" for n in range(1, 5_001)), encoding="utf-8")
    assert all(len(svg(draw(run))) < 500_000 for draw in PLOTS.values())


@given(st.lists(st.floats(-10, 10), max_size=80), st.integers(1, 51))
def test_the_moving_average_stays_within_the_values_and_keeps_the_ends(values: list[float], window: int):
    smooth = findings.moving_average(values, window)
    assert len(smooth) == len(values)
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for value in smooth)
    assert not values or (smooth[0], smooth[-1]) == (values[0], values[-1])


def test_the_loss_plot_marks_the_checkpoint_that_became_the_adapter(tmp_path: Path):
    run = full_run(tmp_path)
    run.update(chosen_step=21)
    axes = PLOTS["loss"](run).axes[0]
    (mark,) = [line for line in axes.get_lines() if line.get_label() == "adapter taken at step 21"]
    assert mark.get_xydata().tolist() == [[21, 4.71]]
    assert "valid loss fell from 5.70 to 4.71" in axes.get_title(loc="left")
