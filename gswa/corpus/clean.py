"""Repair of characters that leaves the author's style alone: quotes, dashes, superscripts and ligature-free spelling stay as written."""

import re
import unicodedata

INVISIBLE = re.compile(
    "[\u00ad\u200b\u200c\u200e\u200f\u2060\ufeff\ufff9-\ufffb\u202a-\u202e\u2066-\u2069\ufffe\uffff]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
SAMPLE, LEAST_WORDS = 3000, 10  # characters that the language is told by, and words that they must hold
SPACES = re.compile(r"\s+")
CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’.-][^\W_]+)*")


def clean_text(text: str) -> str:
    """One line of text: mojibake and ligatures repaired, NFC (NFKC would make x² into x2), invisible characters gone."""
    import ftfy

    if text.isascii() and "&" not in text:
        return SPACES.sub(" ", INVISIBLE.sub("", text.replace("\t", " ").replace("\n", " "))).strip()
    # Full-width punctuation is a scan's fault in English and the rule in Chinese.
    text = ftfy.fix_text(text, uncurl_quotes=False, fix_character_width=not CJK.search(text))
    text = unicodedata.normalize("NFC", INVISIBLE.sub("", text.replace("\t", " ").replace("\n", " ")))
    return SPACES.sub(" ", text).strip()


def language_of(text: str) -> str:
    """ISO 639-1 code of the language, by py3langid; empty for a text too short to tell."""
    from py3langid import classify

    return str(classify(text[:SAMPLE])[0]) if count_words(text[:SAMPLE]) >= LEAST_WORDS else ""


def count_words(text: str) -> int:
    """Words of alphabetic scripts; a character each of those that write without spaces."""
    return sum(1 for _ in WORD.finditer(text))
