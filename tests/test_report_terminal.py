"""The terminal's view of a run: the guide's forms to the letter, and following a run that is still written to."""

import math
import threading
from pathlib import Path

import pytest
from report_run import empty_run, evaluation, full_run, step_metrics, trained_run

from gswa.records import Evaluation
from gswa.report.terminal import ascii_loss_curve, evaluation_text, follow, metrics_summary, progress_line, run_rows, watch
from gswa.rundir import RunDir

GUIDE = """\
Loss: 1.234 - 2.567
┌────────────────────────────────┐
│ ████                           │
│ █████                          │
│ ██████                         │
│ ████████                       │
│ ██████████                     │
│ █████████████                  │
│ ████████████████               │
│ ██████████████████████████████ │
└────────────────────────────────┘
 Step 0                    Step 500"""


def test_ascii_curve_is_the_guides_to_the_letter():
    heights = [8] * 4 + [7, 6] + [5] * 2 + [4] * 2 + [3] * 3 + [2] * 3 + [1] * 14
    losses = [1.234 + (height - 1) / 7 * (2.567 - 1.234) for height in heights]
    numbers = [round(at * 500 / 29) for at in range(30)]
    assert ascii_loss_curve([step_metrics(n, train_loss=loss) for n, loss in zip(numbers, losses, strict=True)]) == GUIDE


def test_progress_line_is_the_guides_to_the_letter():
    step = step_metrics(250, train_loss=1.8234, tokens_per_sec=456.7, peak_memory_gb=12.3)
    assert progress_line(step, 1000) == "[ 25.0%] Step   250: Loss=1.8234 | 456.7 tok/s | 12.3GB"


def test_progress_line_without_a_known_total_claims_no_share():
    assert progress_line(step_metrics(3), 0).startswith("Step     3: Loss=")


@pytest.mark.parametrize("count", [1, 2, 29, 30, 31, 1000])
def test_ascii_curve_keeps_its_box_at_any_number_of_steps(count: int):
    lines = ascii_loss_curve([step_metrics(n) for n in range(1, count + 1)]).splitlines()
    assert {len(line) for line in lines[1:-1]} == {34}
    assert len(lines) == 12
    assert lines[-1].split() == ["Step", "1", "Step", str(count)]


def test_ascii_curve_of_no_steps_says_so():
    assert ascii_loss_curve([]) == "Loss: no steps recorded"


def test_ascii_curve_says_which_losses_were_not_a_number():
    curve = ascii_loss_curve([step_metrics(1), step_metrics(2, train_loss=math.nan), step_metrics(3)])
    assert "(1 of 3 steps not a number)" in curve
    assert "not a number in any" in ascii_loss_curve([step_metrics(1, train_loss=math.inf)])


def test_metrics_summary_gives_losses_throughput_and_memory(tmp_path: Path):
    summary = metrics_summary(full_run(tmp_path))
    for expected in ("final", "min", "mean", "5.7000 → 4.5200 (-1.1800)", "5.6600 → 4.5800", "tok/s median", "limit 3.80 GB", "4 → 2"):
        assert expected in summary


def test_metrics_summary_of_an_empty_run_invents_nothing(tmp_path: Path):
    assert metrics_summary(empty_run(tmp_path)).splitlines() == ["Metrics summary", "  Status  created"]


def test_a_run_that_was_not_evaluated_shows_blanks_in_the_list(tmp_path: Path):
    header, (row,) = run_rows([empty_run(tmp_path).summary()])
    assert dict(zip(header, row, strict=True)) | {"Run": "", "Status": ""} == dict.fromkeys(header, "") | {"Steps": "0"}


def test_evaluation_text_shows_every_sample_whole():
    text = evaluation_text(evaluation())
    assert "5.6600 → 4.5800 (-1.0800) on 9,120 tokens" in text
    assert text.count("The author's own words. Second paragraph.") == 2
    assert "no test split" in evaluation_text(Evaluation(test_loss_before=None, test_loss_after=None, test_tokens=0))


def test_following_a_finished_run_yields_its_steps_and_ends(tmp_path: Path):
    assert [step.step for step in follow(trained_run(tmp_path, 5))] == [1, 2, 3, 4, 5]


def test_following_goes_on_through_a_restart_and_ends_with_the_run(tmp_path: Path):
    run = empty_run(tmp_path)
    seen: list[tuple[int, int]] = []
    with run.open():
        run.append_step(step_metrics(1))
        reader = threading.Thread(target=lambda: seen.extend((step.attempt, step.step) for step in follow(run, 0.01)))
        reader.start()
        _append_torn_then_whole(run)
        run.append_step(step_metrics(2, attempt=2))
    reader.join(timeout=10)
    assert seen == [(1, 1), (1, 2), (2, 2)]


def _append_torn_then_whole(run: RunDir) -> None:
    """Half a line, as a reader may find it, and later its other half."""
    line = step_metrics(2).model_dump_json() + "\n"
    for half in (line[:40], line[40:]):
        with run.train_steps_file.open("a", encoding="utf-8") as out:
            out.write(half)
        threading.Event().wait(0.05)


def test_watching_names_the_next_attempt_and_the_end(tmp_path: Path):
    run = full_run(tmp_path, steps=2)
    run.append_step(step_metrics(2, attempt=2))
    lines = list(watch(run))
    assert lines[2] == "attempt 2, from step 2: batch_size 4 → 2, gradient_accumulation 2 → 4"
    assert lines[-1] == f"{run.id}: completed"
