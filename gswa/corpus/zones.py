"""Drafts → typed blocks, the same for every format: what is body text, under which section, and what is kept but not trained on."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from gswa.corpus.clean import clean_text, count_words
from gswa.corpus.headings import (
    RUN_IN_ABSTRACT,
    RUN_IN_NOTE,
    RUN_IN_THANKS,
    is_abstract,
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
MIN_ABSTRACT_WORDS = 60  # of an abstract in small print that no heading names
MAX_WORDS_OF_NAMES = 600  # of authors, their places and the publisher's notes before the abstract
NAME_PARTICLES = frozenset(["and", "de", "da", "del", "della", "der", "den", "di", "dos", "du", "la", "le", "van", "von", "zu", "el", "al"])
SPACED = re.compile(r"(?<!\S)(?:[^\W\d_]\s){2,}[^\W\d_](?!\S)")  # "l e t": a listing of code, set on a grid
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
    prepared = _prepared(drafts)
    names = _names_before_abstract(prepared)
    for at, draft in enumerate(prepared):
        kind = _kind(draft, zone, section, front)
        if at < names and kind in ("heading", "paragraph"):
            kind = "affiliation"  # whatever stands between the title and the abstract names authors and their places
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
        return _kind_of_heading(text, zone, front)
    if zone:
        return zone
    if is_caption(text):
        return "caption"
    if _is_reference(text):
        return "reference"
    if RUN_IN_THANKS.match(text):
        return "acknowledgement"
    if RUN_IN_NOTE.match(text) or (hint == "small" and not _is_abstract_in_small_print(text, section, front)):
        return "note"
    if front and _is_front_matter(text):
        return "affiliation"
    return "paragraph" if is_prose(text) else "other"


def _kind_of_heading(text: str, zone: BlockKind | None, front: bool) -> BlockKind:
    if front and _is_names(text) and not is_known_heading(text):
        return "affiliation"
    return "reference" if zone == "reference" and not _opens_part(text) else "heading"


def _is_abstract_in_small_print(text: str, section: str, front: bool) -> bool:
    unnamed = front and count_words(text) >= MIN_ABSTRACT_WORDS and is_prose(text) and not _is_front_matter(text)
    return unnamed or is_abstract(section)


def _opens_part(heading: str) -> bool:
    """Ends the list of references, as "Appendix A" does and no reference that looks like a heading."""
    if is_known_heading(heading) or is_numbered_heading(heading):
        return not _is_reference(heading)
    return len(heading.split()) <= 8 and not re.search(r"[,\d]|\b[A-Z]\.", heading)


def _is_reference(text: str) -> bool:
    return REFERENCE.match(text) is not None and count_words(text) < 80


def _names_before_abstract(drafts: list[Draft]) -> int:
    """How many drafts stand before the abstract, where one comes first of all parts; 0 where the text begins otherwise."""
    words = 0
    for at, draft in enumerate(drafts):
        if draft.hint == "heading" and is_known_heading(draft.text):
            return at if is_abstract(draft.text) else 0
        words += count_words(draft.text)
        if words > MAX_WORDS_OF_NAMES:
            return 0
    return 0


def _is_names(text: str) -> bool:
    """Several people: every word begins with a capital, but for the small ones that belong to names."""
    words = re.findall(r"[^\W\d_][^\W\d_.'’-]*", text)
    named = sum(word[0].isupper() or word in NAME_PARTICLES for word in words)
    return re.search(r",|\band\b|&", text) is not None and len(words) > 2 and named == len(words)


def _is_front_matter(text: str) -> bool:
    """Authors and affiliations: names of institutions, hardly any sentence."""
    places, count = len(AFFILIATION.findall(text)), count_words(text)
    return (count < MAX_FRONT_WORDS and not ends_sentence(text)) or places * 25 > count


def is_prose(text: str) -> bool:
    """Running text that can be read: sentences, mostly of letters or of plain words, few that no font could name."""
    dense, words = text.replace(" ", ""), text.split()
    plain = sum(word.islower() and word.strip(".,;:()").isalpha() for word in words)
    if (
        not dense
        or (sum(c.isalpha() for c in dense) < 0.65 * len(dense) and plain < 0.35 * len(words))
        or 20 * len(SPACED.findall(text)) > len(words)
        or sum(c == "\ufffd" or "\ue000" <= c <= "\uf8ff" for c in dense) > 0.01 * len(dense)
    ):
        return False
    return count_words(text) >= (MIN_WORDS_OF_SENTENCE if ends_sentence(text) else MIN_WORDS) or plain >= max(12, 0.55 * len(words))
