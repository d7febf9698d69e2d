"""From what was asked to what runs: the layers of settings in their order."""

import logging
import subprocess
from pathlib import Path
from typing import Any

from gswa.basemodel import resolve_model
from gswa.config import BUILTIN_MODEL, Layer, RunRequest, Settled, read_config_file, resolve
from gswa.errors import ConfigError
from gswa.hardware import Hardware
from gswa.profiles import learning_rate_warning, model_layer, profile_for
from gswa.records import Plan
from gswa.rundir import RunDir

log = logging.getLogger("gswa")


def settle(request: RunRequest, hardware: Hardware, plan: Plan | None = None) -> Settled:
    """built-in default < hardware profile < plan < --config file < command line. Raises ConfigError."""
    profile = profile_for(hardware, memory_safe=request.memory_safe)
    planned = Layer("plan", plan.chosen or {}) if plan else Layer("plan", {})
    file = read_config_file(request.config) if request.config else Layer("file", {})
    flags = Layer("command line", request.settings.model_dump())
    asked = flags.values.get("model_id") or file.values.get("model_id")
    profile = profile if asked else _reachable(profile)
    model_id = str(asked or profile.values.get("model_id") or BUILTIN_MODEL)
    settled = resolve(profile, model_layer(model_id), planned, file, flags)
    resolve_model(settled.config.model_id)  # unknown or incomplete: said now, not after the papers were read
    return settled


def settle_run(run: RunDir, request: RunRequest, hardware: Hardware, plan: Plan | None) -> None:
    """Write the configuration of a run once; a run that is resumed keeps the one it has."""
    if run.config_file.exists():
        return
    settled = settle(request, hardware, plan)
    run.write_config(request, settled)
    config = settled.config
    run.update(model_id=config.model_id, versions=hardware.versions, git_commit=_git_commit())
    if warning := learning_rate_warning(config):
        log.warning("%s", warning)
    log.info(
        "settled: %s on %s, batch %d x %d, %d tokens, rank %d, learning rate %g",
        config.model_id, config.device, config.batch_size, config.gradient_accumulation, config.max_seq_length,
        config.lora_rank, config.learning_rate,
    )  # fmt: skip


def _git_commit() -> str | None:
    """The commit of GSWA's own checkout; None where it was installed as a package."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        out = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None


def asked(request: RunRequest, name: str) -> Any:
    """A setting as flag or file give it, before profile and plan are known; None where neither does."""
    flag = request.settings.model_dump().get(name)
    if flag is not None or request.config is None:
        return flag
    return read_config_file(request.config).values.get(name)


def memory_limit_gb(request: RunRequest) -> float | None:
    """The size of machine to behave as."""
    limit = asked(request, "memory_limit_gb")
    return None if limit is None else float(limit)


def _reachable(profile: Layer) -> Layer:
    """The profile with a model that can be had: without a hub, the built-in one. A model that was asked for is never replaced."""
    try:
        resolve_model(str(profile.values.get("model_id", BUILTIN_MODEL)))
    except ConfigError as error:
        log.warning("%s\nTraining the built-in model %s instead.", error, BUILTIN_MODEL)
        return Layer(profile.origin, {**profile.values, "model_id": BUILTIN_MODEL})
    return profile
