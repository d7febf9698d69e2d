"""Where sentences and paragraphs end, by rules that rather miss an end than invent one: a cut missed costs nothing."""

import re

PARAGRAPH_GAP = re.compile(r"\n[ \t\r]*\n\s*")
# One set of characters first, so that `re` looks for nothing else between them: twice as fast as two alternatives.
_CANDIDATE = re.compile(r"""[.!?…。！？](?:(?<=[.!?…])[)\]"'”’]*(?:\s?\[[\d,\s–-]+\])?(\s+)(?=\S)|(?<=[。！？])[」』”’）]*(\s*))""")
_OPENING = "\"'“‘(["
_SHORT_FORMS = """
    fig figs eq eqs ref refs tab no nos vol vols pp p ed eds e.g i.e cf vs approx ca dr prof mr mrs ms st suppl sp spp subsp
    var ser sec resp viz u.s u.k al jan feb mar apr jun jul aug sep sept oct nov dec
"""
_ABBREVIATIONS = frozenset(_SHORT_FORMS.split())
_ENDINGS = frozenset(["al", "sp", "spp", "u.s", "u.k", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"])
_LONG = 7  # letters: no short form has as many
_TAILS = frozenset(form[-2:] for form in _ABBREVIATIONS)
_LONGEST_ABBREVIATION = 20  # characters looked back for one


def paragraph_starts(text: str) -> list[int]:
    """Character positions right after each blank line."""
    return [match.end() for match in PARAGRAPH_GAP.finditer(text)]


def sentence_starts(text: str) -> list[int]:
    """Character positions where a sentence starts after another one; the text's own start is not among them."""
    return [match.end() for match in _CANDIDATE.finditer(text) if match.end() < len(text) and _ends_sentence(text, match)]


def ends_in_short_form(text: str) -> bool:
    """The dot at the end belongs to a short form that a sentence hardly ever ends with: "see Fig.", "cf."."""
    words = text.rstrip().rsplit(None, 1)
    return bool(words) and words[-1].endswith(".") and words[-1][:-1].lower().lstrip("([") in _ABBREVIATIONS - _ENDINGS


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    mark, following = match.start(), match.end()
    if text[mark] in "。！？":
        return True
    first = text[following]
    letter = text[following + 1] if first in _OPENING and following + 1 < len(text) else first
    if letter.islower() and "\n" not in match[1]:
        return False
    tail = text[mark - 2 : mark]
    if text[mark] != "." or (tail.isalpha() and tail.lower() not in _TAILS):
        return True
    return text[mark - _LONG : mark].isalpha() or not _is_abbreviation(text, mark, first, letter)


def _is_abbreviation(text: str, dot: int, first: str, letter: str) -> bool:
    """Whether the dot belongs to a short form ("Fig. 3") or an initial ("J. Smith")."""
    before = text[max(0, dot - _LONGEST_ABBREVIATION) : dot].split()
    word = before[-1].lower().lstrip("([\"'“‘") if before and not text[dot - 1].isspace() else ""
    if word == "al":  # "et al." ends a sentence unless a year or a bracket follows
        return letter.isdigit() or first in "(["
    return word in _ABBREVIATIONS or (len(word) == 1 and text[dot - 1].isupper() and letter.isupper())


def last_sentences(text: str, words: int) -> str:
    """The whole sentences at the end of a text that make at most `words` words; of a longer last one, its last words."""
    edges = [0, *sentence_starts(text), len(text)]
    room, chosen = words, len(text)
    for start, end in zip(edges[-2::-1], edges[:0:-1], strict=True):
        room -= len(text[start:end].split())
        if room < 0:
            break
        chosen = start
    return text[chosen:].strip() or " ".join(text.split()[-words:])
