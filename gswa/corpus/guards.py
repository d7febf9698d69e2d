"""Before a file is opened: what it is by its content, and whether it may be opened at all."""

import zipfile
from pathlib import Path

from gswa.records import Status

FORMATS = {".pdf": "pdf", ".docx": "docx", ".txt": "text", ".md": "text"}
MAX_FILE_BYTES = 200 << 20
MAX_ZIP_BYTES = 200 << 20
MAX_ZIP_RATIO = 200
CONTENTS = {
    "pdf": "a PDF; name it .pdf",
    "docx": "a Word document; name it .docx",
    "text": "plain text; name it .txt if it is a paper",
    "html": "a web page (a download that asked for a login?); get the paper anew",
    "ole": "an old Word file; save it as .docx",
    "rtf": "an RTF file; save it as .docx",
    "zip": "a ZIP archive; unpack it",
    "broken zip": "a damaged ZIP archive; get the file anew",
    "binary": "no text and no format that is read; get the file anew",
}


class SetAside(Exception):
    """A file that is not read, with the status and the reason that its record will show."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(status, reason)
        self.status: Status = status
        self.reason = reason


def check(path: Path) -> str:
    """The format to read `path` as: pdf, docx or text. Raises SetAside where it must not be opened."""
    size = path.stat().st_size
    if size == 0:
        raise SetAside("empty", "the file has no content")
    if size > MAX_FILE_BYTES:
        raise SetAside("too_big", f"{size >> 20} MB; files up to {MAX_FILE_BYTES >> 20} MB are read")
    named, found = FORMATS[path.suffix.lower()], sniff(path)
    if named == "docx" and found == "broken zip":
        raise SetAside("corrupt", "the file is damaged: it is not a whole DOCX; save it anew from Word")
    if named == "docx" and found == "zip":
        raise SetAside("corrupt", "the archive holds no word/document.xml, so it is no Word document")
    if named != found:
        raise SetAside("unsupported", f"named {path.suffix}, but its content is {CONTENTS[found]}")
    if found == "docx":
        check_zip(path)
    return found


def sniff(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return "ole"
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    return "binary" if _is_binary(head) else "text"


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return "docx" if "word/document.xml" in archive.namelist() else "zip"
    except (zipfile.BadZipFile, OSError, ValueError):
        return "broken zip"


def _is_binary(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return False
    control = sum(byte < 9 or 13 < byte < 32 for byte in head)
    return control > 0.01 * len(head)


def check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        packed = sum(entry.compress_size for entry in archive.infolist())
        if unpacked > MAX_ZIP_BYTES or unpacked > MAX_ZIP_RATIO * max(packed, 1):
            raise SetAside("zip_bomb", f"unpacks to {unpacked >> 20} MB, {unpacked // max(packed, 1)} times its size; not opened")
        for name in archive.namelist():
            if name.startswith("word/") and name.endswith(".xml"):
                _check_markup(archive, name)


def _check_markup(archive: zipfile.ZipFile, name: str) -> None:
    """Word never writes a document type; one that is there can expand without end or fetch other files."""
    try:
        content = archive.read(name)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise SetAside("corrupt", f"the archive is damaged at {name} ({error})") from error
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise SetAside("unsafe_xml", f"{name} declares a document type (DTD); Word files have none, so it is not opened")
