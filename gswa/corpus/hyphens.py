"""Lines → running text: a hyphen at a line's end is dropped or kept by the evidence of the document's own words."""

import re
from collections import Counter
from collections.abc import Iterable

from gswa.corpus.lines import HYPHEN

WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
LAST_PART = re.compile(r"([^\W\d_]+)[-\u2010\ufffe]$")
FIRST_PART = re.compile(r"[^\W\d_]+")


def vocabulary(texts: Iterable[str]) -> Counter[str]:
    """How often each word is written within a line, where its spelling is not in doubt."""
    words: Counter[str] = Counter()
    for text in texts:
        found = WORD.findall(text)
        words.update(word.lower() for word in (found[:-1] if text.endswith(("-", HYPHEN)) else found))
    return words


def join_lines(lines: Iterable[str], words: Counter[str]) -> str:
    text = ""
    for line in (line.strip() for line in lines):
        text = _join(text, line, words) if text and line else text or line
    return re.sub(r"\s+", " ", text.replace(HYPHEN + " ", "-").replace(HYPHEN, "-")).strip()


def _join(text: str, line: str, words: Counter[str]) -> str:
    if not text.endswith((HYPHEN, "-", "\u2010")):
        return f"{text} {line}"
    left, right = LAST_PART.search(text), FIRST_PART.match(line)
    if left is None or right is None:
        return text.replace(HYPHEN, "-") + line if text.endswith(HYPHEN) or line[:1].isalnum() else f"{text} {line}"
    return text[:-1] + ("-" if _is_compound(left.group(1), right.group(), words) else "") + line


def _is_compound(left: str, right: str, words: Counter[str]) -> bool:
    joined, compound = words[f"{left}{right}".lower()], words[f"{left}-{right}".lower()]
    if joined or compound:
        return compound > joined
    return right[0].isupper() or all(len(part) > 3 and words[part.lower()] > 1 for part in (left, right))
