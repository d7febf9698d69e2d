"""The worst first: what a run cannot bear is known in its first minute, not at step 600.

The longest training rows, the longest evaluation rows, and a checkpoint saved and loaded, before the first step. Nothing of
it stays: no gradient, no random number, no file.
"""

import shutil
from typing import Any

import torch
from safetensors.torch import load_file

from gswa.backends.torch.data import Chunks, collate, width_multiple
from gswa.backends.torch.loss import IGNORED
from gswa.backends.torch.packed import pack
from gswa.backends.torch.trainer import GswaTrainer
from gswa.records import HELD_OUT
from gswa.rundir import RunDir


def rehearse(trainer: GswaTrainer, at_once: bool = False) -> None:
    """Raises what the run would raise later; its phase is reported as the real thing's. Where the first step comes `at_once` after
    it and is as large as any, that step is its own rehearsal."""
    devices = [trainer.model.device] if trainer.job.config.device == "cuda" else []  # type: ignore[union-attr]  # there is a model
    with torch.random.fork_rng(devices=devices):
        longest = _longest(trainer, trainer.data["train"], trainer.job.config.batch_size)
        if trainer.job.config.device == "cuda":
            trainer.choose_loss(int((longest["labels"][:, 1:] != IGNORED).sum()))
        if at_once and not trainer.packs and _first_is_largest(trainer):
            trainer.reserved = _reserved(trainer, 2)
        else:
            _training_step(trainer, longest)
        if trainer.packs:
            trainer.choose_batching()
            if trainer.capacity is not None:
                _training_step(trainer, _full_line(trainer))
        for split in HELD_OUT:
            _evaluation_step(trainer, trainer.data[split])
    _checkpoint(trainer)


def _first_is_largest(trainer: GswaTrainer) -> bool:
    """Whether a micro-batch of the first step has as many rows as any and the longest one."""
    size, lengths = trainer.job.config.batch_size, trainer.data["train"].lengths
    first = trainer.schedule.steps[trainer.schedule.start]
    batches = [first[i : i + size] for i in range(0, len(first), size)]
    return any(len(batch) == min(size, len(lengths)) and max(lengths[row] for row in batch) == max(lengths) for batch in batches)


def _reserved(trainer: GswaTrainer, times: int) -> list[torch.Tensor]:
    """As much memory as so many sets of the trained parameters."""
    model: Any = trainer.model
    return [torch.zeros_like(p) for p in model.parameters() if p.requires_grad for _ in range(times)]


def _longest(trainer: GswaTrainer, data: Chunks, size: int) -> dict[str, torch.Tensor]:
    model: Any = trainer.model
    batch = collate(data.longest(size), trainer.pad, width_multiple(trainer.job.config))
    del batch["tokens"]
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def _full_line(trainer: GswaTrainer) -> dict[str, Any]:
    model: Any = trainer.model
    line = pack(trainer.data["train"].longest(1) * trainer.job.config.batch_size)
    del line["tokens"]
    return {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in line.items()}


def _training_step(trainer: GswaTrainer, batch: dict[str, Any]) -> None:
    """Forward and backward on a largest micro-batch, with room held for the gradients of the one before it and for the
    optimizer's two moments."""
    model: Any = trainer.model
    trainer.report.phase("train")
    held = _reserved(trainer, 3)
    model.train()
    loss = model(**batch, num_items_in_batch=1).loss
    loss.backward()
    model.zero_grad(set_to_none=True)
    del held


def _evaluation_step(trainer: GswaTrainer, data: Chunks) -> None:
    if not len(data):
        return
    model: Any = trainer.model
    trainer.report.phase("evaluate")
    model.eval()
    with torch.no_grad():
        model(**_longest(trainer, data, trainer.job.config.eval_batch_size), num_items_in_batch=1)


def _checkpoint(trainer: GswaTrainer) -> None:
    trainer.report.phase("save")
    folder = RunDir(trainer.job.run).checkpoints / ".rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        trainer.save_model(str(folder))
        trainer.report.phase("resume")
        load_file(folder / "adapter_model.safetensors")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
