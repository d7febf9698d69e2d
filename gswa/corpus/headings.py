"""What a paper calls its parts: the names that tell body text from what is kept but not trained on."""

import re

from gswa.records import BlockKind

NUMBER = r"(?:(?:\d+(?:\.\d+)*|[IVX]{1,5}|[A-Z])[.)]?\s+)?"
ZONES: dict[BlockKind, str] = {
    "reference": r"references(?: cited)?|bibliography|(?:literature|works) cited|literature|reference list"
    r"|references and notes|notes and references|参考文献",
    "acknowledgement": r"acknowledge?ments?|funding(?: (?:information|sources?|statement))?|financial (?:support|disclosure)s?"
    r"|authors?['’]? contributions?(?: statement)?|contributors|credit author(?:ship)? (?:contribution )?statement"
    r"|(?:declaration of )?(?:conflicts? of interests?|competing (?:financial )?interests?)(?: statement)?|disclosures?|致谢",
    "note": r"(?:supporting|supplementary|additional) (?:information|materials?|data|files?|tables?|figures?)"
    r"|(?:data|code) availability(?: statement)?"
    r"|availability of data(?: and materials?)?|abbreviations(?: used)?|key ?words(?: and phrases)?|about the authors?"
    r"|author (?:details|information|affiliations)"
    r"|affiliations|correspondence|publisher['’]?s note|footnotes|endnotes|table of contents|contents|list of (?:figures|tables)"
    r"|index|open access|rights and permissions",
}
BODY = (
    r"abstract|(?:author |executive |plain language )?summary|introduction|background|(?:related|previous|prior) works?"
    r"|materials? and methods?|methods?(?: and materials?)?|methodology|experimental(?: (?:section|procedures|setup))?"
    r"|results?(?: and discussions?)?"
    r"|discussions?(?: and conclusions?)?|conclusions?(?: and (?:future work|outlook|perspectives))?|concluding remarks|limitations"
    r"|future work|outlook|appendix(?: [A-Z\d])?|appendices|ethics statement|statistical analysis|data analysis|摘要|引言|结论"
)
ABSTRACT = re.compile(r"(?:\W|\d)*(?:abstract|summary)\W*", re.IGNORECASE)
ZONE_PATTERNS = {kind: re.compile(NUMBER + f"(?:{names})" + r"\s*[.:]?", re.IGNORECASE) for kind, names in ZONES.items()}
BODY_PATTERN = re.compile(NUMBER + f"(?:{BODY})" + r"\s*[.:]?", re.IGNORECASE)
NUMBERED = re.compile(r"(?:\d{1,2}(?:\.\d{1,2}){0,3}\.?|[A-Z]\.\d{1,2}(?:\.\d{1,2})*\.?|[IVX]{1,4}\.)\s+[A-Z\u4e00-\u9fff]")
CAPTION = re.compile(
    r"(?:extended data |supplementa(?:ry|l) |supporting )?"
    r"(?:fig(?:ure)?s?|table|scheme|chart|plate|algorithm|listing|box|video|movie|text|dataset|file"
    r"|abb(?:ildung)?|tab(?:elle)?|bild|schema|algorithmus|tableau|figura|tabla|tabela|tabella|cuadro|gráfico|grafico|figuur|tabel)\.?\s*"
    r"[A-Z]?\d{1,3}[A-Za-z]?(?:\.\d+[a-z]?)?\s*(?:[.:|](?!\d)|[—–](?!\w)|\((?:continued|cont\.)|$)",
    re.IGNORECASE,
)
BARE_CAPTION = re.compile(r"(?i:fig(?:ure)?|table)\.?\s*[A-Z]?\d{1,3}\s+[A-Z(]")
RUN_IN_ABSTRACT = re.compile(r"(abstract|summary)\s*(?:[.:—–-]+\s*|(?<=ABSTRACT)\s+)(?=[A-Z])", re.IGNORECASE)
RUN_IN_NOTE = re.compile(
    r"(?:key ?words?|index terms|citation|editor|academic editor|received|copyright|©|\(c\) ?\d{4}|corresponding author"
    r"|\*? ?correspondence|e-?mail|doi"
    r"|abbreviations|data availability(?: statement)?|published|this is an open[- ]access|permission to (?:make|copy)|this work is licensed)\b\s*[:.—–©]?|https?://",
    re.IGNORECASE,
)
RUN_IN_THANKS = re.compile(
    r"(?:acknowledge?ments?|funding|competing interests?|conflicts? of interests?|financial disclosure|author contributions)\s*[:.—–]",
    re.IGNORECASE,
)


def zone_of(heading: str) -> BlockKind | None:
    """The kind of everything under this heading, None where it is body text."""
    return next((kind for kind, pattern in ZONE_PATTERNS.items() if pattern.fullmatch(heading.strip())), None)


def is_abstract(heading: str) -> bool:
    return ABSTRACT.fullmatch(heading) is not None


def is_known_heading(text: str) -> bool:
    """The name of a part, and not the last word of a sentence: it begins with a capital."""
    text = text.strip()
    first = next((c for c in text if c.isalpha()), "")
    return len(text) < 80 and not first.islower() and (BODY_PATTERN.fullmatch(text) is not None or zone_of(text) is not None)


def is_numbered_heading(text: str) -> bool:
    return len(text) < 120 and len(text.split()) <= 14 and NUMBERED.match(text) is not None


def is_caption(text: str) -> bool:
    """Begins as a caption does; prose that begins "Fig. 2 shows" does not."""
    return CAPTION.match(text) is not None
