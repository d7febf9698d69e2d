"""Before a file is opened: what it is by its content, and whether it may be opened at all."""

import io
import zipfile
from pathlib import Path

from gswa.records import Status

FORMATS = {".pdf": "pdf", ".docx": "docx", ".txt": "text", ".md": "text"}
# What Unstructured reads, where it is installed.
MORE_FORMATS = {
    ".html": "html", ".htm": "html", ".xhtml": "html", ".epub": "epub", ".odt": "odt", ".rtf": "rtf", ".pptx": "pptx", ".eml": "email",
    ".msg": "msg",
}  # fmt: skip
MAX_FILE_BYTES = 200 << 20
MAX_ZIP_BYTES = 200 << 20
MAX_ZIP_RATIO = 200
CONTENTS = {
    "pdf": "a PDF; name it .pdf",
    "docx": "a Word document; name it .docx",
    "text": "plain text; name it .txt if it is a paper",
    "html": "a web page (a download that asked for a login?); get the paper anew",
    "ole": "an old Word file; save it as .docx",
    "rtf": "an RTF file; name it .rtf, or save it as .docx",
    "epub": "an electronic book; name it .epub",
    "odt": "an OpenDocument text; name it .odt, or save it as .docx",
    "pptx": "a presentation; name it .pptx",
    "zip": "a ZIP archive; unpack it",
    "broken zip": "a damaged ZIP archive; get the file anew",
    "binary": "no text and no format that is read; get the file anew",
}


MIME_TYPES = {b"application/epub+zip": "epub", b"application/vnd.oasis.opendocument.text": "odt"}
ZIPPED = ("docx", "pptx", "epub", "odt")
# A web page may begin with a comment, a letter with any header; Outlook's letters are kept as Word's old files are.
LOOKS_LIKE = {("html", "text"), ("email", "text"), ("msg", "ole")}


class SetAside(Exception):
    """A file that is not read, with the status and the reason that its record will show."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(status, reason)
        self.status: Status = status
        self.reason = reason


def check(path: Path) -> str:
    """The format to read `path` as: a value of the tables above. Raises SetAside where it must not be opened."""
    size = path.stat().st_size
    if size == 0:
        raise SetAside("empty", "the file has no content")
    if size > MAX_FILE_BYTES:
        raise SetAside("too_big", f"{size >> 20} MB; files up to {MAX_FILE_BYTES >> 20} MB are read")
    named, found = (FORMATS | MORE_FORMATS)[path.suffix.lower()], sniff(path)
    if named in ZIPPED and found == "broken zip":
        raise SetAside("corrupt", f"the file is damaged: it is not a whole {path.suffix[1:].upper()}; save it anew")
    if named == "docx" and found == "zip":
        raise SetAside("corrupt", "the archive holds no word/document.xml, so it is no Word document")
    if named != found and (named, found) not in LOOKS_LIKE:
        raise SetAside("unsupported", f"named {path.suffix}, but its content is {CONTENTS[found]}")
    if named in ZIPPED:
        check_zip(path, "word/" if named == "docx" else "")
    return named


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
            names = archive.namelist()
            if "word/document.xml" in names:
                return "docx"
            if "ppt/presentation.xml" in names:
                return "pptx"
            with archive.open("mimetype") if "mimetype" in names else io.BytesIO() as mime:
                return MIME_TYPES.get(mime.read(100).strip(), "zip")
    except (zipfile.BadZipFile, OSError, ValueError):
        return "broken zip"


def _is_binary(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return False
    control = sum(byte < 9 or 13 < byte < 32 for byte in head)
    return control > 0.01 * len(head)


def check_zip(path: Path, below: str) -> None:
    """Raises SetAside for what unpacks to too much, and for unsafe markup in the archive's folder `below`."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        packed = sum(entry.compress_size for entry in archive.infolist())
        if unpacked > MAX_ZIP_BYTES or unpacked > MAX_ZIP_RATIO * max(packed, 1):
            raise SetAside("zip_bomb", f"unpacks to {unpacked >> 20} MB, {unpacked // max(packed, 1)} times its size; not opened")
        for name in archive.namelist():
            if name.startswith(below) and name.endswith((".xml", ".xhtml", ".opf", ".ncx")):
                _check_markup(archive, name, (b"<!DOCTYPE", b"<!ENTITY") if below else (b"<!ENTITY",))


def _check_markup(archive: zipfile.ZipFile, name: str, unsafe: tuple[bytes, ...]) -> None:
    """Word never writes a document type, and no book declares entities: those can expand without end or fetch other files."""
    try:
        content = archive.read(name)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise SetAside("corrupt", f"the archive is damaged at {name} ({error})") from error
    if any(mark in content for mark in unsafe):
        raise SetAside("unsafe_xml", f"{name} declares a document type (DTD) or entities; such files need none, so it is not opened")
