"""Dry runs that were made before: kept by model, data, machine and versions, so that planning again costs seconds."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from gswa.basemodel import resolve_model
from gswa.candidates import PLANNED
from gswa.config import RunConfig
from gswa.files import append_line, read_lines
from gswa.hardware import Hardware
from gswa.planner import Measured
from gswa.records import SPLITS, Record
from gswa.rundir import RunDir, now


class Entry(Record):
    """One line of the file. `key` is a digest of all that decides what a dry run measures."""

    key: str
    time: str
    tokens_per_sec: float
    peak_memory_gb: float


class Known(NamedTuple):
    file: Path
    fingerprint: str

    def get(self, config: RunConfig, steps: int) -> Measured | None:
        """The newest one of these settings, with its time."""
        found = [line for line in read_lines(self.file) if line.get("key") == self._key(config, steps)]
        if not found:
            return None
        entry = Entry.model_validate(found[-1])
        return Measured(entry.tokens_per_sec, entry.peak_memory_gb, at=entry.time[:16].replace("T", " "))

    def put(self, config: RunConfig, steps: int, measured: Measured) -> None:
        entry = Entry(
            key=self._key(config, steps), time=now(), tokens_per_sec=measured.tokens_per_sec, peak_memory_gb=measured.peak_memory_gb
        )
        append_line(self.file, entry)

    def _key(self, config: RunConfig, steps: int) -> str:
        settings = {name: getattr(config, name) for name in (*PLANNED, "lora_rank", "lora_dropout", "memory_limit_gb", "seed")}
        return _digest(self.fingerprint, json.dumps(settings), str(steps))


def fingerprint(model_id: str, run: RunDir, machine: Hardware) -> str:
    """Of the base model's files, the run's examples, what computes, and the versions of the stack."""
    folder = resolve_model(model_id)
    weights = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.glob("*.safetensors"))
    examples = [hashlib.sha256((run.examples / f"{split}.jsonl").read_bytes()).hexdigest() for split in SPLITS]
    computes = (machine.compute_name, machine.cpu.cores, machine.total_gb, machine.versions)
    return _digest((folder / "config.json").read_text(encoding="utf-8"), str(weights), *examples, json.dumps(computes))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
