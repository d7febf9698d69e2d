"""Whatever the papers hold: no text of a kept block is lost or invented on the way to examples, and no group is in two splits."""

import tempfile
from array import array
from collections import defaultdict
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gswa.conservation import count_missing, piece_digests
from gswa.corpus.clean import clean_text
from gswa.corpus.zones import Draft, Hint, type_blocks
from gswa.examples import prepare
from gswa.formats import read_examples
from gswa.passages import digest, make_examples, passages
from gswa.recipe import Recipe, read_recipe
from gswa.records import SPLITS, Block, BlockKind, Document, Example

RECIPE = read_recipe()
KINDS: tuple[BlockKind, ...] = ("title", "heading", "paragraph", "caption", "reference", "note", "acknowledgement", "affiliation", "other")
HINTS: tuple[Hint, ...] = ("", "title", "heading", "caption", "reference", "small", "note", "other")

words = st.sampled_from(
    [
        "cell",
        "Growth",
        "et al.",
        "Fig.",
        "3.5",
        "[12,",
        "13]",
        "(Smith",
        "2010)",
        "µm",
        "…",
        "菌。",
        "e.g.",
        "“so”",
        "a",
        "x²",
        "No.",
        "?",
        "U.S.",
    ]
)
sentences = st.lists(words, min_size=1, max_size=30).map(lambda found: " ".join(found) + ".")
texts = st.one_of(st.lists(sentences, min_size=1, max_size=40).map(" ".join), st.text(max_size=80))
blocks = st.lists(st.tuples(st.sampled_from(KINDS), texts, st.sampled_from(["", "Results", "Methods"])), max_size=14)


def document(parts: list[tuple[BlockKind, str, str]], name: str = "a.pdf", group: str = "") -> Document:
    made = tuple(Block(kind=kind, text=text, section=section) for kind, text, section in parts)
    return Document(source=name, sha256=digest(name), status="ok", title="On soil", group=group, blocks=made)


def recipes() -> st.SearchStrategy[Recipe]:
    numbers = st.tuples(st.integers(1, 60), st.integers(0, 100))
    return numbers.map(lambda n: RECIPE.model_copy(update={"passage_words": (n[0], n[0] + n[1])}))


def texts_of(example: Example, paper: Document) -> list[str]:
    """What the example says that its target is: whole blocks, or characters of the first and the last one."""
    found = [paper.blocks[index].text for index in example.blocks]
    if example.cut is not None:
        found[-1] = found[-1][: example.cut[1]]
        found[0] = found[0][example.cut[0] :]
    return [text.strip() for text in found]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, st.sampled_from(HINTS)), max_size=20))
def test_every_draft_becomes_a_block_with_its_text(parts: list[tuple[str, Hint]]) -> None:
    drafts = [Draft(text, hint) for text, hint in parts]
    kept = "".join(block.text for block in type_blocks(drafts)).replace(" ", "")
    wanted = "".join(clean_text(draft.text) for draft in drafts).replace(" ", "")
    # A label before an abstract ("Abstract.") becomes a heading, and its stop goes.
    assert [c for c in kept if c.isalnum()] == [c for c in wanted if c.isalnum()]


@settings(max_examples=150, deadline=None)
@given(blocks, recipes(), st.integers(0, 5), st.booleans())
def test_examples_hold_each_paragraph_once_and_nothing_else(
    parts: list[tuple[BlockKind, str, str]], recipe: Recipe, seed: int, with_plain: bool
) -> None:
    paper = document(parts)
    plain = {digest(passage.text): "Said plainly." for passage in passages(paper, recipe)} if with_plain else {}
    examples = list(make_examples(paper, recipe, seed, plain))
    held: dict[int, str] = defaultdict(str)
    for example in examples:
        assert example.target == "\n\n".join(texts_of(example, paper))
        for index, text in zip(example.blocks, texts_of(example, paper), strict=True):
            held[index] += text
    wanted = {index: block.text for index, block in enumerate(paper.blocks) if block.kind == "paragraph" and block.text.strip()}
    assert {index: "".join(text.split()) for index, text in held.items()} == {
        index: "".join(text.split()) for index, text in wanted.items()
    }
    assert [index for example in examples for index in example.blocks] == sorted(index for e in examples for index in e.blocks)


@settings(max_examples=150, deadline=None)
@given(blocks, recipes())
def test_the_check_of_what_is_stored_sees_every_cut(parts: list[tuple[BlockKind, str, str]], recipe: Recipe) -> None:
    paper = document(parts)
    stored = array("Q", (piece for passage in passages(paper, recipe) for piece in piece_digests(passage.text)))
    wanted = array(
        "Q", (p for block in paper.blocks if block.kind == "paragraph" and block.text.strip() for p in piece_digests(block.text))
    )
    assert count_missing(wanted, stored) == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(blocks, st.integers(0, 6)), min_size=1, max_size=12), st.integers(0, 99))
def test_no_group_stands_in_two_splits_and_no_text_is_lost(papers: list[tuple[list[tuple[BlockKind, str, str]], int]], seed: int) -> None:
    every = [
        document([*parts, ("paragraph", f"Paper {number} has words of its own.", "")], f"{number}.pdf", f"group {group}")
        for number, (parts, group) in enumerate(papers)
    ]
    with tempfile.TemporaryDirectory() as folder:
        training = Path(folder)
        report = prepare(every, training, seed)
        stored = {split: list(read_examples(training / f"{split}.jsonl")) if report.examples[split] else [] for split in SPLITS}
    groups = {split: {example.group for example in examples} for split, examples in stored.items()}
    if report.split_by == "document":
        assert not groups["train"] & groups["valid"] and not groups["train"] & groups["test"] and not groups["valid"] & groups["test"]
        assert all(groups.values())
    targets = {example.target for examples in stored.values() for example in examples}
    assert targets == {passage.text for paper in every for passage in passages(paper, RECIPE)}
