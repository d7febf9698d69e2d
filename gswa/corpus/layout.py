"""Lines of all pages → drafts: paragraphs with what their place and type tell of them, joined over columns and pages."""

from gswa.corpus.columns import reading_order
from gswa.corpus.furniture import without_furniture, without_line_numbers
from gswa.corpus.hyphens import join_lines, vocabulary
from gswa.corpus.lines import Line, merge_rows
from gswa.corpus.paragraphs import Setting, group, leadings
from gswa.corpus.roles import body_of, with_roles
from gswa.corpus.stitch import stitch
from gswa.corpus.zones import Draft


def lay_out(pages: list[list[Line]]) -> list[Draft]:
    """Pure: every page's lines in stream order → the document's blocks in reading order."""
    pages = without_line_numbers(without_furniture([merge_rows(lines, gap=0.5) for lines in pages]))
    pages = [merge_rows(reading_order(lines)) for lines in pages]
    everything = [line for lines in pages for line in lines]
    if not everything:
        return []
    body, words = body_of(everything), vocabulary(line.text for line in everything)
    setting = Setting(body.size, leadings(everything))
    pieces = with_roles([lines for page in pages for lines in group(page, setting)], body)
    return [Draft(join_lines((line.text for line in p.lines), words), p.hint, p.page) for p in stitch(pieces)]
