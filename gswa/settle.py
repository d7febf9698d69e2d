"""From what was asked to what runs: the layers of settings in their order."""

import logging
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from gswa.backends.base import has_backend, load_backend
from gswa.basemodel import context_length, is_of_hub, resolve_model
from gswa.config import BUILTIN_MODEL, Layer, RunConfig, RunRequest, Settled, read_config_file, resolve
from gswa.disk import check_room, room_needed_gb
from gswa.errors import ConfigError
from gswa.forecast import checkpointing_for
from gswa.hardware import Hardware
from gswa.profiles import learning_rate_warning, model_layer, profile_for
from gswa.records import Plan
from gswa.rundir import Event, RunDir
from gswa.workspace import Workspace

log = logging.getLogger("gswa")


def settle(request: RunRequest, hardware: Hardware, plan: Plan | None = None) -> Settled:
    """built-in default < hardware profile < plan < --config file < command line. Raises ConfigError."""
    profile = profile_for(hardware, memory_safe=request.memory_safe)
    settled = _merged(profile, request, plan)  # every fault in the settings is told before anything is downloaded
    if not has_backend(settled.config.backend):
        load_backend(settled.config.backend)  # says what is missing
    if settled.origin["model_id"] == profile.origin and _out_of_reach(settled.config.model_id):
        profile = Layer(profile.origin, {**profile.values, "model_id": BUILTIN_MODEL})
        settled = _merged(profile, request, plan)
    context = context_length(resolve_model(settled.config.model_id))  # unknown or incomplete: said now, not after the papers were read
    if context is not None and settled.config.max_seq_length > context:
        if asked(request, "max_seq_length") is not None:
            raise ConfigError(_beyond(settled.config, context))
        profile = Layer(f"{profile.origin}, as long as the model reads", {**profile.values, "max_seq_length": context})
        settled = _merged(profile, request, plan)
    checkpointing = checkpointing_for(settled.config, hardware, Workspace(), request.memory_safe)
    if settled.origin["gradient_checkpointing"] == profile.origin and settled.config.gradient_checkpointing != checkpointing:
        profile = Layer(f"{profile.origin}, as predicted", {**profile.values, "gradient_checkpointing": checkpointing})
        settled = _merged(profile, request, plan)
    return settled


def _beyond(config: RunConfig, context: int) -> str:
    return (
        f"max_seq_length {config.max_seq_length}: {config.model_id} was made for {context} tokens at most; "
        f"ask for {context} or less, or choose a model that reads more (--model)"
    )


def _merged(profile: Layer, request: RunRequest, plan: Plan | None) -> Settled:
    planned = Layer("plan", plan.chosen or {}) if plan else Layer("plan", {})
    file = read_config_file(request.config) if request.config else Layer("file", {})
    flags = Layer("command line", request.settings.model_dump())
    model_id = flags.values.get("model_id") or file.values.get("model_id") or profile.values.get("model_id") or BUILTIN_MODEL
    return resolve(profile, model_layer(str(model_id)), planned, file, flags)


def settle_run(run: RunDir, request: RunRequest, hardware: Hardware, plan: Plan | None) -> None:
    """Write the configuration of a run once; a run that is resumed keeps the one it has."""
    if run.config_file.exists():
        return
    settled = settle(request, hardware, plan)
    config = settled.config
    check_disk(config, run.path)
    run.write_config(request, settled)
    run.record(Event(event="settled"))  # the first line of the log of configuration changes: from here on it exists
    run.update(model_id=config.model_id, versions=hardware.versions, git_commit=_git_commit())
    if warning := learning_rate_warning(config):
        log.warning("%s", warning)
    log.info(
        "settled: %s on %s, batch %d x %d, %d tokens, rank %d, learning rate %g",
        config.model_id, config.device, config.batch_size, config.gradient_accumulation, config.max_seq_length,
        config.lora_rank, config.learning_rate,
    )  # fmt: skip


def check_disk(config: RunConfig, folder: Path) -> None:
    """Raises ConfigError where the run would not find room in this folder."""
    base = resolve_model(config.model_id)
    check_room(folder, room_needed_gb(config, base, writes_base=not is_of_hub(config.model_id)))  # a library has those of the hub


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


@cache  # asked once: each look at a hub that is away costs seconds, and one warning is enough
def _out_of_reach(model_id: str) -> bool:
    """Whether the profile's model cannot be had, so that the built-in one takes its place. One that was asked for is never replaced."""
    try:
        resolve_model(model_id)
    except ConfigError as error:
        log.warning("%s\nTraining the built-in model %s instead.", error, BUILTIN_MODEL)
        return True
    return False
