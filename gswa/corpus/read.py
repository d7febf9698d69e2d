"""One file → one Document: guards, the reader of its format, typed blocks; what cannot be read comes back with its status and reason."""

import re
from pathlib import Path

from gswa.corpus.clean import language_of
from gswa.corpus.guards import MORE_FORMATS, SetAside, check
from gswa.corpus.zones import Draft, type_blocks
from gswa.records import Document, Status


def read_file(path: Path, source: str, sha256: str, parser: str = "auto") -> Document:
    """Never raises for what the file holds, but for MemoryError.

    `parser` is auto, pymupdf (which then reads the PDFs) or unstructured (which then reads everything).
    """
    try:
        return _read(path, source, sha256, parser)
    except SetAside as aside:
        return set_aside(source, sha256, aside.status, aside.reason)
    except OSError as error:
        return set_aside(source, sha256, "corrupt", f"it cannot be read ({error.strerror or error})")


def set_aside(source: str, sha256: str, status: Status, reason: str) -> Document:
    return Document(source=source, sha256=sha256, status=status, reason=reason)


def _read(path: Path, source: str, sha256: str, parser: str) -> Document:
    status: Status = "ok"
    pages, reason = None, ""
    kind = check(path)
    if kind == "pdf":
        drafts, pages, status, reason = _read_pdf(path, parser)
    elif is_for_unstructured(path, parser):
        from gswa.corpus.unstructured import read_with_unstructured

        drafts = read_with_unstructured(path, "md" if path.suffix.lower() == ".md" else kind)
    elif kind == "docx":
        from gswa.corpus.docx import read_docx

        drafts = read_docx(path)
    else:
        from gswa.corpus.text import read_text

        drafts = read_text(path)
    blocks = type_blocks(drafts)
    if not blocks:
        raise SetAside("empty", "it holds no text")
    title = next((block.text for block in blocks if block.kind == "title"), "")
    prose = " ".join(block.text for block in blocks if block.kind == "paragraph")
    if not prose:
        reason = reason or "no paragraph of running text (tables, lists or labels only)"
    return Document(
        source=source, sha256=sha256, status=status, reason=reason, title=title, language=language_of(prose), pages=pages, blocks=blocks
    )  # fmt: skip


def _read_pdf(path: Path, parser: str) -> tuple[list[Draft], int | None, Status, str]:
    if parser == "pymupdf":
        from gswa.corpus.pymupdf import read_pdf_with_pymupdf

        return read_pdf_with_pymupdf(path)
    from gswa.corpus.pdf import read_pdf

    reading = read_pdf(path)  # what is locked, damaged or without a text layer, Unstructured passes over without a word
    if parser == "unstructured":
        from gswa.corpus.unstructured import read_with_unstructured

        return reading._replace(drafts=read_with_unstructured(path, "pdf"))
    return reading


def is_for_unstructured(path: Path, parser: str) -> bool:
    return parser == "unstructured" or path.suffix.lower() in MORE_FORMATS


def safe_stem(source: str) -> str:
    """The file's own name, fit for any file system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-.")[:60] or "document"
