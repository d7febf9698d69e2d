"""Text to tokens: where each stands, fast, and with what looks like a special token in a paper left as text.

text         see <|im_end|> there
tokens       see| <|im_end|> |there           what a tokenizer sees: a turn that ends in mid-sentence
marked       see <·|im_end|> there            the same with a mark in it, which is taken out of the tokens again
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Tokenizer: TypeAlias = Any  # transformers' PreTrainedTokenizerFast; its import costs a second, so that nothing here pays it
Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

MARK = "\ufdd0"  # a character that Unicode keeps free of meaning: hardly a text says it


class Places(NamedTuple):
    """Where each token starts and ends in a text: in bytes of UTF-8 where the tokens' own bytes told it, else in characters."""

    starts: Ints
    ends: Ints
    in_bytes: bool


class Line:
    """A text and the ids of its tokens; `marks` are positions inside of literals that are to be broken up."""

    ids: list[int]
    _encoded_ids: list[int]  # the marks' among them
    _reader: "_Reader"
    _encoding: Any = None  # with offsets, where the tokens' bytes do not tell them

    def __init__(self, text: str, marks: Sequence[int] = ()) -> None:
        self.text, self.marks = text, marks

    @cached_property
    def mark(self) -> str | None:
        return free_mark(self.text) if self.marks else None

    @property
    def marked(self) -> str:
        if self.mark is None:
            return self.text
        return self.mark.join(self.text[start:end] for start, end in pairwise([0, *self.marks, len(self.text)]))

    @cached_property
    def places(self) -> Places:
        return self._reader.places(self)

    def place(self, position: int) -> int:
        """Of a character position, in the unit of `places`."""
        return len(self.text[:position].encode()) if self.places.in_bytes else position

    def within(self, first: int, last: int) -> Flags:
        """For each token whether it starts between two character positions: an end of turn may own the line end after it."""
        starts, ends, _ = self.places
        return (starts >= self.place(first)) & (starts < self.place(last)) & (ends > starts)

    def count(self, first: int, last: int) -> int:
        """How many tokens are `within`: from the two ends inwards, which a long middle does not slow down."""
        found = self._reader.count(self, first, last)
        return int(self.within(first, last).sum()) if found is None else found

    def take(self, reader: "_Reader", encoding: Any, has_offsets: bool) -> None:
        self._reader, self.ids, self._encoding = reader, encoding.ids, encoding if has_offsets else None
        if reader.mark:
            self._encoded_ids, self.ids = self.ids, [token for token in self.ids if token != reader.mark_id]


def encode(tokenizer: Tokenizer, lines: Sequence[Line]) -> None:
    """Give lines their tokens, on all cores: special ones only where the text is not marked."""
    for mark in {line.mark for line in lines}:
        some = [line for line in lines if line.mark == mark]
        reader = _reader(tokenizer, mark)
        for line, encoding in zip(some, reader.encode([line.marked for line in some]), strict=True):
            line.take(reader, encoding, has_offsets=not reader.sizes_tell)


def free_mark(text: str) -> str:
    """MARK, so often that the text does not hold it."""
    return MARK * (1 + max(map(len, re.findall(f"{MARK}+", text)), default=0))


def special_marks(tokenizer: Tokenizer, text: str, start: int = 0, end: int | None = None) -> list[int]:
    """Positions inside of each special token that the text spells between two positions."""
    return _special(tokenizer).marks(text, start, len(text) if end is None else end)


