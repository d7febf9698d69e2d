"""Which documents are held out."""

from collections import Counter

import pytest

from gswa.records import Block, Document
from gswa.splits import group_documents, identity, split_groups

GROUPS = [f"title:{n}" for n in range(300)]


def document(source: str, title: str, text: str) -> Document:
    return Document(source=source, sha256=source, status="ok", title=title, blocks=(Block(kind="paragraph", text=text),))


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


def test_documents_of_one_title_or_one_text_share_a_group() -> None:
    groups = group_documents(
        map(
            identity,
            [
                document("a.pdf", "On the Origin of Streptomyces", "Text one."),
                document("a-preprint.docx", "On the origin of Streptomyces.", "Text two, revised."),
                document("copy.txt", "", "text  TWO revised"),
                document("other.txt", "", "Something else."),
            ],
        )
    )
    assert groups["a.pdf"] == groups["a-preprint.docx"] == groups["copy.txt"] != groups["other.txt"]


def test_a_title_of_few_words_makes_no_group() -> None:
    groups = group_documents(map(identity, [document("a", "Introduction", "One."), document("b", "Introduction", "Two.")]))
    assert groups["a"] != groups["b"]


def test_a_revision_leaves_the_group_of_a_titled_paper_alone() -> None:
    first = document("a", "On the origin of Streptomyces", "Text one.")
    alone = group_documents([identity(first)])["a"]
    revised = document("b", first.title, "Text one, revised.")
    assert group_documents(map(identity, [revised, first]))["a"] == alone
