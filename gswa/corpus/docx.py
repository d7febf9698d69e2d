"""DOCX → drafts by python-docx: headings by style, tables and text boxes kept, equations as their letters."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gswa.corpus.guards import SetAside
from gswa.corpus.headings import is_known_heading
from gswa.corpus.lines import ends_sentence
from gswa.corpus.zones import Draft, Hint

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
CHARACTERS = {f"{W}tab": "\t", f"{W}br": " ", f"{W}cr": " ", f"{W}noBreakHyphen": "-"}
WHERE = re.compile(r"(?:where|with|in which|which|and)\b")
MAX_DEPTH = 200  # of nested tables and boxes
STYLES: tuple[tuple[str, Hint], ...] = (
    (r"title", "title"),
    (r"heading ?\d?|subtitle|überschrift ?\d?|titre ?\d?", "heading"),
    (r".*caption.*|.*legend.*", "caption"),
    (r"bibliography.*|references?|endnote bibliography", "reference"),
    (r"author.*|affiliation.*|date|e-?mail|footnote text|endnote text|header|footer|toc.*|table of .*|keywords?|source code|code", "other"),
)


def read_docx(path: Path) -> list[Draft]:
    """Raises SetAside where Word's own package is damaged."""
    import docx

    try:
        document: Any = docx.Document(str(path))
        body = document.element.body
    except MemoryError:
        raise
    except Exception as error:  # python-docx and lxml raise a dozen kinds for a damaged package, and say why in all of them
        raise SetAside(
            "corrupt", f"Word's package is damaged ({str(error)[:120] or type(error).__name__}); open it in Word and save it anew"
        ) from error
    return join_around_formulas(_drafts(body, _style_names(document), "", 0))


def join_around_formulas(drafts: Iterable[Draft]) -> list[Draft]:
    """A formula on a line of its own parts a sentence into two paragraphs of Word's: "… is given by" and "where x is …"."""
    joined: list[Draft] = []
    for draft in drafts:
        before = next((at for at in range(len(joined) - 1, -1, -1) if joined[at].hint != "other"), None)
        if before is not None and draft.hint == joined[before].hint == "" and WHERE.match(draft.text):
            joined[before] = joined[before]._replace(text=f"{joined[before].text} {draft.text}")
        else:
            joined.append(draft)
    return joined


def _style_names(document: Any) -> dict[str, str]:
    """Style ids are translated with Word's language, the names python-docx gives are not."""
    try:
        return {style.style_id: style.name or "" for style in document.styles}
    except (KeyError, AttributeError, ValueError):
        return {}


def _drafts(parent: Any, styles: dict[str, str], inside: Hint, depth: int) -> Iterator[Draft]:
    """Paragraphs in the order of the text; those of tables and text boxes carry the hint `inside`."""
    if depth > MAX_DEPTH:
        return
    for child in parent:
        if child.tag == f"{W}p":
            yield from _paragraph(child, styles, inside, depth)
        elif child.tag == f"{W}tbl":
            yield from _table(child)
        elif child.tag in (f"{W}sdt", f"{W}sdtContent", f"{W}ins", f"{W}smartTag", f"{W}customXml"):
            yield from _drafts(child, styles, inside, depth + 1)


def _table(table: Any) -> Iterator[Draft]:
    """One draft a row."""
    for row in table.iter(f"{W}tr"):
        cells = (" ".join(filter(None, (_text(p).strip() for p in cell.iter(f"{W}p")))) for cell in row.iterchildren(f"{W}tc"))
        text = " | ".join(filter(None, cells))
        if text:
            yield Draft(text, "other")


def _paragraph(element: Any, styles: dict[str, str], inside: Hint, depth: int) -> Iterator[Draft]:
    text = _text(element).strip()
    if text:
        yield Draft(text, inside or ("other" if _is_formula(element) else _hint(element, text, styles)))
    for box in element.iter(f"{W}txbxContent"):
        if not any(True for _ in box.iterancestors(FALLBACK)):
            yield from _drafts(box, styles, "other", depth + 1)


def _is_formula(element: Any) -> bool:
    """Nothing but mathematics, a number in brackets aside."""
    if element.find(f".//{MATH}oMath") is None:
        return False
    beside = "".join(t.text or "" for t in element.iter(f"{W}t"))
    return re.fullmatch(r"[\s\d().,:;]*", beside) is not None


def _text(element: Any) -> str:
    """What the paragraph says itself: deleted text, text boxes and the fallback copies of drawings are not part of it."""
    parts: list[str] = []
    stack = [element]
    while stack:
        node = stack.pop()
        if node.tag in (f"{W}t", f"{MATH}t"):
            parts.append(node.text or "")
        elif node.tag in CHARACTERS:
            parts.append(CHARACTERS[node.tag])
        elif node.tag not in (f"{W}txbxContent", FALLBACK, f"{W}del", f"{W}pPr", f"{W}rPr"):
            stack.extend(reversed(node))
    return "".join(parts)


def _hint(element: Any, text: str, styles: dict[str, str]) -> Hint:
    properties = element.find(f"{W}pPr")
    style = properties.find(f"{W}pStyle") if properties is not None else None
    name = styles.get(style.get(f"{W}val", ""), style.get(f"{W}val", "")) if style is not None else ""
    for pattern, hint in STYLES:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return hint
    if properties is not None and properties.find(f"{W}outlineLvl") is not None:
        return "heading"
    return "heading" if is_known_heading(text) or _is_bold_line(element, text) else ""


def _is_bold_line(element: Any, text: str) -> bool:
    """A heading made by hand: every run bold, a few words, no sentence."""
    if len(text.split()) > 14 or ends_sentence(text):
        return False
    runs = [run for run in element.iter(f"{W}r") if "".join(t.text or "" for t in run.iter(f"{W}t")).strip()]
    return bool(runs) and all(_is_bold(run) for run in runs)


def _is_bold(run: Any) -> bool:
    mark = run.find(f"{W}rPr/{W}b")
    return mark is not None and mark.get(f"{W}val", "true") not in ("0", "false", "off")
