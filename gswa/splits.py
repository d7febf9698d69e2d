"""train, valid or test: decided by hash for each group of equal documents, so that adding a paper moves no other."""

import hashlib
from collections.abc import Collection, Iterable
from typing import NamedTuple

from gswa.records import Document, Split

HELD_OUT_SHARE = 0.1  # of the documents, for valid and for test each
MIN_GROUPS = 3
LONG_TITLE = 4  # words; a shorter title ("Introduction", "Untitled document") does not make two documents one


class Identity(NamedTuple):
    """What makes documents equal: digests of their title (empty: none that counts) and of their text."""

    source: str
    title: str
    text: str


def identity(document: Document) -> Identity:
    """Compared without case, punctuation and spacing."""
    title = _words(document.title)
    text = _words(" ".join(block.text for block in document.blocks))
    return Identity(document.source, f"title:{_digest(title)}" if len(title.split()) >= LONG_TITLE else "", f"text:{_digest(text)}")


def group_documents(identities: Iterable[Identity]) -> dict[str, str]:
    """Source → group; documents of one title or of one text share a group, and so never stand in two splits."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    sources = {}
    for source, title, text in identities:
        keys = sorted({root(text), root(title or text)})
        # "title:" sorts after "text:", so titles name groups: a revised text under the same title leaves the name as it was.
        parent[keys[0]] = keys[-1]
        sources[source] = text
    return {source: root(text) for source, text in sources.items()}


def split_groups(groups: Collection[str], seed: int) -> dict[str, Split]:
    """Group → split, about a tenth each for valid and test, at least one in each; of fewer than three, all train."""
    if len(groups) < MIN_GROUPS:
        return dict.fromkeys(groups, "train")
    test = _held_out(groups, "test", seed)
    valid = _held_out([group for group in groups if group not in test], "valid", seed)
    return {group: "test" if group in test else "valid" if group in valid else "train" for group in groups}


def _held_out(groups: Collection[str], name: str, seed: int) -> set[str]:
    """Those whose hash lies under a threshold; of few, the smallest hash, and never more than a fifth."""
    shares = {group: share(f"{seed}:{name}:{group}") for group in groups}
    count = sum(value < HELD_OUT_SHARE for value in shares.values())
    return set(sorted(shares, key=lambda group: shares[group])[: max(1, min(count, len(groups) // 5))])


def share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def _words(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
