"""train, valid or test: decided by hash for each group of documents, so that adding a paper moves no other."""

import hashlib
from collections.abc import Collection, Mapping

from gswa.records import HeldOut, Split

MIN_GROUPS = 3


def split_groups(groups: Collection[str], seed: int, held_out: float = 0.1, before: Mapping[str, Split] | None = None) -> dict[str, Split]:
    """Group → split, about `held_out` of them each for valid and test, at least one in each; of fewer than three, all train.

    `before` are the splits that groups had when fewer papers were there: they keep them, whatever a small corpus without
    those would have given. Only where nothing would be held out does one of them move.
    """
    if len(groups) < MIN_GROUPS:
        return dict.fromkeys(groups, "train")
    before = before or {}
    splits: dict[str, Split] = {group: before.get(group, "train") for group in groups}
    for name in ("test", "valid"):
        free = [group for group in groups if group not in before and splits[group] == "train"]
        splits.update(dict.fromkeys(_held_out(splits, free, name, seed, held_out), name))
    return splits


def _held_out(splits: Mapping[str, Split], free: Collection[str], name: HeldOut, seed: int, held_out: float) -> list[str]:
    """Free groups whose hash lies under the threshold; of few groups no more than a fifth, and one where there is none yet."""
    shares = {group: share(f"{seed}:{name}:{group}") for group in splits}
    held = sum(split == name for split in splits.values())
    room = max(1, min(sum(value < held_out for value in shares.values()), len(splits) // 5)) - held
    chosen = sorted((group for group in free if shares[group] < held_out), key=lambda group: shares[group])[: max(0, room)]
    if chosen or held:
        return chosen
    movable = free or [group for group, split in splits.items() if split == "train"]
    return [min(movable, key=lambda group: shares[group])]


def share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
