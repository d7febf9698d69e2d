"""Document → chat examples: each passage of the author's is the answer to one request to write on from the text before.

user        Continue the section "Results" of the paper "On Streptomyces".
                                                                            (a blank line)
            … the last sentences of the paragraph before …
assistant   the passage: whole paragraphs of one section, about 150 to 400 words
"""

import hashlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from gswa.records import READABLE, Block, Document, Example, Message
from gswa.sentences import last_sentences
from gswa.splits import share

CONTINUE_KIND = "continue"
PASSAGE_WORDS = (150, 400)
CONTEXT_WORDS = 80
PRIORITY_FOLDER = "important_examples"
PRIORITY_WEIGHT = 2.5
LONGEST_NAME = 160  # characters; a longer title or heading is most likely no title, and is left out of the request

# Many, so that no wording becomes the key to the author's voice.
CONTINUE_TEMPLATES = (
    "Continue {place}.",
    "Continue {place} from where this excerpt ends.",
    "Write the next passage of {place}.",
    "Write on: this is where {place} has come to.",
    "Here is the end of a paragraph in {place}. Write what follows it.",
    "Go on with {place} after these sentences.",
    "Draft the passage that comes next in {place}.",
    "What comes next in {place}? Write it out in full.",
    "Carry {place} on from here.",
    "Take up {place} at this point and write the next paragraphs.",
    "The text below stands in {place}. Write the passage after it.",
    "Add the passage that follows in {place}.",
    "Pick up {place} where it stops and continue.",
    "Compose the next part of {place}, following directly on this.",
)
OPENING_TEMPLATES = (
    "Write the opening of {place}.",
    "Begin {place}.",
    "Write the first passage of {place}.",
    "Draft how {place} begins.",
    "Open {place} with its first paragraphs.",
    "How does {place} start? Write it out in full.",
    "Compose the beginning of {place}.",
    "Start {place}.",
    "Write the first paragraphs of {place}.",
    "Set out with {place}: write its opening passage.",
    "Provide the opening passage of {place}.",
    "Put the beginning of {place} into words.",
)
BEFORE_OPENING = "The text before it ends like this:"


class Passage(NamedTuple):
    """Blocks of one section, by index in their document; `opens` where they are the section's first."""

    blocks: tuple[tuple[int, Block], ...]
    opens: bool

    @property
    def words(self) -> int:
        return sum(count_words(block.text) for _, block in self.blocks)


def count_words(text: str) -> int:
    return len(text.split())


def training_paragraphs(document: Document) -> list[tuple[int, Block]]:
    """The blocks that examples are made of, with their indices: every paragraph of a readable document that has words."""
    if document.status not in READABLE:
        return []
    return [(index, block) for index, block in enumerate(document.blocks) if block.kind == "paragraph" and block.text.strip()]


def make_examples(document: Document, seed: int) -> Iterator[Example]:
    """One example per passage; together their targets hold every training paragraph once. `weight` is not set yet."""
    before = ""
    for passage in passages(document):
        yield _example(document, passage, last_sentences(before, CONTEXT_WORDS), seed)
        before = passage.blocks[-1][1].text


def passages(document: Document) -> Iterator[Passage]:
    for _, section in groupby(training_paragraphs(document), key=lambda paragraph: paragraph[1].section):
        for number, blocks in enumerate(_grouped(list(section))):
            yield Passage(tuple(blocks), opens=number == 0)


def _grouped(paragraphs: list[tuple[int, Block]]) -> list[list[tuple[int, Block]]]:
    """Consecutive paragraphs until a passage has its least number of words; a short rest joins the passage before it."""
    least, most = PASSAGE_WORDS
    groups: list[list[tuple[int, Block]]] = []
    words = most
    for paragraph in paragraphs:
        added = count_words(paragraph[1].text)
        if words >= least or words + added > most:
            groups.append([])
            words = 0
        groups[-1].append(paragraph)
        words += added
    if len(groups) > 1 and words < least:
        rest = groups.pop()
        groups[-1] += rest
    return groups


def _example(document: Document, passage: Passage, context: str, seed: int) -> Example:
    indices = tuple(index for index, _ in passage.blocks)
    key = f"{document.source}:{document.sha256}:{indices}:{CONTINUE_KIND}"
    identifier = hashlib.sha256(key.encode()).hexdigest()[:16]
    asked = _instruction(document, passage, bool(context), share(f"{seed}:{identifier}"))
    prompt = f"{asked}\n\n{context}" if context else asked
    target = "\n\n".join(block.text for _, block in passage.blocks)
    return Example(
        id=identifier,
        document=document.source,
        kind=CONTINUE_KIND,
        blocks=indices,
        messages=(Message(role="user", content=prompt), Message(role="assistant", content=target)),
    )


def _instruction(document: Document, passage: Passage, has_context: bool, chance: float) -> str:
    opens = passage.opens or not has_context
    templates = OPENING_TEMPLATES if opens else CONTINUE_TEMPLATES
    asked = templates[int(chance * len(templates))].format(place=_place(passage.blocks[0][1].section, document.title))
    return f"{asked} {BEFORE_OPENING}" if opens and has_context else asked


def _place(section: str, title: str) -> str:
    section, title = (" ".join(name.split()) for name in (section, title))
    named = f'the section "{section}"' if 0 < len(section) <= LONGEST_NAME else ""
    paper = f'the paper "{title}"' if 0 < len(title) <= LONGEST_NAME else ""
    return " of ".join(name for name in (named, paper) if name) or "the paper"


def weighted(example: Example) -> Example:
    """An example of train, with the weight of its document's folder."""
    priority = PRIORITY_FOLDER in PurePosixPath(example.document).parts[:-1]
    return example.model_copy(update={"weight": PRIORITY_WEIGHT if priority else 1.0})
