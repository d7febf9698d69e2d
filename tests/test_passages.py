"""Documents to chat examples."""

from gswa.passages import CONTINUE_TEMPLATES, OPENING_TEMPLATES, count_words, make_examples, weighted
from gswa.records import Block, Document, Example


def words(count: int, word: str = "word") -> str:
    return f"{word} " * (count - 1) + "end."


def paper(*blocks: Block, source: str = "a.pdf", title: str = "On the origin of Streptomyces") -> Document:
    return Document(source=source, sha256="0" * 64, status="ok", title=title, blocks=blocks)


def paragraphs(*texts: str, section: str = "Results") -> list[Block]:
    return [Block(kind="paragraph", text=text, section=section) for text in texts]


def targets(document: Document) -> list[tuple[int, ...]]:
    return [example.blocks for example in make_examples(document, 1)]


def test_every_paragraph_is_in_exactly_one_target() -> None:
    blocks = [block for s in range(9) for block in paragraphs(*(words(10 + 37 * n % 300, f"w{s}") for n in range(8)), section=f"S{s}")]
    made = list(make_examples(paper(*blocks), 1))
    assert [index for example in made for index in example.blocks] == list(range(72))
    assert all(example.target == "\n\n".join(blocks[index].text for index in example.blocks) for example in made)


def test_headings_captions_and_references_are_not_learnt() -> None:
    kinds = [Block(kind=kind, text=words(200)) for kind in ("title", "heading", "caption", "reference", "note", "paragraph")]
    assert targets(paper(*kinds)) == [(5,)]


def test_a_paper_that_was_set_aside_gives_no_example() -> None:
    assert targets(paper(*paragraphs(words(200))).model_copy(update={"status": "needs_ocr"})) == []


def test_paragraphs_join_until_a_passage_has_its_words() -> None:
    assert targets(paper(*paragraphs(words(100), words(100), words(160)))) == [(0, 1), (2,)]


def test_a_longer_paragraph_is_a_passage_by_itself() -> None:
    assert targets(paper(*paragraphs(words(120), words(900), words(160)))) == [(0,), (1,), (2,)]


def test_a_short_rest_joins_the_passage_before_it_and_never_another_section() -> None:
    assert targets(paper(*paragraphs(words(160), words(20)), *paragraphs(words(30), section="Methods"))) == [(0, 1), (2,)]


def test_the_context_is_the_end_of_the_paragraph_before() -> None:
    first, second = make_examples(paper(*paragraphs(f"{words(150)} Last sentence.", words(150))), 1)
    assert "\n\n" not in first.messages[0].content
    context = second.messages[0].content.split("\n\n")[1]
    assert context.endswith("Last sentence.")
    assert count_words(context) <= 80


def test_the_request_names_section_and_paper_and_is_one_of_many() -> None:
    made = list(make_examples(paper(*paragraphs(*(words(150, f"w{n}") for n in range(80)))), 1))
    requests = {example.messages[0].content.split("\n\n")[0] for example in made[1:]}
    assert all('the section "Results" of the paper "On the origin of Streptomyces"' in request for request in requests)
    assert len(requests) > 10
    assert min(len(CONTINUE_TEMPLATES), len(OPENING_TEMPLATES)) >= 12


def test_a_request_is_one_paragraph_whatever_the_title() -> None:
    document = paper(*paragraphs(words(150), section="A\n\n{odd} heading"), title="x" * 5000)
    request = next(make_examples(document, 1)).messages[0].content
    assert "\n" not in request
    assert "{odd} heading" in request
    assert len(request) < 400


def test_the_same_seed_gives_the_same_examples_and_another_seed_the_same_ids() -> None:
    document = paper(*paragraphs(*(words(150, f"w{n}") for n in range(20))))
    assert list(make_examples(document, 1)) == list(make_examples(document, 1))
    assert [a.id for a in make_examples(document, 1)] == [b.id for b in make_examples(document, 2)]
    assert list(make_examples(document, 1)) != list(make_examples(document, 2))


def test_only_papers_in_the_priority_folder_weigh_more() -> None:
    def weight(source: str) -> float:
        example: Example = next(make_examples(paper(*paragraphs(words(150)), source=source), 1))
        return weighted(example).weight

    assert weight("important_examples/a.pdf") == weight("2020/important_examples/b/a.pdf") == 2.5
    assert weight("a.pdf") == weight("2020/important_examples.pdf") == 1.0
