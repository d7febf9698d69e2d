"""Packing: which rows share a line, and that no row sees another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gswa.packing import best_fit, micro_batches

lengths = st.lists(st.integers(1, 100), min_size=1, max_size=60)


@given(lengths=lengths, size=st.integers(1, 8))
def test_every_row_is_in_one_bin_and_no_bin_overflows_or_is_left_out_of_the_count(lengths, size):
    capacity = size * max(lengths)
    bins = best_fit(lengths, capacity)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(rows and sum(lengths[row] for row in rows) <= capacity for rows in bins)
    assert len(bins) <= -(-len(lengths) // size)


def test_a_row_goes_where_it_leaves_least_room():
    assert best_fit([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]


@given(lengths=lengths, size=st.integers(1, 8))
def test_packed_or_not_a_step_has_as_many_micro_batches(lengths, size):
    rows = range(len(lengths))
    packed = micro_batches(rows, size, lengths, size * max(lengths))
    assert len(packed) == len(micro_batches(rows, size, lengths))
    assert sorted(row for batch in packed for row in batch) == list(rows)


@pytest.mark.parametrize("capacity", [None, 1000])
def test_a_short_step_has_fewer(capacity):
    assert len(micro_batches([0, 1, 2], 2, [5, 5, 5], capacity)) == 2