# -- special tokens ----------------------------------------------------------------------------------------------------------
class _Special:
    """The tokens that a tokenizer recognises wherever a text spells them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        literals = sorted((token for token in tokenizer.get_added_vocab() if len(token) > 1), key=len, reverse=True)
        self.beginnings: dict[str, set[str]] = {}  # by their first letter, which a text is searched for ten times as fast
        for literal in literals:
            self.beginnings.setdefault(literal[0], set()).add(literal[:2])
        self.pattern = re.compile("|".join(map(re.escape, literals)) or r"(?!)")

    def marks(self, text: str, start: int, end: int) -> list[int]:
        found = (beginning in text for first, some in self.beginnings.items() if first in text for beginning in some)
        if not any(found):
            return []
        return [match.start() + 1 for match in self.pattern.finditer(text, start, end)]


@lru_cache(maxsize=8)
def _special(tokenizer: Tokenizer) -> _Special:
    return _Special(tokenizer)


# -- encoding ----------------------------------------------------------------------------------------------------------------
class _Reader:
    """A tokenizer, the bytes of text that each of its tokens stands for, and its mark where it has one."""

    def __init__(self, backend: Any, sizes: Ints, mark: str | None) -> None:
        self.backend, self.sizes, self.mark = backend, sizes, mark
        self.mark_id = backend.token_to_id(mark) if mark else None
        self.size_of: list[int] = sizes.tolist()
        self.sizes_tell = _keeps_every_byte(backend)
        self.normalizes = backend.normalizer is not None  # an accent that stands apart becomes one letter, of fewer bytes

    def encode(self, texts: list[str]) -> list[Any]:
        """Without offsets where the tokens' sizes tell them, which is a fifth faster."""
        encode = self.backend.encode_batch_fast if self.sizes_tell else self.backend.encode_batch
        return list(encode(texts, add_special_tokens=False))

    def places(self, line: Line) -> Places:
        text = line.marked
        encoding = line._encoding
        ids = np.array(line._encoded_ids if self.mark else line.ids, dtype=np.int64)
        ends = np.cumsum(self.sizes[ids])
        in_bytes = encoding is None
        if encoding is None:
            ends -= self._begins_with_a_space_more(text, line.ids)
            in_bytes = not len(ids) or int(ends[-1]) == len(text.encode())
        if in_bytes:
            starts = np.maximum(ends - self.sizes[ids], 0)
        else:
            encoding = encoding or self.backend.encode(text, add_special_tokens=False)
            starts, ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
        if not self.mark:
            return Places(starts, ends, in_bytes)
        kept = ids != self.mark_id
        gone = np.cumsum(~kept)[kept] * len(self.mark.encode() if in_bytes else self.mark)
        return Places(starts[kept] - gone, ends[kept] - gone, in_bytes)

    def count(self, line: Line, first: int, last: int) -> int | None:
        """None where no token ends at either position, or sizes do not tell."""
        if line.marks or line._encoding is not None or self._begins_with_a_space_more(line.text, line.ids):
            return None
        if self.normalizes and sum(map(self.size_of.__getitem__, line.ids)) != len(line.text.encode()):
            return None
        before = self._tokens_of(line.ids, len(line.text[:first].encode()))
        after = self._tokens_of(reversed(line.ids), len(line.text[last:].encode()))
        return None if before is None or after is None else len(line.ids) - before - after

    def _begins_with_a_space_more(self, text: str, ids: list[int]) -> bool:
        """Whether the first token owns a space that the text has not: SentencePiece puts one before its first word."""
        return bool(ids) and text[0] != " " and self.backend.id_to_token(ids[0])[0] == "▁"

    def _tokens_of(self, ids: Iterable[int], size: int) -> int | None:
        """How many tokens make just so many bytes."""
        held = count = 0
        for token in ids:
            if held >= size:
                break
            held += self.size_of[token]
            count += 1
        return count if held == size else None


@lru_cache(maxsize=8)
def _reader(tokenizer: Tokenizer, mark: str | None) -> _Reader:
    """With the mark as one token more. A text cut in two instead would not do: after a cut some begin a text anew, with a space."""
    backend = tokenizer.backend_tokenizer
    if mark:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_str(backend.to_str())
        backend.add_tokens([AddedToken(mark, normalized=False, special=False)])
    return _Reader(backend, _sizes(backend), mark)


def _keeps_every_byte(backend: Any) -> bool:
    """Whether no token swallows the space beside it, and none is put before each stretch of text: the one would hide the other."""
    if any(token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values()):
        return False
    described = f"{backend.normalizer!r} {backend.pre_tokenizer!r}"
    return not any(sign in described for sign in ("Prepend", "prepend_scheme=always", "add_prefix_space=True"))


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
