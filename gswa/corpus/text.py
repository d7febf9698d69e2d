"""TXT and Markdown → drafts: the encoding by evidence, paragraphs by blank lines, or by shape where lines are wrapped by hand."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from gswa.corpus.guards import SetAside
from gswa.corpus.headings import is_caption, is_known_heading, is_numbered_heading
from gswa.corpus.hyphens import join_lines, vocabulary
from gswa.corpus.lines import ends_sentence
from gswa.corpus.zones import Draft, Hint

BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# Western text first: without this list the detector reads cp1252 as cp1250 and Shift-JIS as cp949.
CANDIDATES = ["cp1252", "gb18030", "shift_jis", "euc_jp", "big5", "euc_kr", "cp1251"]
SAMPLE_BYTES = 1 << 20
MAX_WRAPPED = 120  # characters; longer lines were not wrapped by hand
MAX_HEADING_WORDS = 14


def read_text(path: Path) -> list[Draft]:
    """Raises SetAside where the bytes are no text."""
    text = re.sub(r"\r\n?|[\u2028\u0085]", "\n", decode(path.read_bytes())).replace("\f", "\n\n")
    return markdown_drafts(text) if path.suffix.lower() == ".md" else text_drafts(text)


def decode(content: bytes) -> str:
    """By byte-order mark, as UTF-8, by what the detector finds most likely, as cp1252: the first that holds."""
    for mark, encoding in BOMS:
        if content.startswith(mark):
            return content.decode(encoding, "replace").lstrip("\ufeff")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if content.count(0) > 0.01 * len(content):
        raise SetAside("unsupported", "its content is binary data, not text")
    return _nearly_utf8(content) or content.decode(_detected(content), "replace")


def _nearly_utf8(content: bytes) -> str | None:
    """UTF-8 with a few bytes damaged, rather than another encoding throughout."""
    text = content.decode("utf-8", "replace")
    beyond = sum(c > "\x7f" and c != "\ufffd" for c in text)
    return text if beyond > 4 * text.count("\ufffd") else None


def _detected(content: bytes) -> str:
    from charset_normalizer import from_bytes

    sample = content[:SAMPLE_BYTES]
    high = sum(byte > 0x7F for byte in sample)
    if high < 0.15 * len(sample):  # a few accents and quotes among ASCII: Western, whatever the detector would say of so little
        return "cp1252"
    best = from_bytes(sample, cp_isolation=CANDIDATES).best()
    return best.encoding if best else "cp1252"


def text_drafts(text: str) -> list[Draft]:
    blocks = _blocks(text)
    words = vocabulary(line for block in blocks for line in block)
    return [_draft(join_lines(block, words), alone=True) for block in blocks]


def _blocks(text: str) -> list[list[str]]:
    """The lines of each paragraph."""
    lines = [line.rstrip() for line in text.split("\n")]
    filled = [line for line in lines if line.strip()]
    wrapped = _is_wrapped(filled)
    blocks = _between_blank_lines(lines)
    if not wrapped:
        return [[line] for block in blocks for line in block]
    return [part for block in blocks for part in _by_shape(block, _full_width(filled))]


def _is_wrapped(lines: list[str]) -> bool:
    """Most lines end in mid-sentence, and hardly any is longer than a screen is wide."""
    if len(lines) < 2:
        return False
    long = sum(len(line) > MAX_WRAPPED for line in lines)
    broken = sum(not ends_sentence(line) and len(line) > 40 for line in lines[:-1])
    return long < 0.05 * len(lines) and broken > 0.3 * len(lines)


def _full_width(lines: list[str]) -> int:
    """Length that nine of ten lines stay under."""
    lengths = sorted(len(line) for line in lines)
    return lengths[int(0.9 * (len(lengths) - 1))]


def _between_blank_lines(lines: list[str]) -> list[list[str]]:
    """Double-spaced text has a blank line after every line: there, two blank lines part paragraphs."""
    filled = [line for line in lines if line.strip()]
    pairs = sum(bool(a.strip()) and bool(b.strip()) for a, b in pairwise(lines))
    parting = 2 if _is_wrapped(filled) and pairs < 0.05 * len(filled) and len(filled) > 10 else 1
    blocks: list[list[str]] = [[]]
    blank = 0
    for line in lines:
        if not line.strip():
            blank += 1
            continue
        if blank >= parting and blocks[-1]:
            blocks.append([])
        blank = 0
        blocks[-1].append(line)
    return [block for block in blocks if block]


def _by_shape(block: list[str], width: int) -> list[list[str]]:
    """Cut at indented first lines, and after sentences that end a line early."""
    margin = Counter(len(line) - len(line.lstrip()) for line in block).most_common(1)[0][0]
    parts: list[list[str]] = [[block[0]]]
    for last, line in pairwise(block):
        indented = len(line) - len(line.lstrip()) > margin + 1 and len(last) - len(last.lstrip()) <= margin
        early = len(last) + 1 + len(line.split()[0]) < 0.92 * width
        heading = is_known_heading(last) or is_known_heading(line) or (early and is_numbered_heading(last.strip()))
        if indented or heading or (early and ends_sentence(last)):
            parts.append([])
        parts[-1].append(line)
    return parts


def _draft(text: str, alone: bool) -> Draft:
    return Draft(text, "heading" if alone and looks_like_heading(text) else "")


def looks_like_heading(text: str) -> bool:
    """A name of a section, a numbered line, or a few words in capitals."""
    if is_known_heading(text):
        return True
    if len(text.split()) > MAX_HEADING_WORDS or ends_sentence(text) or is_caption(text) or not text[:1].isalnum():
        return False
    return is_numbered_heading(text) or (text.isupper() and sum(c.isalpha() for c in text) > 3) or _is_name(text)


def _is_name(text: str) -> bool:
    """Short, begins with a capital, no list of names: "Patients and recruitment"."""
    return (
        text[0].isupper()
        and len(text) < 90
        and not re.search(r"[,;@|\t=]|\d{4}|\bet al\b", text)
        and sum(c.isalpha() for c in text) > 0.6 * len(text)
    )


HEADING_MARK = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")
FENCE = re.compile(r"\s*(?:```|~~~)")


def markdown_drafts(text: str) -> list[Draft]:
    """Headings by # or underlining; code, tables, pictures and front matter are kept as other."""
    text = re.sub(r"\A---\n.*?\n---\n|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^(\S.*)\n(?:=+|-{3,})[ \t]*$", r"# \1", text, flags=re.MULTILINE)
    drafts: list[Draft] = []
    paragraph: list[str] = []
    fenced = False
    for line in [*text.split("\n"), ""]:
        fence = FENCE.match(line) is not None
        heading = None if fenced else HEADING_MARK.match(line)
        if not line.strip() or fence or heading or fenced or LIST_ITEM.match(line) or line.lstrip().startswith("|"):
            drafts += _markdown_paragraph(paragraph)
            paragraph = []
        if heading:
            hint: Hint = "title" if len(heading.group(1)) == 1 and not drafts else "heading"
            drafts.append(Draft(_plain(heading.group(2)), hint))
        elif line.strip() and not fence:
            if fenced or line.lstrip().startswith("|"):
                drafts.append(Draft(line, "other"))
            else:
                paragraph.append(line)
        fenced = fenced != fence
    return drafts


def _markdown_paragraph(lines: list[str]) -> list[Draft]:
    if not lines:
        return []
    text = _plain(" ".join(LIST_ITEM.sub("", line, count=1) for line in lines))
    return [_draft(text, alone=False)] if text else []


def _plain(text: str) -> str:
    """Without the marks of emphasis, links, code and quotation."""
    text = re.sub(r"^\s*>+\s?", "", text)
    text = re.sub(r"!\[([^\]]*)\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]+)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)", r"\1", text)
    text = re.sub(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<![\w*])([*_])(?=\S)(.+?)(?<=\S)\1(?![\w*])", r"\2", text)
    return re.sub(r"`([^`]+)`", r"\1", text).replace("\\", "").strip()
