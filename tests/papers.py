"""Small papers made for tests: PDFs set in the standard fonts, DOCX by python-docx."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import docx
import pikepdf

PROSE = (
    "Bacteria of the genus Streptomyces live in soil, where they form branched hyphae and make most of the antibiotics in use.",
    "We measured growth in three media over four days, and found that yield depended on phosphate more than on any other nutrient.",
    "The strain was grown on agar for a week before spores were collected, washed twice with water and kept in glycerol.",
)


class Text(NamedTuple):
    """One line, its baseline's start in points from the lower left corner of an A4 page."""

    x: float
    y: float
    text: str
    size: float = 10
    bold: bool = False
    face: str = ""  # T: Times, C: Courier, X: large operators, which hang below their baseline as TeX's do


def column(paragraphs: Iterable[str], x: float = 60, y: float = 760, characters: int = 60, size: float = 10) -> list[Text]:
    """Ragged lines of at most so many characters, 1.2 em apart; first lines indented by 1.5 em."""
    lines: list[Text] = []
    for paragraph in paragraphs:
        rest, indent = paragraph.split(), 1.5 * size
        while rest:
            line = rest.pop(0)
            while rest and len(line) + 1 + len(rest[0]) <= characters - (3 if indent else 0):
                line += " " + rest.pop(0)
            lines.append(Text(x + indent, y - 1.2 * size * len(lines), line, size))
            indent = 0
    return lines


def write_pdf(path: Path, pages: Sequence[Sequence[Text]], password: str = "") -> Path:
    document = pikepdf.new()
    for lines in pages:
        page = document.add_blank_page(page_size=(595, 842))
        faces = {"R": "Helvetica", "B": "Helvetica-Bold", "T": "Times-Roman", "C": "Courier"}
        fonts = {f"/{face}": _font(name) for face, name in faces.items()} | {"/X": _operators(document)}
        page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(fonts))
        page.Contents = document.make_stream(b"\n".join(_show(line) for line in lines))
    document.save(path, encryption=pikepdf.Encryption(user=password, owner=password) if password else False)
    return path


def _font(name: str) -> pikepdf.Dictionary:
    encoding = pikepdf.Dictionary(BaseEncoding=pikepdf.Name.WinAnsiEncoding, Differences=[0x7F, pikepdf.Name.dotlessi])
    names = {"Type": pikepdf.Name.Font, "Subtype": pikepdf.Name.Type1, "Encoding": encoding}
    return pikepdf.Dictionary(**names, BaseFont=pikepdf.Name("/" + name))


def _operators(document: pikepdf.Pdf) -> pikepdf.Dictionary:
    """A font with nothing but a box as high as the line and wholly below the baseline, named and coded as TeX's sum is."""
    return pikepdf.Dictionary(
        Type=pikepdf.Name.Font,
        Subtype=pikepdf.Name.Type3,
        BaseFont=pikepdf.Name.CMEX10,
        FontBBox=[0, -1000, 1000, 0],
        FontMatrix=[0.001, 0, 0, 0.001, 0, 0],
        CharProcs=pikepdf.Dictionary(sum=document.make_stream(b"1000 0 0 -1000 1000 0 d1 0 -1000 1000 1000 re f")),
        Encoding=pikepdf.Dictionary(Type=pikepdf.Name.Encoding, Differences=[ord("P"), pikepdf.Name.sum]),
        FirstChar=ord("P"),
        LastChar=ord("P"),
        Widths=[1000],
    )


def _show(line: Text) -> bytes:
    text = line.text.replace("ı", "\x7f").encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
    return b"BT /%s %g Tf 1 0 0 1 %g %g Tm (%s) Tj ET" % ((line.face or "RB"[line.bold]).encode(), line.size, line.x, line.y, text)


def write_docx(path: Path, paragraphs: Iterable[tuple[str, str]]) -> Path:
    """Of (style, text)."""
    document = docx.Document()
    for style, text in paragraphs:
        document.add_paragraph(text, style=style)
    document.save(str(path))
    return path
