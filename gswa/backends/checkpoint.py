"""Sealed checkpoints: one counts only once its seal lists every file in it with size and digest.

The seal is renamed into place after all files are synced, so that a kill at any moment leaves the checkpoint before.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

SEAL = "SEALED.json"
KEPT = 2  # the newest ones; the best is kept beside them


def seal(folder: Path) -> None:
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != SEAL}
    for name in files:
        _sync(folder / name)
    temporary = folder / f"{SEAL}.new"
    temporary.write_text(json.dumps(files), encoding="utf-8")
    _sync(temporary)
    temporary.replace(folder / SEAL)
    _sync(folder)


def is_sealed(folder: Path) -> bool:
    """Whether every file the seal names is there, whole and unchanged."""
    try:
        files = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return bool(files) and all(_fingerprint(folder / name) == fingerprint for name, fingerprint in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def steps_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def all_checkpoints(folder: Path) -> list[Path]:
    """checkpoint-<step> folders, newest first, sealed or not."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=steps_of, reverse=True)


def last_sealed(folder: Path) -> Path | None:
    """The newest checkpoint whose seal holds; damaged ones are passed over."""
    return next((path for path in all_checkpoints(folder) if is_sealed(path)), None)


def take_up(folder: Path) -> Path | None:
    """The newest checkpoint whose seal holds. Those after it are put out of the way, so that they count neither as kept nor as
    done: the damaged ones under another name, the ones whose saving was cut off for good."""
    good = last_sealed(folder)
    for path in all_checkpoints(folder):
        if good is not None and steps_of(path) <= steps_of(good):
            break
        if not (path / SEAL).is_file():
            shutil.rmtree(path)
            continue
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return good


def rotate(folder: Path, best: int | None) -> None:
    """Keep the two newest sealed checkpoints and the best one (by step); remove the others."""
    sealed = [path for path in all_checkpoints(folder) if (path / SEAL).is_file()]
    for path in sealed[KEPT:]:
        if steps_of(path) != best:
            shutil.rmtree(path)


def _fingerprint(path: Path) -> list[int | str]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
