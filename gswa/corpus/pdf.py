"""PDF → drafts, by PDFium and our own layout; a file that PDFium cannot open is repaired by pikepdf first."""

import io
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium_c

from gswa.corpus.guards import SetAside
from gswa.corpus.layout import lay_out
from gswa.corpus.lines import Line
from gswa.corpus.zones import Draft
from gswa.records import Status

MAX_PAGES = 3000
WRONG_PASSWORD = 4  # FPDF_ERR_PASSWORD
MIN_LETTERS = 25  # on a page, taken over the document: less is no text layer (a stamp, page numbers)
UNNAMED = re.compile("[\ufffd\ue000-\uf8ff]")
ENCRYPTED = "it asks for a password; save it without one"


class Reading(NamedTuple):
    drafts: list[Draft]
    pages: int | None = None
    status: Status = "ok"
    reason: str = ""


def read_pdf(path: Path) -> Reading:
    """Raises SetAside for files without a text layer, with a password, damaged beyond repair or too big."""
    try:
        return _read(path)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == WRONG_PASSWORD:
            raise SetAside("encrypted", ENCRYPTED) from error
    try:
        reading = _read(_repaired(path))
    except pypdfium2.PdfiumError as error:
        raise SetAside("corrupt", f"it is damaged and could not be repaired ({error}); make the PDF anew") from error
    return reading._replace(status="repaired", reason=reading.reason or "its index was damaged; rebuilt in memory, the file is unchanged")


def _repaired(path: Path) -> bytes:
    import pikepdf

    logging.getLogger("pikepdf").setLevel(logging.CRITICAL)
    out = io.BytesIO()
    try:
        with pikepdf.open(path) as document:
            document.save(out)
    except pikepdf.PasswordError as error:
        raise SetAside("encrypted", ENCRYPTED) from error
    except (pikepdf.PdfError, ValueError, RuntimeError) as error:
        raise SetAside("corrupt", f"it is damaged and could not be repaired ({_first_line(error, path)}); make the PDF anew") from error
    return out.getvalue()


def _first_line(error: Exception, path: Path) -> str:
    return (str(error).replace(str(path), "").splitlines() or [type(error).__name__])[0].lstrip(": ")[:120]


def _read(source: Path | bytes) -> Reading:
    document = pypdfium2.PdfDocument(source)
    try:
        count = len(document)
        if count > MAX_PAGES:
            raise SetAside("too_big", f"{count:,} pages; up to {MAX_PAGES:,} are read")
        if count == 0:
            raise SetAside("empty", "the document has no pages")
        pages, unread, drawn = _pages(document, count)
    finally:
        document.close()
    if unread == count:
        raise pypdfium2.PdfiumError("no page can be read")
    check_text_layer(pages, drawn)
    return Reading(lay_out(pages), count, reason=f"{unread} of {count} pages are damaged and left out" if unread else "")


def _pages(document: pypdfium2.PdfDocument, count: int) -> tuple[list[list[Line]], int, bool]:
    """The lines of each page, how many pages were damaged, and whether anything at all is drawn on them."""
    from gswa.corpus.glyphs import page_lines

    pages, unread, drawn = [], 0, False
    for index in range(count):
        try:
            page = document[index]
            textpage = page.get_textpage()
        except pypdfium2.PdfiumError:
            unread += 1
            continue
        pages.append(page_lines(textpage, index + 1))
        drawn = drawn or pdfium_c.FPDFPage_CountObjects(page.raw) > 0
        _close(textpage, page)
    return pages, unread, drawn


def _close(*handles: Any) -> None:
    for handle in handles:
        handle.close()


def check_text_layer(pages: Iterable[Iterable[Line]], drawn: bool) -> None:
    """Raises SetAside where the pages are pictures, or letters that no font names."""
    texts = ["".join(line.text for line in lines) for lines in pages]
    text = "".join(texts)
    letters = sum(map(str.isalpha, text))
    unnamed = len(UNNAMED.findall(text))
    if not text.strip() and not drawn:
        raise SetAside("empty", "its pages are blank")
    if (len(texts) > 1 and letters < MIN_LETTERS * len(texts)) or letters < 3:
        raise SetAside("needs_ocr", "it has no text layer (a scan?); run OCR on it, or move it out of the corpus")
    if unnamed > 0.3 * len(text):
        raise SetAside("needs_ocr", "its fonts do not say which letters they hold; run OCR on it, or save it anew from its source")
