"""Lengths before and after."""

from array import array

from chats import chat

from gswa.lengths import Divided, Tally, histogram, quantiles, together


def test_quantiles_are_interpolated_linearly() -> None:
    found = quantiles(array("q", range(1, 12)))
    assert (found.count, found.min, found.median, found.p90, found.max, found.total) == (11, 1, 6, 10, 11, 66)


def test_a_chunk_of_just_the_limit_stands_in_the_last_bin_below_it() -> None:
    assert histogram(array("q", [1, 256, 257]), 256) == ((0, 1), (240, 1), (256, 1))


def test_a_split_without_examples_counts_nothing() -> None:
    stats = Tally().stats(256)
    assert (stats.before.count, stats.before.max, stats.chunks_per_example, stats.truncated_percent_before) == (0, 0, 0, 0)


def test_the_tally_of_all_splits_is_their_sum() -> None:
    tally = Tally()
    tally.add(Divided(example=chat("a", "Four"), tokens=300, reason="too long"))
    both = together([tally, tally]).stats(256)
    assert (both.before.count, both.over_limit_before, both.set_aside, both.set_aside_reasons) == (2, 2, 2, {"too long": 2})
    assert (both.characters_in, both.characters_set_aside, both.characters_in_chunks) == (8, 8, 0)
