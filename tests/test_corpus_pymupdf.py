from importlib import util
from pathlib import Path

import pytest
from extras import extra
from papers import PROSE, Text, column, write_pdf

from gswa.corpus.index import check_parser
from gswa.corpus.read import read_file
from gswa.errors import ConfigError

installed = util.find_spec("pymupdf") is not None


@pytest.mark.skipif(installed, reason="PyMuPDF is installed here")
def test_without_pymupdf_the_error_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r'pip install "gswa\[pymupdf\]"'):
        check_parser("pymupdf")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its SWIG types
def test_both_readers_find_the_same_blocks(tmp_path: Path) -> None:
    extra("pymupdf")
    page = [Text(60, 790, "Growth of bacteria in soil", 18), Text(60, 760, "Strains and media", 10, bold=True), *column(PROSE, y=740)]
    path = write_pdf(tmp_path / "a.pdf", [page])
    ours, theirs = (read_file(path, "a.pdf", "0" * 64, parser) for parser in ("auto", "pymupdf"))
    assert theirs == ours


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its SWIG types
def test_it_names_a_password_too(tmp_path: Path) -> None:
    extra("pymupdf")
    path = write_pdf(tmp_path / "a.pdf", [column(PROSE)], password="secret")
    assert read_file(path, "a.pdf", "0" * 64, "pymupdf").status == "encrypted"
