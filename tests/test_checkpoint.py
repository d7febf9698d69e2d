from pathlib import Path

import pytest

from gswa.backends.checkpoint import SEAL, is_sealed, last_sealed, rotate, seal, take_up


def checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter.safetensors").write_bytes(b"weights" * step)
    (path / "optimizer.pt").write_bytes(b"moments")
    if sealed:
        seal(path)
    return path


def test_the_newest_sealed_checkpoint_counts(tmp_path):
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, sealed=False)
    assert last_sealed(tmp_path) == newest


@pytest.mark.parametrize("damage", ["missing", "shorter", "changed", "seal"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    before, broken = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    file = broken / "optimizer.pt"
    match damage:
        case "missing":
            file.unlink()
        case "shorter":
            file.write_bytes(b"mo")
        case "changed":
            file.write_bytes(b"Moments")
        case "seal":
            (broken / SEAL).write_text("{")
    assert not is_sealed(broken)
    assert last_sealed(tmp_path) == before


def test_the_last_two_and_the_best_are_kept(tmp_path):
    for step in (1, 2, 3, 4, 5):
        checkpoint(tmp_path, step)
    rotate(tmp_path, best=2)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-4", "checkpoint-5"}


def test_a_damaged_checkpoint_was_counted_among_the_two_that_are_kept(tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path, step)
    (checkpoint(tmp_path, 15) / "optimizer.pt").write_bytes(b"Moments")
    checkpoint(tmp_path, 99, sealed=False)
    assert take_up(tmp_path) == tmp_path / "checkpoint-10"
    checkpoint(tmp_path, 11)
    rotate(tmp_path, best=None)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-11", "damaged-checkpoint-15"}


def test_no_checkpoint_is_no_error(tmp_path):
    assert last_sealed(tmp_path) is None
