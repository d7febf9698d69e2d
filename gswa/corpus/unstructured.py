"""Documents by Unstructured, for those who installed it: any format on request, and by itself what our own readers do not read.

Its language model is spaCy's en_core_web_sm, which it would fetch from GitHub at the first sentence. Where that is not
installed it gets spaCy's rules for ends of sentences instead: it then tells kinds of blocks by their markup alone.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gswa.corpus.guards import SetAside
from gswa.corpus.lines import ends_sentence
from gswa.corpus.zones import Draft, Hint

HINTS: dict[str, Hint] = {
    "Title": "heading",
    "FigureCaption": "caption",
    "Header": "note",
    "Footer": "note",
    "PageNumber": "note",
    "Table": "other",
    "Image": "other",
    "Formula": "other",
    "CodeSnippet": "other",
    "Address": "other",
    "EmailAddress": "other",
}
OPTIONS: dict[str, dict[str, Any]] = {"pdf": {"strategy": "fast"}}  # its other strategies fetch models from the hub
MAX_HEADING_WORDS = 14
PDF_NEEDS = (
    "Unstructured reads PDF with its package unstructured-inference, which brings a torch of its own: "
    'pip install "unstructured[pdf]" where that may be, or leave out --parser unstructured'
)


def is_installed() -> bool:
    return find_spec("unstructured") is not None


def get_ready() -> None:
    """Load it, telling nobody: in a child, before its time for the first document starts to run."""
    os.environ.update(UNSTRUCTURED_DISABLE_NOTICE="1", SCARF_NO_ANALYTICS="true", DO_NOT_TRACK="true")
    import spacy
    from unstructured.nlp import tokenize

    if not spacy.util.is_package("en_core_web_sm"):
        tokenize._load_spacy_model = _rules


def _rules() -> Any:
    import spacy

    rules = spacy.blank("en")
    rules.add_pipe("sentencizer")
    return rules


def read_with_unstructured(path: Path, kind: str) -> list[Draft]:
    """`kind` is a module of unstructured.partition. Raises SetAside where it finds nothing, and where it lacks something."""
    if kind == "pdf" and find_spec("unstructured_inference") is None:
        raise SetAside("unsupported", PDF_NEEDS)
    get_ready()
    try:
        partition = getattr(import_module(f"unstructured.partition.{kind}"), f"partition_{kind}")
        elements = partition(filename=str(path), languages=[""], **OPTIONS.get(kind, {}))  # "": do not guess
    except MemoryError:
        raise
    except (ImportError, OSError) as error:  # pypandoc raises OSError where pandoc is missing
        raise SetAside("unsupported", f"Unstructured lacks what it needs for it ({_first_line(error)})") from error
    except Exception as error:  # each format brings a library with errors of its own
        raise SetAside("corrupt", f"Unstructured cannot read it ({type(error).__name__}: {_first_line(error)}); make it anew") from error
    drafts = [_draft(element) for element in elements if element.text.strip()]
    if not drafts:
        raise SetAside("empty", "Unstructured finds no text in it")
    return drafts


def _draft(element: Any) -> Draft:
    hint = HINTS.get(element.category, "")
    text = element.text
    if hint == "heading" and (ends_sentence(text) or len(text.split()) > MAX_HEADING_WORDS):
        hint = ""
    return Draft(text, hint, getattr(element.metadata, "page_number", None))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
