"""PDF → drafts by PyMuPDF, for those who installed it: its lines, our layout."""

import math
import statistics
from pathlib import Path
from typing import Any

from gswa.corpus.glyphs import BOLD_NAMES, MAX_CHARACTERS
from gswa.corpus.guards import SetAside
from gswa.corpus.layout import lay_out
from gswa.corpus.lines import HYPHEN, Line, turned, upright
from gswa.corpus.pdf import ENCRYPTED, MAX_PAGES, Reading, check_text_layer


def read_pdf_with_pymupdf(path: Path) -> Reading:
    """Raises SetAside as `read_pdf` does. PyMuPDF repairs by itself what it can."""
    import pymupdf

    pymupdf.TOOLS.mupdf_display_errors(False)
    try:
        with pymupdf.open(path, filetype="pdf") as document:
            return _read(document)
    except (pymupdf.FileDataError, RuntimeError, ValueError) as error:
        raise SetAside("corrupt", f"it is damaged and could not be repaired ({str(error)[:120]}); make the PDF anew") from error


def _read(document: Any) -> Reading:
    if document.needs_pass:
        raise SetAside("encrypted", ENCRYPTED)
    if document.page_count > MAX_PAGES:
        raise SetAside("too_big", f"{document.page_count:,} pages; up to {MAX_PAGES:,} are read")
    if document.page_count == 0:
        raise SetAside("corrupt", "it is damaged: not one of its pages was found; make the PDF anew")
    pages = [_page_lines(page) for page in document]
    check_text_layer(pages, drawn=any(page.get_contents() for page in document))
    return Reading(lay_out(pages), document.page_count, "repaired" if document.is_repaired else "ok")


def _page_lines(page: Any) -> list[Line]:
    blocks = page.get_text("dict", flags=0)["blocks"]
    lines = [line for block in blocks for line in block.get("lines", ()) if any(span["text"].strip() for span in line["spans"])]
    if sum(len(span["text"]) for line in lines for span in line["spans"]) > MAX_CHARACTERS:
        raise SetAside("too_big", f"page {page.number + 1} holds more than {MAX_CHARACTERS:,} characters")
    return upright([_line(line, page.number + 1) for line in lines])


def _line(line: dict[str, Any], page: int) -> Line:
    """Their y grows downwards, ours upwards."""
    spans = [span for span in line["spans"] if span["text"].strip()]
    text = "".join(span["text"] for span in line["spans"]).strip()
    text = text[:-1] + HYPHEN if text.endswith("\u00ad") else text
    turn = round(math.atan2(-line["dir"][1], line["dir"][0]) / (math.pi / 2)) % 4
    left, top, right, bottom = line["bbox"]
    (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(turned(left, -bottom, turn), turned(right, -top, turn), strict=True))
    main = max(spans, key=lambda span: len(span["text"]))
    origins = [turned(span["origin"][0], -span["origin"][1], turn)[1] for span in spans]
    bold = all(any(word in span["font"].lower() for word in BOLD_NAMES) or span["flags"] & 16 for span in spans)
    return Line(page, text, x0, y0, x1, y1, statistics.median(origins), main["size"], main["font"], bold, turn)
