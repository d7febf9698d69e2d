"""Which number format this machine computes fast in, measured once and kept: on one CPU bf16 trains twice as fast as fp32, on
the next one twenty times slower."""

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from gswa.backends.child import run_child
from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import RunConfig
from gswa.errors import TrainingError
from gswa.files import write_json
from gswa.hardware import Hardware
from gswa.records import TrainJob
from gswa.workspace import Workspace

log = logging.getLogger("gswa")


def with_formats(machine: Hardware, workspace: Workspace, measure: Callable[[Hardware], dict[str, float]] | None = None) -> Hardware:
    """The machine with `number_formats` filled in: from the file of this machine, or by a measurement of about a second."""
    known = _read(workspace.number_formats)
    key = "; ".join((machine.compute_name, f"{machine.cpu.cores} cores", f"torch {machine.versions.get('torch')}"))
    if key not in known and machine.device != "metal":
        known[key] = (measure or _in_child)(machine)
        if known[key]:
            write_json(workspace.number_formats, known)
    return machine.model_copy(update={"number_formats": known.get(key, {})})


def _in_child(machine: Hardware) -> dict[str, float]:
    # On CUDA most runs have a 4-bit base: their preload server is started here, and not one more.
    config = RunConfig(
        device=machine.device, quantization="4bit" if machine.device == "cuda" and "bitsandbytes" in machine.versions else "none"
    )
    with tempfile.TemporaryDirectory() as folder:
        job = TrainJob(action="measure", run=Path(folder), model=str(BUILTIN_FOLDER), data=Path(folder), config=config)
        try:
            return run_child(job)
        except TrainingError as error:
            log.warning("the number formats could not be measured (%s); fp32 is taken", error)
            return {}


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
