"""Documents to chat examples."""

import pytest

from gswa.passages import count_words, digest, key_terms, kind_of, make_examples, passages
from gswa.recipe import Recipe, read_recipe
from gswa.records import Block, Document, Example

RECIPE = read_recipe()


def words(count: int, word: str = "word") -> str:
    return f"{word} " * (count - 1) + "end."


def paper(*blocks: Block, source: str = "a.pdf", title: str = "On the origin of Streptomyces") -> Document:
    return Document(source=source, sha256="0" * 64, status="ok", title=title, blocks=blocks)


def paragraphs(*texts: str, section: str = "Results") -> list[Block]:
    return [Block(kind="paragraph", text=text, section=section) for text in texts]


def made(document: Document, seed: int = 1, recipe: Recipe = RECIPE, plain: dict[str, str] | None = None) -> list[Example]:
    return list(make_examples(document, recipe, seed, plain or {}))


def targets(document: Document) -> list[tuple[int, ...]]:
    return [example.blocks for example in made(document)]


def only(kind: str) -> Recipe:
    return RECIPE.model_copy(update={"mix": {kind: 1.0}})


def test_every_paragraph_is_in_exactly_one_target() -> None:
    blocks = [block for s in range(9) for block in paragraphs(*(words(10 + 37 * n % 300, f"w{s}") for n in range(8)), section=f"S{s}")]
    examples = made(paper(*blocks))
    assert [index for example in examples for index in example.blocks] == list(range(72))
    assert all(example.target == "\n\n".join(blocks[index].text for index in example.blocks) for example in examples)


def test_headings_captions_and_references_are_not_learnt() -> None:
    kinds = [Block(kind=kind, text=words(200)) for kind in ("title", "heading", "caption", "reference", "note", "paragraph")]
    assert targets(paper(*kinds)) == [(5,)]


def test_a_paper_that_was_set_aside_gives_no_example() -> None:
    assert targets(paper(*paragraphs(words(200))).model_copy(update={"status": "needs_ocr"})) == []


def test_paragraphs_join_until_a_passage_has_its_words() -> None:
    assert targets(paper(*paragraphs(words(100), words(100), words(160)))) == [(0, 1), (2,)]


def test_a_longer_paragraph_is_cut_at_ends_of_sentences() -> None:
    long = " ".join(f"This is sentence number {n} of a long paragraph that goes on." for n in range(100))
    examples = made(paper(*paragraphs(words(160), long, words(160))))
    parts = [example for example in examples if example.blocks == (1,)]
    assert [count_words(example.target) for example in parts] == [300] * 4
    assert " ".join(example.target for example in parts) == long
    assert all(example.target.endswith("goes on.") for example in parts)
    assert [long[slice(*example.cut)].strip() for example in parts if example.cut] == [example.target for example in parts]


def test_one_sentence_is_never_cut() -> None:
    assert targets(paper(*paragraphs(words(120), words(900), words(160)))) == [(0,), (1,), (2,)]


def test_passages_keep_to_their_words_where_paragraphs_allow_it() -> None:
    texts = [words(10 + 53 * n % 290, f"w{n}") for n in range(200)]
    lengths = [count_words(passage.text) for passage in passages(paper(*paragraphs(*texts)), RECIPE)]
    assert all(150 <= length <= 400 for length in lengths)


def test_a_short_rest_joins_the_passage_before_it_and_never_another_section() -> None:
    assert targets(paper(*paragraphs(words(160), words(20)), *paragraphs(words(30), section="Methods"))) == [(0, 1), (2,)]


def test_the_context_is_the_end_of_the_paragraph_before() -> None:
    first, second = made(paper(*paragraphs(f"{words(150)} Last sentence.", words(400))))
    assert "\n\n" not in first.messages[0].content
    context = second.messages[0].content.split("\n\n")[1]
    assert context.endswith("Last sentence.")
    assert count_words(context) <= 80


def test_the_request_names_section_and_paper_and_is_one_of_many() -> None:
    examples = made(paper(*paragraphs(*(words(300, f"w{n}") for n in range(80)))))
    requests = {example.messages[0].content.split("\n\n")[0] for example in examples[1:]}
    assert all('the section "Results" of the paper "On the origin of Streptomyces"' in request for request in requests)
    assert len(requests) > 10


@pytest.mark.parametrize("kind", ["continue_", "opening", "rewrite", "key_terms"])
def test_each_kind_has_a_dozen_wordings_and_more(kind: str) -> None:
    assert len(set(getattr(RECIPE.templates, kind))) >= 12


def test_a_passage_with_a_plain_side_is_rewritten_when_it_is_its_turn() -> None:
    document = paper(*paragraphs(*(words(300, f"w{n}") for n in range(200))))
    plain = {digest(passage.text): f"Plainly {n}." for n, passage in enumerate(passages(document, RECIPE))}
    examples = made(document, plain=plain)
    rewritten = [example for example in examples if example.kind == "rewrite"]
    assert 0.2 < len(rewritten) / len(examples) < 0.4
    assert all(example.messages[0].content.endswith(f"\n\n{plain[digest(example.target)]}") for example in rewritten)
    assert {example.kind for example in made(document)} == {"continue"}
    assert [example.target for example in examples] == [example.target for example in made(document)]


def test_the_kind_of_a_passage_does_not_depend_on_its_document() -> None:
    assert kind_of(words(200), RECIPE, 1) == kind_of(words(200), RECIPE, 1)
    assert {kind_of(words(200, f"w{n}"), RECIPE, 1) for n in range(50)} == {"continue", "rewrite"}


def test_key_terms_are_off_and_can_be_turned_on() -> None:
    document = paper(*paragraphs("Streptomyces makes antibiotics. Streptomyces lives in soil, where antibiotics are made. " * 20))
    (example,) = made(document, recipe=only("key_terms"))
    assert example.kind == "key_terms"
    assert "streptomyces, " in example.messages[0].content and "antibiotics" in example.messages[0].content
    assert key_terms("Streptomyces in soil makes Streptomyces of soil") == ["streptomyces", "makes"]


def test_a_request_is_one_paragraph_whatever_the_title() -> None:
    document = paper(*paragraphs(words(150), section="A\n\n{odd} heading"), title="x" * 5000)
    request = made(document)[0].messages[0].content
    assert "\n" not in request
    assert "{odd} heading" in request
    assert len(request) < 400


def test_the_same_seed_gives_the_same_examples_and_another_seed_the_same_ids() -> None:
    document = paper(*paragraphs(*(words(150, f"w{n}") for n in range(20))))
    assert made(document) == made(document)
    assert [a.id for a in made(document)] == [b.id for b in made(document, seed=2)]
    assert made(document) != made(document, seed=2)
