"""The planner on a run's own data, as the flow asks it: before anything is settled."""

from pathlib import Path

import pytest
from chats import chat

from gswa import planning, settle
from gswa.config import RunConfig, RunRequest, Settings
from gswa.errors import NoPlan, TrainingError
from gswa.files import write_lines
from gswa.hardware import probe
from gswa.planner import Measured
from gswa.records import SPLITS, Plan
from gswa.rundir import RunDir

pytestmark = pytest.mark.backend


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSWA_HOME", str(tmp_path))


def unsettled(folder: Path, text: str = "Cells grew in light. ") -> RunDir:
    """As the flow has it at its plan step: examples, and no settings."""
    run = RunDir.create(folder)
    for split in SPLITS:
        write_lines(run.examples / f"{split}.jsonl", (chat(f"{split}-{n}", text * 9) for n in range(3)))
    return run


class Tried:
    """Dry runs that answer at once; `speeds` by micro-batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, run: RunDir, config: RunConfig, steps: int, seconds: float) -> Measured:
        self.batches.append(config.batch_size)
        if config.batch_size > 4:
            raise TrainingError("died of signal 11")
        return Measured(tokens_per_sec=100.0 * config.batch_size, peak_memory_gb=1.0)


def planned(run: RunDir, try_out: planning.TryOut, **changes: object) -> Plan:
    """On a machine of 8 GB, from the profile's micro-batch of 4 and 256 tokens."""
    given = Settings(max_seq_length=256, number_format="fp32", gradient_checkpointing=False)
    request = RunRequest(settings=given, auto_plan=True, **changes)
    machine = probe(memory_limit_gb=8.0)
    return planning.plan_run(run, settle.settle(request, machine), machine, request, try_out)


def test_a_run_that_nothing_is_settled_for_yet_is_planned(tmp_path: Path) -> None:
    """--auto-plan failed: its dry runs were looked up by the model of settings that only follow from the plan."""
    run, tried = unsettled(tmp_path / "runs"), Tried()
    plan = planned(run, tried)
    assert not run.config_file.exists()
    assert sorted(tried.batches) == [2, 4, 8]
    assert plan.chosen is not None and plan.chosen["batch_size"] == 4
    assert [trial.rejected for trial in plan.trials if trial.rejected] == ["died of signal 11"]
    assert run.plan() == plan


def test_the_chosen_candidate_has_a_second_opinion_near_the_first(tmp_path: Path) -> None:
    plan = planned(unsettled(tmp_path / "runs"), Tried())
    assert plan.counted_memory_gb == pytest.approx(plan.trials[0].predicted_memory_gb, rel=0.1)


def test_dry_runs_are_remembered_for_the_same_data_only(tmp_path: Path) -> None:
    first, again, other = Tried(), Tried(), Tried()
    measured = planned(unsettled(tmp_path / "runs"), first)
    remembered = planned(unsettled(tmp_path / "runs"), again)
    planned(unsettled(tmp_path / "runs", "Cells died in the dark. "), other)
    assert again.batches == [8]  # what died is tried again
    assert sorted(other.batches) == sorted(first.batches)
    assert remembered.chosen == measured.chosen
    assert all(trial.measured_at for trial in remembered.trials if not trial.rejected)


def test_a_plan_whose_dry_runs_do_not_end_in_time_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    """It once advised a machine with more memory."""

    def hung(run: RunDir, config: RunConfig, steps: int, seconds: float) -> Measured:
        return planning.dry_run(run, config, steps, min(seconds, 0.01))

    run = unsettled(tmp_path / "runs")
    with pytest.raises(NoPlan, match=r": it did not end within the time.*\n--max-seconds"):
        planned(run, hung, max_candidates=1)
    assert (plan := run.plan()) is not None and plan.chosen is None
