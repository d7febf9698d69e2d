import random
from itertools import chain, count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gswa.order import Turn, plan_steps, shown_in_epoch

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=80)


def epochs_of(count: int, epochs: int) -> list[list[Turn]]:
    return [[Turn(chunk, epoch) for chunk in range(count)] for epoch in range(epochs)]


@given(lengths=lengths, effective=st.integers(1, 16), epochs=st.integers(1, 4), seed=st.integers(0, 9))
def test_every_chunk_is_seen_once_an_epoch_and_only_the_last_step_is_short(lengths, effective, epochs, seed):
    steps = plan_steps(epochs_of(len(lengths), epochs), lengths, effective, seed)
    assert sorted(chain.from_iterable(steps)) == sorted(chain.from_iterable(epochs_of(len(lengths), epochs)))
    assert {len(step) for step in steps[:-1]} <= {effective}


@given(lengths=lengths, wanted=st.integers(1, 40))
def test_a_number_of_steps_is_kept_to(lengths, wanted):
    assert len(plan_steps((epochs_of(len(lengths), 1)[0] for _ in count()), lengths, 4, 0, steps=wanted)) == wanted


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    plans = [plan_steps(epochs_of(59, 2), range(1, 60), 8, seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_a_weight_is_kept_exactly_over_the_epochs():
    shown = [shown_in_epoch({"a": 2.5, "b": 1.0, "c": 0.2}, epoch, 10, seed=0) for epoch in range(10)]
    assert [sum(name == wanted for epoch in shown for name, _ in epoch) for wanted in "abc"] == [25, 10, 2]


@given(count=st.integers(1, 60), weight=st.floats(0.1, 5), seed=st.integers(0, 9))
def test_a_weight_is_kept_exactly_within_each_epoch(count, weight, seed):
    names = {str(n): weight for n in range(count)}
    shown = [len(shown_in_epoch(names, epoch, 4, seed)) for epoch in range(4)]
    assert all(abs(sum(shown[: epoch + 1]) - weight * count * (epoch + 1)) <= 0.5 + 1e-6 for epoch in range(4))


def test_of_a_thousand_examples_of_weight_two_and_a_half_an_epoch_shows_2500():
    assert [len(shown_in_epoch({str(n): 2.5 for n in range(1000)}, epoch, 3, seed=0)) for epoch in range(3)] == [2500] * 3


def test_a_partial_epoch_shows_its_share():
    assert len(shown_in_epoch({str(n): 1.0 for n in range(100)}, 1, 1.25, seed=0)) == 25


def test_the_step_with_the_longest_chunk_comes_first():
    lengths = [random.Random(0).randrange(100, 900) for _ in range(200)]
    first, *_ = plan_steps([[Turn(i) for i in range(200)]] * 2, lengths, 8, seed=1)
    assert max(lengths[turn.chunk] for turn in first) == max(lengths)


def test_rows_of_a_step_are_of_like_length():
    lengths = [10] * 64 + [500] * 64
    steps = plan_steps(epochs_of(128, 1), lengths, 8, seed=0)
    padded = sum(max(lengths[turn.chunk] for turn in step) * len(step) for step in steps)
    assert sum(lengths) / padded > 0.8


@pytest.mark.parametrize("effective", [2, 4, 8, 16, 32])
def test_micro_batches_of_small_steps_padded_more_than_those_of_large_ones(effective):
    """Windows were of 8 steps, whatever their size: of 4 chunks they padded 7 %."""
    lengths = [random.Random(n).randrange(60, 512) for n in range(640)]
    steps = plan_steps(epochs_of(640, 1), lengths, effective, seed=0)
    rows = [lengths[turn.chunk] for step in steps for turn in step]
    micro = [rows[i : i + min(4, effective)] for i in range(0, len(rows), min(4, effective))]
    assert sum(rows) / sum(max(batch) * len(batch) for batch in micro) > 0.975


def test_steps_of_like_length_follow_each_other_but_not_all_of_them():
    lengths = [random.Random(n).randrange(60, 512) for n in range(640)]
    longest = [max(lengths[turn.chunk] for turn in step) for step in plan_steps(epochs_of(640, 1), lengths, 4, seed=0)][1:]
    leaps = [abs(after - before) > 60 for before, after in pairwise(longest)]
    assert 0.1 < sum(leaps) / len(leaps) < 0.35  # of any order 0.76; sorted within windows there would be 5 in 160
