"""Repair of characters that leaves the author's style alone: quotes, dashes, superscripts and ligature-free spelling stay as written."""

import re
import unicodedata

INVISIBLE = re.compile(
    "[\u00ad\u200b\u200c\u200e\u200f\u2060\ufeff\ufff9-\ufffb\u202a-\u202e\u2066-\u2069\ufffe\uffff]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
SPACES = re.compile(r"\s+")
CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’.-][^\W_]+)*")


def clean_text(text: str) -> str:
    """One line of text: mojibake and ligatures repaired, NFC (NFKC would make x² into x2), invisible characters gone."""
    import ftfy

    # Full-width punctuation is a scan's fault in English and the rule in Chinese.
    text = ftfy.fix_text(text, uncurl_quotes=False, fix_character_width=not CJK.search(text))
    text = unicodedata.normalize("NFC", INVISIBLE.sub("", text.replace("\t", " ").replace("\n", " ")))
    return SPACES.sub(" ", text).strip()


def count_words(text: str) -> int:
    """Words of alphabetic scripts; a character each of those that write without spaces."""
    return sum(1 for _ in WORD.finditer(text))
