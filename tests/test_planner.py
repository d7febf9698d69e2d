"""The planner's rules, with dry runs that answer from a formula."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gswa.candidates import PLANNED, Foretold, Surroundings, candidates
from gswa.config import Layer, RunConfig, resolve
from gswa.errors import ConfigError, DataError, Interrupted, OutOfMemory, TrainingError
from gswa.planner import COLUMNS, Measured, effective_batch_factor, plan, plan_table, rank, refusal, stability_score
from gswa.records import Plan, Trial

BASE = RunConfig(batch_size=2, gradient_accumulation=4, eval_batch_size=2, max_seq_length=1024)


def growing(config: RunConfig, seconds: float = 0) -> Measured:
    """Speed and memory both grow with the micro-batch."""
    return Measured(tokens_per_sec=100.0 * config.batch_size, peak_memory_gb=1.0 * config.batch_size)


def foretold(config: RunConfig) -> Foretold:
    """The same, and a third of the memory with gradient checkpointing at three quarters of the speed."""
    share, speed = (1 / 3, 0.75) if config.gradient_checkpointing else (1.0, 1.0)
    return Foretold(peak_gb=share * config.batch_size * config.max_seq_length / 1024, speed=speed * config.batch_size)


def planned(dry_run: Callable[[RunConfig, float], Measured] | None = growing, **changes: Any) -> Plan:
    here = Surroundings(foretell=changes.pop("foretell", None))
    settings: dict[str, Any] = {"memory_gb": 10.0, "max_candidates": 5, "steps": 3, "max_seconds": 600, "seed": 1, **changes}
    return plan(BASE, dry_run=dry_run, here=here, **settings)


def near(base: RunConfig, seed: int, allowed_gb: float = float("inf"), **here: Any) -> list[RunConfig]:
    return candidates(base, seed, Surroundings(**here), allowed_gb)


def trial(tokens_per_sec: float, peak: float, batch_size: int = 2, gradient_accumulation: int = 4) -> Trial:
    changes = {"batch_size": batch_size, "gradient_accumulation": gradient_accumulation}
    return Trial(changes=changes, tokens_per_sec=tokens_per_sec, peak_memory_gb=peak)


def ranked(*trials: Trial, margin: float = 0.8) -> Plan:
    return rank(trials, memory_gb=10, margin=margin, seed=1, dry_run_steps=3)


# -- candidates --------------------------------------------------------------------------------------------------------
@given(batch=st.integers(1, 64), accumulation=st.integers(1, 16), length=st.integers(128, 5000), seed=st.integers(0, 99))
def test_candidates_keep_the_effective_batch_and_start_with_the_base(batch: int, accumulation: int, length: int, seed: int) -> None:
    base = RunConfig(batch_size=batch, gradient_accumulation=accumulation, max_seq_length=length)
    configs = near(base, seed=seed)
    assert configs[0] == base
    assert {config.effective_batch_size for config in configs} == {base.effective_batch_size}
    assert len({config.model_dump_json() for config in configs}) == len(configs)


def test_only_planned_settings_differ() -> None:
    for config in near(BASE, seed=0):
        assert config.model_dump(exclude=set(PLANNED)) == BASE.model_dump(exclude=set(PLANNED))


def test_a_seed_gives_one_order_and_another_seed_another() -> None:
    assert near(BASE, seed=3) == near(BASE, seed=3)
    assert any(near(BASE, seed=3) != near(BASE, seed=seed) for seed in range(4, 9))


def test_what_the_user_gave_stays() -> None:
    fixed = {"max_seq_length", "batch_size", "gradient_checkpointing"}
    assert near(BASE, seed=0, fixed=fixed) == [BASE]
    assert {config.batch_size for config in near(BASE, seed=0, fixed={"gradient_accumulation"})} == {2}
    for config in near(BASE, seed=0, fixed=fixed, foretell=foretold, allowed_gb=0.01):
        assert (config.max_seq_length, config.batch_size, config.gradient_checkpointing) == (1024, 2, False)


def test_batches_longer_rows_and_checkpointing_are_all_tried() -> None:
    configs = near(BASE, seed=0)
    assert {(config.batch_size, config.gradient_accumulation) for config in configs} == {(1, 8), (2, 4), (4, 2), (8, 1)}
    assert {config.max_seq_length for config in configs} == {1024, 1536}
    assert {config.gradient_checkpointing for config in configs} == {True, False}


def test_longer_rows_are_tried_only_where_an_example_is_longer() -> None:
    assert {config.max_seq_length for config in near(BASE, seed=0, longest=1024)} == {1024}
    assert {config.max_seq_length for config in near(BASE, seed=0, longest=1025)} == {1024, 1536}


def test_small_changes_come_before_large_ones() -> None:
    first = near(BASE, seed=5)[1:6]
    assert all(
        sum(getattr(c, n) != getattr(BASE, n) for n in ("batch_size", "max_seq_length", "gradient_checkpointing")) == 1 for c in first
    )


@pytest.mark.parametrize(
    ("formats", "tried"),
    [
        ({}, {"fp32"}),  # not measured
        ({"fp32": 90.0, "bf16": 4.0, "fp16": 5.0}, {"fp32"}),  # a CPU with AVX2 only
        ({"fp32": 93.0, "bf16": 335.0, "fp16": 90.0}, {"fp32", "bf16"}),  # with AMX: the base's own format is always among them
        ({"fp32": 90.0, "bf16": 80.0}, {"fp32", "bf16"}),
    ],
)
def test_number_formats_are_tried_where_they_were_measured_to_be_fast(formats: dict[str, float], tried: set[str]) -> None:
    assert {config.number_format for config in near(BASE, seed=0, formats=formats)} == tried


def test_a_quantised_base_is_tried_without_and_a_plain_one_never_with() -> None:
    quantised = BASE.replace(device="cuda", quantization="4bit", number_format="bf16")
    assert {config.quantization for config in near(quantised, seed=0)} == {"none", "4bit"}
    assert {config.quantization for config in near(BASE, seed=0)} == {"none"}


# -- candidates where memory is short ------------------------------------------------------------------------------------
def test_nothing_that_costs_quality_is_tried_while_a_neighbour_fits() -> None:
    for config in near(BASE, seed=0, foretell=foretold, allowed_gb=0.5):
        assert (config.max_seq_length >= 1024, config.quantization, config.num_layers) == (True, "none", None)


def test_shorter_rows_come_where_nothing_else_fits_and_no_shorter_than_must_be() -> None:
    configs = near(BASE, seed=0, foretell=foretold, allowed_gb=0.2)
    assert {config.max_seq_length for config in configs} == {576, 768}  # of 1024, 768, 576 the first at which one fits, and its notch
    assert any(foretold(config).peak_gb <= 0.2 for config in configs)


def test_layers_are_given_up_last() -> None:
    def by_layers(config: RunConfig) -> Foretold:
        return Foretold(peak_gb=float(config.num_layers or 32), speed=1.0)

    configs = near(BASE.replace(device="cuda"), seed=0, foretell=by_layers, allowed_gb=8)
    assert {config.num_layers for config in configs} == {8}
    assert {config.quantization for config in configs} == {"4bit", "none"}


def test_where_nothing_ever_fits_the_base_and_its_neighbours_are_named() -> None:
    assert near(BASE, seed=0, foretell=foretold, allowed_gb=0.0) == near(BASE, seed=0)


def test_evaluation_takes_no_more_rows_than_a_smaller_micro_batch() -> None:
    base = BASE.replace(batch_size=8, gradient_accumulation=1, eval_batch_size=8)
    assert all(config.eval_batch_size <= config.batch_size for config in near(base, seed=0, foretell=foretold, allowed_gb=0.5))
    assert {config.eval_batch_size for config in near(base, seed=0, fixed={"eval_batch_size"})} == {8}


# -- scores ------------------------------------------------------------------------------------------------------------
def test_stability_is_whole_below_half_of_what_is_allowed_and_falls_to_nine_tenths() -> None:
    assert [stability_score(peak, allowed_gb=8) for peak in (0.1, 4, 6, 8)] == pytest.approx([1, 1, 0.95, 0.9])


def test_the_effective_batch_counts_by_its_distance_from_8() -> None:
    assert [effective_batch_factor(size) for size in (8, 4, 16, 1)] == [1, 0.5, 0.5, 0.125]


def test_the_score_is_the_product_of_its_factors() -> None:
    for scored in ranked(trial(200, 7), trial(150, 1), trial(100, 5, batch_size=1)).trials:
        assert scored.score == scored.throughput_score * scored.stability_score * scored.effective_batch_factor > 0


@given(st.lists(st.tuples(st.floats(0.1, 1e5), st.floats(0.01, 12)), min_size=1, max_size=8))
def test_the_chosen_plan_is_never_slower_than_nine_tenths_of_the_fastest_that_fits(figures: list[tuple[float, float]]) -> None:
    ranking = ranked(*(trial(speed, peak) for speed, peak in figures))
    fitting = [speed for speed, peak in figures if peak <= 8]
    assert (ranking.chosen is None) == (not fitting)
    if fitting:
        assert (ranking.trials[0].tokens_per_sec or 0) >= 0.9 * max(fitting) * (1 - 1e-9)


# -- ranking -----------------------------------------------------------------------------------------------------------
def test_a_peak_above_the_margin_is_rejected_with_both_numbers() -> None:
    ranking = ranked(trial(900, 8.01), trial(100, 8.0))
    assert [t.tokens_per_sec for t in ranking.trials] == [100, 900]
    assert "8.01 GB is above the 8.00 GB" in ranking.trials[1].rejected
    assert ranking.trials[0].throughput_score == 1  # a rejected trial sets no scale


def test_the_margin_decides() -> None:
    assert ranked(trial(100, 7.5), margin=0.7).chosen is None
    assert ranked(trial(100, 7.5), margin=0.8).chosen == {"batch_size": 2, "gradient_accumulation": 4}


def test_ties_go_to_the_smaller_peak_then_to_the_earlier() -> None:
    ranking = ranked(trial(100, 3, 2, 4), trial(100, 2, 4, 2), trial(100, 2, 8, 1))
    assert [t.changes["batch_size"] for t in ranking.trials] == [4, 8, 2]


# -- the plan ----------------------------------------------------------------------------------------------------------
def test_the_fastest_candidate_that_fits_is_chosen() -> None:
    result = planned(max_candidates=100, memory_gb=6)
    assert result.chosen is not None
    assert result.chosen["batch_size"] == 4
    assert all(t.changes["batch_size"] == 8 for t in result.trials if t.rejected)


def test_the_chosen_layer_settles_exactly_what_was_measured() -> None:
    tried: list[RunConfig] = []

    def dry_run(config: RunConfig, seconds: float) -> Measured:
        tried.append(config)
        return growing(config)

    chosen = planned(dry_run, max_candidates=100).chosen
    profile = BASE.model_dump(exclude={"eval_batch_size", "gradient_accumulation", "epochs", "iters"})
    assert resolve(Layer("profile", profile), Layer("plan", chosen or {})).config in tried


def test_what_is_predicted_to_pass_the_margin_is_not_tried() -> None:
    tried: list[RunConfig] = []

    def dry_run(config: RunConfig, seconds: float) -> Measured:
        tried.append(config)
        return growing(config)

    result = planned(dry_run, foretell=foretold, max_candidates=100, memory_gb=5)
    assert max(foretold(config).peak_gb for config in tried) <= 4
    over = [t for t in result.trials if t.rejected.startswith("predicted peak")]
    assert over and all(t.tokens_per_sec is None and "above the 4.00 GB" in t.rejected for t in over)


def test_the_best_by_prediction_are_tried_and_the_others_say_why_not() -> None:
    result = planned(foretell=foretold, max_candidates=2, memory_gb=100)
    tried = [t for t in result.trials if t.tokens_per_sec is not None]
    assert len(tried) == 2
    assert {t.changes["batch_size"] for t in tried} == {8}
    assert {t.rejected for t in result.trials if t.tokens_per_sec is None} == {"not tried: 2 others are predicted to be better"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfMemory("the allocator gave up", phase="evaluate", step=2, peak_memory_gb=9.5), "out of memory (evaluate, step 2)"),
        (TrainingError("the child hung and was ended after 60 s"), "hung"),
        (DataError("no example fits 768 tokens"), "no example fits"),
    ],
)
def test_a_dry_run_that_fails_is_rejected_and_the_next_goes_on(error: Exception, reason: str) -> None:
    def dry_run(config: RunConfig, seconds: float) -> Measured:
        if config == BASE:
            raise error
        return growing(config)

    result = planned(dry_run)
    (failed,) = (t for t in result.trials if reason in t.rejected)
    assert sum(t.tokens_per_sec is not None for t in result.trials) == 4
    assert failed.score == 0
    assert result.chosen is not None


@pytest.mark.parametrize("error", [Interrupted("Ctrl-C"), ConfigError("unknown model"), KeyboardInterrupt()])
def test_what_no_other_candidate_could_mend_ends_the_planning(error: BaseException) -> None:
    def dry_run(config: RunConfig, seconds: float) -> Measured:
        raise error

    with pytest.raises(type(error)):
        planned(dry_run)


@pytest.mark.parametrize(("max_seconds", "measured"), [(0, 1), (59, 1), (60, 2), (100, 3), (1000, 5)])
def test_no_dry_run_starts_that_could_not_end_in_time(max_seconds: float, measured: int) -> None:
    now = [0.0]

    def dry_run(config: RunConfig, seconds: float) -> Measured:
        now[0] += 30
        return growing(config)

    result = planned(dry_run, max_seconds=max_seconds, clock=lambda: now[0])
    assert sum(t.tokens_per_sec is not None for t in result.trials) == measured
    assert sum("out of time" in t.rejected for t in result.trials) == 5 - measured


def test_one_that_hangs_leaves_time_for_the_others_and_all_together_keep_the_limit() -> None:
    now = [0.0]

    def dry_run(config: RunConfig, seconds: float) -> Measured:
        now[0] += seconds
        raise TrainingError("it did not end within the time that it was given")

    result = planned(dry_run, max_seconds=100, clock=lambda: now[0])
    assert sum("did not end" in t.rejected for t in result.trials) == 5
    assert now[0] <= 100


def test_where_no_dry_run_came_to_an_end_in_time_the_prediction_decides() -> None:
    def dry_run(config: RunConfig, seconds: float) -> Measured:
        now[0] += seconds
        raise TrainingError("it did not end within the time that it was given")

    now = [0.0]
    result = planned(dry_run, foretell=foretold, memory_gb=4, max_seconds=0, clock=lambda: now[0])
    assert result.chosen is None  # each had its chance, and failed

    def slow(config: RunConfig, seconds: float) -> Measured:
        now[0] += 200
        raise TrainingError("it did not end within the time that it was given")

    now[0] = 0.0
    result = planned(slow, foretell=foretold, memory_gb=4, max_seconds=100, clock=lambda: now[0])
    assert result.chosen is not None
    assert result.trials[0].tokens_per_sec is None and result.trials[0].score > 0
    assert plan_table(result)[1][-1] == "chosen, by prediction"


def test_without_dry_runs_the_prediction_ranks() -> None:
    result = planned(dry_run=None, foretell=foretold, memory_gb=5)
    assert result.chosen is not None
    assert (result.chosen["batch_size"], result.chosen["gradient_checkpointing"]) == (8, True)
    assert result.dry_run_steps == 0
    assert plan_table(result)[1][-1] == "chosen, by prediction"
    for scored in (t for t in result.trials if not t.rejected):
        assert scored.score == scored.throughput_score * scored.stability_score * scored.effective_batch_factor > 0


def test_without_dry_runs_and_predictions_the_base_is_chosen_and_nothing_is_claimed() -> None:
    result = planned(dry_run=None)
    assert result.chosen == {name: getattr(BASE, name) for name in PLANNED}
    assert {t.rejected for t in result.trials[1:]} == {"not tried: no dry runs were asked for"}
    assert all(t.tokens_per_sec is None and t.score == 0 for t in result.trials)
    assert plan_table(result)[1][-1] == "chosen, not measured"


def test_a_plan_survives_json() -> None:
    result = planned(foretell=foretold)
    assert Plan.model_validate_json(result.model_dump_json()) == result


# -- for people --------------------------------------------------------------------------------------------------------
def test_nothing_that_fits_says_how_much_is_missing() -> None:
    message = refusal(planned(memory_gb=1, max_candidates=100))
    assert "smallest measured peak is 1.00 GB, 0.20 GB above the 0.80 GB" in message
    message = refusal(planned(memory_gb=0.1, foretell=foretold))
    assert "smallest predicted peak is" in message and "above the 0.08 GB that the margin of 80% leaves of 0.10 GB" in message
    assert refusal(planned()) == ""


def test_a_failure_that_is_not_memory_is_not_called_memory() -> None:
    def dry_run(config: RunConfig, seconds: float) -> Measured:
        raise TrainingError("loss is not a number")

    first, *reasons = refusal(planned(dry_run, max_candidates=2)).splitlines()
    assert first == "no candidate could be trained:"
    assert [reason.partition(": ")[2] for reason in reasons] == ["loss is not a number"] * 2


def test_the_table_has_a_cell_for_every_column_and_one_chosen() -> None:
    def dry_run(config: RunConfig, seconds: float) -> Measured:
        if config.max_seq_length > 1024:
            raise OutOfMemory("no room\nlong log", phase="train", step=1)
        return growing(config)

    table = plan_table(planned(dry_run, max_candidates=100, memory_gb=6, foretell=foretold))
    assert {len(row) for row in table} == {len(COLUMNS)}
    assert [row[-1].partition(",")[0] for row in table[1:]].count("chosen") == 1
    assert not any("\n" in cell for row in table for cell in row)


def test_predicted_and_measured_stand_side_by_side() -> None:
    header, first, *_ = plan_table(planned(foretell=foretold, memory_gb=100))
    row = dict(zip(header, first, strict=True))
    assert (row["predicted peak"], row["measured peak"], row["tok/s"]) == ("8.00 GB", "8.00 GB", "800.0")


def test_a_figure_from_an_earlier_plan_says_when_it_was_measured() -> None:
    result = planned(lambda config, seconds: growing(config)._replace(at="2026-11-26 10:00"))
    assert plan_table(result)[1][-1] == "chosen, measured 2026-11-26 10:00"
