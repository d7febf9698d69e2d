"""Text to tokens: where each stands, fast, and with what looks like a special token in a paper left as text.

text         see <|im_end|> there
tokens       see| <|im_end|> |there           what a tokenizer sees: a turn that ends in mid-sentence
marked       see <·|im_end|> there            the same with a mark in it, which is taken out of the tokens again
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

Tokenizer: TypeAlias = Any  # transformers' PreTrainedTokenizerFast; its import costs a second, so that nothing here pays it
Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

MARK = "\ufdd0"  # a character that Unicode keeps free of meaning: no template and no paper says it


class Line:
    """A text and its tokens, whose `starts` and `ends` are places in it; `marks` are places inside of literals to be broken up.

    Places are bytes of UTF-8 where the tokens' own bytes tell them, which is fast, else characters.
    """

    def __init__(self, text: str, marks: Sequence[int] = ()) -> None:
        self.text, self.marks = text, marks
        self.ids: list[int] = []
        self.starts: Ints
        self.ends: Ints
        self.in_bytes = True

    @property
    def marked(self) -> str:
        if not self.marks:
            return self.text
        return MARK.join(self.text[start:end] for start, end in pairwise([0, *self.marks, len(self.text)]))

    def place(self, position: int) -> int:
        """Of a character position, in the unit of `starts` and `ends`."""
        return len(self.text[:position].encode()) if self.in_bytes else position

    def within(self, first: int, last: int) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """For each token whether it starts between two character positions: an end of turn may own the line end after it."""
        return (self.starts >= self.place(first)) & (self.starts < self.place(last)) & (self.ends > self.starts)

    def take(self, ids: list[int], starts: Ints, ends: Ints, mark: int | None, in_bytes: bool) -> None:
        self.ids, self.starts, self.ends, self.in_bytes = ids, starts, ends, in_bytes
        if mark is not None:
            kept = np.array(ids) != mark
            gone = np.cumsum(~kept)[kept] * (len(MARK.encode()) if in_bytes else len(MARK))
            self.ids, self.starts, self.ends = np.array(ids)[kept].tolist(), starts[kept] - gone, ends[kept] - gone


def encode(tokenizer: Tokenizer, lines: Sequence[Line]) -> None:
    """Give lines their tokens, on all cores: special ones only where the text is not marked."""
    for with_marks in (False, True):
        some = [line for line in lines if bool(line.marks) == with_marks]
        if some:
            _encode(_reader(tokenizer, with_marks), some)


def special_marks(tokenizer: Tokenizer, text: str, start: int = 0, end: int | None = None) -> list[int]:
    """Positions inside of each special token that the text spells between two positions."""
    return _special(tokenizer).marks(text, start, len(text) if end is None else end)


# -- special tokens ----------------------------------------------------------------------------------------------------------
class _Special:
    """The tokens that a tokenizer recognises wherever a text spells them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        literals = sorted((token for token in tokenizer.get_added_vocab() if len(token) > 1), key=len, reverse=True)
        self.beginnings = {literal[:2] for literal in literals}
        self.pattern = re.compile("|".join(map(re.escape, literals)) or r"(?!)")

    def marks(self, text: str, start: int, end: int) -> list[int]:
        if not any(beginning in text for beginning in self.beginnings):
            return []
        return [match.start() + 1 for match in self.pattern.finditer(text, start, end)]


@lru_cache(maxsize=8)
def _special(tokenizer: Tokenizer) -> _Special:
    return _Special(tokenizer)


# -- encoding ----------------------------------------------------------------------------------------------------------------
class _Reader:
    """A tokenizer, the bytes of text that each of its tokens stands for, and its MARK where it has one."""

    def __init__(self, backend: Any, sizes: Ints, mark: int | None) -> None:
        self.backend, self.sizes, self.mark = backend, sizes, mark
        self.sizes_tell = _keeps_every_byte(backend)  # False, too, once they did not add up to the texts' own


@lru_cache(maxsize=8)
def _reader(tokenizer: Tokenizer, marking: bool) -> _Reader:
    """With MARK as one token more. A text cut in two instead would not do: after a cut some begin a text anew, with a space."""
    backend = tokenizer.backend_tokenizer
    if marking:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_str(backend.to_str())
        backend.add_tokens([AddedToken(MARK, normalized=False, special=False)])
    return _Reader(backend, _sizes(backend), backend.token_to_id(MARK) if marking else None)


def _keeps_every_byte(backend: Any) -> bool:
    """Whether no token swallows the space beside it, and none is put before each stretch of text: the one would hide the other."""
    if any(token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values()):
        return False
    described = f"{backend.normalizer!r} {backend.pre_tokenizer!r}"
    return "Prepend" not in described and "prepend_scheme=always" not in described


def _sizes(backend: Any) -> Ints:
    vocabulary: dict[str, int] = backend.get_vocab()
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    size = _byte_level if "Ġ" in vocabulary else _sentence_piece
    sizes = np.zeros(max(vocabulary.values(), default=0) + 1, dtype=np.int64)
    for token, number in vocabulary.items():
        sizes[number] = len(token.encode()) if token in added else size(token)
    return sizes


def _byte_level(token: str) -> int:
    return len(token)  # a letter for each byte


def _sentence_piece(token: str) -> int:
    return 1 if len(token) == 6 and token.startswith("<0x") else len(token.replace("▁", " ").encode())


def _encode(reader: _Reader, lines: list[Line]) -> None:
    unknown = _by_sizes(reader, lines) if reader.sizes_tell else lines
    if unknown:
        reader.sizes_tell = len(unknown) < len(lines)
        for line, encoding in zip(
            unknown, reader.backend.encode_batch([line.marked for line in unknown], add_special_tokens=False), strict=True
        ):
            places = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            line.take(encoding.ids, places[:, 0], places[:, 1], reader.mark, in_bytes=False)


def _by_sizes(reader: _Reader, lines: list[Line]) -> list[Line]:
    """Take the tokens without asking where they stand, which is a fifth faster; the lines where that did not tell."""
    unknown = []
    texts = [line.marked for line in lines]
    for line, text, encoding in zip(lines, texts, reader.backend.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        ids = encoding.ids
        sizes = reader.sizes[ids]
        ends = np.cumsum(sizes)
        added = int(ends[-1]) - len(text.encode()) if ids else 0
        if added == 1 and reader.backend.id_to_token(ids[0])[0] == "▁" and text[0] != " ":  # which SentencePiece puts before a text
            ends, added = ends - 1, 0
        if added:
            unknown.append(line)
        else:
            line.take(ids, np.maximum(ends - sizes, 0), ends, reader.mark, in_bytes=True)
    return unknown
