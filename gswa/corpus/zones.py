"""Drafts → typed blocks, the same for every format: what is body text, under which section, and what is kept but not trained on."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from gswa.corpus.clean import clean_text, count_words
from gswa.corpus.headings import (
    RUN_IN_ABSTRACT,
    RUN_IN_NOTE,
    RUN_IN_THANKS,
    is_caption,
    is_known_heading,
    is_numbered_heading,
    zone_of,
)
from gswa.corpus.lines import ends_sentence
from gswa.records import Block, BlockKind

Hint = Literal["", "title", "heading", "caption", "reference", "small", "note", "other"]
MIN_WORDS = 20  # of a paragraph that does not end as a sentence
MIN_WORDS_OF_SENTENCE = 4
MAX_FRONT_WORDS = 100  # of a block before the first sentence that is names, not text cut off
REFERENCE = re.compile(r"(?:\[\d{1,3}\]|\d{1,3}[.)])\s+(?=.{0,400}\b(?:1[89]|20)\d\d\b)\D")
AFFILIATION = re.compile(
    r"\b(?:universit\w+|institut\w*|department|dept|school|college|faculty|laborator\w+|hospital|centre|center|academy|division)\b|@",
    re.IGNORECASE,
)


class Draft(NamedTuple):
    """A block before it is typed. `hint` is what the reader knows of it: style, type size, place. `page` counts from 1."""

    text: str
    hint: Hint = ""
    page: int | None = None


def type_blocks(drafts: Iterable[Draft]) -> tuple[Block, ...]:
    """Every draft with text becomes one block; a run-in "Abstract." becomes a heading of its own."""
    blocks: list[Block] = []
    zone: BlockKind | None = None
    section, front = "", True
    for draft in _prepared(drafts):
        kind = _kind(draft, zone, section, front)
        if kind == "heading":
            zone, section, front = zone_of(draft.text), draft.text, False
        elif kind == "paragraph":
            front = False
        blocks.append(Block(kind=kind, text=draft.text, section="" if kind in ("heading", "title") else section, page=draft.page))
    return tuple(blocks)


def _prepared(drafts: Iterable[Draft]) -> list[Draft]:
    prepared: list[Draft] = []
    for draft in drafts:
        text = clean_text(draft.text)
        label = RUN_IN_ABSTRACT.match(text) if draft.hint in ("", "small") else None
        if label:
            prepared.append(Draft(label.group(1), "heading", draft.page))
            text = text[label.end() :]
        if text:
            prepared.append(draft._replace(text=text))
    return _with_title(prepared)


def _with_title(drafts: list[Draft]) -> list[Draft]:
    """Where no type size or style named it: the first block, when it is short, no sentence and no section's name."""
    if not drafts or any(draft.hint == "title" for draft in drafts):
        return drafts
    first = drafts[0]
    named = is_known_heading(first.text) or is_numbered_heading(first.text)
    if (
        first.hint in ("", "heading")
        and len(drafts) > 1
        and 2 <= count_words(first.text) <= 40
        and not first.text.endswith(".")
        and not named
    ):
        return [first._replace(hint="title"), *drafts[1:]]
    return drafts


def _kind(draft: Draft, zone: BlockKind | None, section: str, front: bool) -> BlockKind:
    text, hint = draft.text, draft.hint
    if hint in ("title", "caption", "reference", "note", "other"):
        return hint
    if hint == "heading":
        return "heading" if zone != "reference" or not _is_reference(text) else "reference"
    if zone:
        return zone
    if is_caption(text):
        return "caption"
    if _is_reference(text):
        return "reference"
    if RUN_IN_THANKS.match(text):
        return "acknowledgement"
    if RUN_IN_NOTE.match(text) or (hint == "small" and not re.match("(?i)abstract|summary", section)):
        return "note"
    if front and _is_front_matter(text):
        return "other"
    return "paragraph" if is_prose(text) else "other"


def _is_reference(text: str) -> bool:
    return REFERENCE.match(text) is not None and count_words(text) < 80


def _is_front_matter(text: str) -> bool:
    """Authors and affiliations: names of institutions, hardly any sentence."""
    places, count = len(AFFILIATION.findall(text)), count_words(text)
    return (count < MAX_FRONT_WORDS and not ends_sentence(text)) or places * 25 > count


def is_prose(text: str) -> bool:
    """Running text that can be read: sentences, mostly of letters, few that no font could name."""
    dense = text.replace(" ", "")
    if (
        not dense
        or sum(c.isalpha() for c in dense) < 0.65 * len(dense)
        or sum(c == "\ufffd" or "\ue000" <= c <= "\uf8ff" for c in dense) > 0.01 * len(dense)
    ):
        return False
    return count_words(text) >= (MIN_WORDS_OF_SENTENCE if ends_sentence(text) else MIN_WORDS)
