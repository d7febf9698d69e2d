"""Which documents are held out."""

from collections import Counter

import pytest

from gswa.splits import split_groups

GROUPS = [f"group {n}" for n in range(300)]


@pytest.mark.parametrize("count", [3, 4, 7, 12, 30])
def test_three_documents_and_more_leave_none_of_the_splits_empty(count: int) -> None:
    for seed in range(20):
        assert set(split_groups(GROUPS[:count], seed).values()) == {"train", "valid", "test"}


def test_about_a_tenth_is_held_out_for_valid_and_for_test() -> None:
    counts = Counter(split_groups([str(n) for n in range(4000)], 42).values())
    assert 300 <= counts["valid"] <= 460
    assert 340 <= counts["test"] <= 460


def test_adding_a_paper_moves_no_other() -> None:
    before, after = split_groups(GROUPS[:200], 42), split_groups(GROUPS[:201], 42)
    assert {group: after[group] for group in before} == before


@pytest.mark.parametrize("count", range(3, 40))
def test_in_a_small_corpus_a_new_paper_moves_two_others_at_most(count: int) -> None:
    before, after = split_groups(GROUPS[:count], 42), split_groups(GROUPS[: count + 1], 42)
    assert sum(after[group] != before[group] for group in before) <= 2


def test_the_order_of_the_papers_does_not_matter() -> None:
    assert split_groups(GROUPS, 42) == split_groups(GROUPS[::-1], 42)


@pytest.mark.parametrize("count", range(3, 40))
def test_a_paper_that_had_a_split_keeps_it_however_small_the_corpus(count: int) -> None:
    before = split_groups(GROUPS[:count], 42)
    after = split_groups(GROUPS[: count + 1], 42, before=before)
    assert {group: after[group] for group in before} == before


def test_where_the_only_paper_held_out_left_another_one_is() -> None:
    before = split_groups(GROUPS[:5], 42)
    left = [group for group in GROUPS[:5] if before[group] != "test"]
    assert set(split_groups(left, 42, before=before).values()) == {"train", "valid", "test"}
