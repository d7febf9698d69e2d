"""Files → `Document`: one reader per format, run in children with limits on time and memory, cached by content."""

from gswa.corpus.index import Corpus, parse_corpus, read_documents

__all__ = ["Corpus", "parse_corpus", "read_documents"]
