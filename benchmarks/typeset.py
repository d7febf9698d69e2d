"""One paper in many layouts, with its exact text beside each: what `parse_quality.py` scores, and tests hold the readers to.

    pip install typst                                   (for developers; the program does not need it)
    python benchmarks/typeset.py FOLDER [--truth FILE.truth.json] [--paragraphs N]
    python benchmarks/parse_quality.py FOLDER

Figures, tables, formulas, footnotes, authors and references are invented; the paragraphs and headings are the paper's.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRUTH = Path(__file__).parents[1] / "tests" / "data" / "corpus" / "pone.0046041.truth.json"
LAYOUTS: dict[str, dict[str, Any]] = {
    "springer": {"numbered": True, "float": "none", "margin": "(x: 4cm, y: 3cm)", "references": "dot"},
    "ieee": {"columns": 2, "size": 9.5, "numbered": True, "heading": "caps", "formulas": True, "footnotes": True},
    "elife": {"size": 9, "font": "New Computer Modern", "indent": "0pt", "spacing": "1em", "margin": "(left: 6.5cm, right: 2cm, y: 2.5cm)"},
    "wiley": {"columns": 2, "size": 9, "heading": "large", "float": "none", "references": "plain"},
    "manuscript": {"size": 11, "lines": True, "leading": "1.2em", "spacing": "1.2em", "justify": False, "references": "plain"},
    "manuscript-blocks": {"size": 11, "lines": True, "leading": "1.2em", "spacing": "2em", "indent": "0pt", "justify": False},
    "nature": {"columns": 2, "size": 8.5, "references": "dot", "small": 7},
    "ragged": {"columns": 2, "size": 9, "justify": False, "indent": "0pt", "spacing": "1.1em", "footnotes": True},
    "acm": {"columns": 2, "size": 9, "numbered": True, "indent": "1em", "footnotes": True, "formulas": True, "gutter": "0.8cm"},
    "one-size": {"columns": 2, "size": 10, "small": 10},
    "three-columns": {"columns": 3, "size": 7.5, "margin": "(x: 1.5cm, y: 2cm)", "gutter": "0.5cm"},
    "letter": {"size": 11, "indent": "2em", "heading": "caps", "float": "none", "footnotes": True, "references": "plain"},
}
HEADINGS = {
    "bold": "#show heading: set text(size: 1em)",
    "caps": '#show heading: it => block(above: 1em)[#set text(size: 10pt, weight: "regular"); #align(center)[#upper(it.body)]]',
    "large": '#show heading: set text(size: 15pt, fill: rgb("#204080"))',
}
FORMULA = "$ frac(d N, d t) = r N (1 - N / K) + sum_(i=1)^n alpha_i x_i $"
CAPTION = "Growth of three strains over four days in each of the media. Bars show the standard deviation of five cultures (n = 5)."
TABLE = ["Strain", "Day 1", "Day 4", "A3(2)", "0.21", "1.94", "M145", "0.19", "1.77", "J1501", "0.20", "1.02"]


def typst_source(blocks: list[dict[str, str]], layout: dict[str, Any]) -> str:
    return "\n".join([*_settings(layout), *_front(blocks, layout), *_body(blocks, layout), *_references(layout)])


def _settings(layout: dict[str, Any]) -> Iterator[str]:
    get = layout.get
    yield f'#set text(font: ("{get("font", "Libertinus Serif")}",), size: {get("size", 10)}pt, lang: "en", hyphenate: true)'
    yield (
        f"#set par(justify: {str(get('justify', True)).lower()}, leading: {get('leading', '0.6em')}, "
        f"first-line-indent: {get('indent', '1.2em')}, spacing: {get('spacing', '0.6em')})"
    )
    yield (
        f'#set page(paper: "a4", margin: {get("margin", "(x: 2cm, y: 2.5cm)")}, columns: {get("columns", 1)}, header: context '
        "[#text(size: 8pt)[Journal of Examples, Vol. 12, No. 3 #h(1fr) #counter(page).display()]], "
        "footer: [#text(size: 7pt)[Copyright 2024 The Authors. Distributed under CC BY.]])"
    )
    yield f"#set columns(gutter: {get('gutter', '0.6cm')})"
    yield '#set heading(numbering: "1.1.")' if get("numbered") else "#set heading(numbering: none)"
    yield HEADINGS[get("heading", "bold")]
    yield f"#show figure.caption: set text(size: {get('small', 8)}pt)\n#show figure.caption: set align(left)"
    if get("lines"):
        yield '#set par.line(numbering: "1")'


def _front(blocks: list[dict[str, str]], layout: dict[str, Any]) -> Iterator[str]:
    title = next(block["text"] for block in blocks if block["kind"] == "title")
    front = (
        f'#set par(justify: false, first-line-indent: 0pt)\n#text(size: 16pt, weight: "bold")[{_escaped(title)}]\n\n'
        "Jane Roe, John van Doe, Ann Poe\n\n#text(size: 8pt)[Department of Soil, University of Somewhere, Town, Country "
        "#linebreak() Institute of Growth, Elsewhere, Country]\n\n#text(size: 8pt)[Received 3 March 2024; accepted 9 June 2024.]\n#v(0.8em)"
    )
    yield f'#place(top, scope: "parent", float: true)[{front}]' if layout.get("columns", 1) > 1 else f"#[{front}]"


def _body(blocks: list[dict[str, str]], layout: dict[str, Any]) -> Iterator[str]:
    number = 0
    for block in blocks:
        text = _escaped(block["text"])
        if block["kind"] == "h":
            yield f"#heading[{text}]\n"
        if block["kind"] != "p":
            continue
        number += 1
        if layout.get("footnotes") and number % 6 == 2:
            text += " #footnote[See the supplementary material, which is available from the publisher.]"
        yield text + (f"\n\n{FORMULA}" if layout.get("formulas") and number % 5 == 2 else "") + "\n"
        if number % 4 == 3:
            yield from _float(layout, number)


def _float(layout: dict[str, Any], number: int) -> Iterator[str]:
    place, small = layout.get("float", "auto"), layout.get("small", 8)
    if number % 8 == 3:
        drawing = "#rect(width: 100%, height: 3cm, fill: luma(235))[#text(size: 7pt)[Time (h) #h(1fr) Control]]"
        yield f"#figure(placement: {place}, [{drawing}], caption: [{CAPTION}])\n"
    else:
        cells = ", ".join(f"[{_escaped(cell)}]" for cell in TABLE)
        yield f"#[#set text(size: {small}pt)\n#figure(placement: {place}, kind: table, caption: [{CAPTION}], table(columns: 3, {cells}))]\n"


def _references(layout: dict[str, Any]) -> Iterator[str]:
    yield f"#heading(numbering: none)[References]\n#set text(size: {layout.get('small', 8)}pt)"
    yield "#set par(first-line-indent: 0pt, hanging-indent: 1.5em)"
    for n in range(1, 25):
        mark = {"dot": f"{n}. ", "plain": ""}.get(layout.get("references", ""), f"[{n}] ")
        yield (
            _escaped(f"{mark}Roe J, Doe J, Poe A ({1990 + n}) On the growth of bacteria in soil. Journal of Examples {n}: 12-{30 + n}.")
            + "\n"
        )


def _escaped(text: str) -> str:
    return re.sub(r'([\\#*_`$<>@\[\]~=+\-/"\'{}])', r"\\\1", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--truth", type=Path, default=TRUTH)
    parser.add_argument("--paragraphs", type=int)
    parser.add_argument("--layouts", nargs="*", default=list(LAYOUTS), choices=list(LAYOUTS))
    asked = parser.parse_args()
    import typst

    truth = json.loads(asked.truth.read_text(encoding="utf-8"))
    ends = [at for at, block in enumerate(truth["blocks"]) if block["kind"] == "p"][: asked.paragraphs]
    truth["blocks"] = [block for block in truth["blocks"][: ends[-1] + 1] if block["kind"] in ("title", "h", "p")]
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.layouts:
        source = asked.folder / f"{name}.typ"
        source.write_text(typst_source(truth["blocks"], LAYOUTS[name]), encoding="utf-8")
        (asked.folder / f"{name}.pdf").write_bytes(typst.compile(str(source)))
        (asked.folder / f"{name}.truth.json").write_text(json.dumps(truth, ensure_ascii=False) + "\n", encoding="utf-8")
        source.unlink()
        print(asked.folder / f"{name}.pdf")


if __name__ == "__main__":
    main()
