"""The torch side of the backend protocol: load, train from where the last checkpoint stands, choose, keep."""

import logging
import random
import shutil
from pathlib import Path
from typing import Any

from transformers import set_seed

from gswa.backends.base import Report
from gswa.backends.checkpoint import take_up
from gswa.backends.torch import fused
from gswa.backends.torch.data import Chunks, pad_token
from gswa.backends.torch.evaluate import answer, held_out_loss
from gswa.backends.torch.formats import measure
from gswa.backends.torch.generate import write_answers
from gswa.backends.torch.memory import job_peak_gb, limit_memory, now_gb
from gswa.backends.torch.model import add_adapter, load_adapter, load_base
from gswa.backends.torch.packed import use_packed_attention
from gswa.backends.torch.rehearsal import rehearse
from gswa.backends.torch.trainer import PACKED, SIDE_BY_SIDE, GswaTrainer, Schedule, best_step
from gswa.dataset import Tokenizer, load_tokenizer
from gswa.errors import DataError, Interrupted
from gswa.memory import Rows
from gswa.order import read_order, training_files
from gswa.records import HELD_OUT, Chunk, Evaluation, Sample, Split, TrainJob
from gswa.rundir import RunDir

log = logging.getLogger("gswa")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class TorchBackend:
    """See `gswa.backends.base.Backend`."""

    def train(self, job: TrainJob, report: Report) -> dict[str, Any]:
        report.phase("load")
        baseline = now_gb(job.config.device)
        limit_memory(job.config)
        trainer = _trainer(job, report)
        report.total_steps(len(trainer.schedule.steps))
        run = RunDir(job.run)
        checkpoint = take_up(run.checkpoints) if job.action == "train" else None
        first = job.action == "train" and checkpoint is None
        rehearse(trainer, at_once=job.action == "dry_run" or (first and not any(len(trainer.data[split]) for split in HELD_OUT)))
        if first:
            trainer.held_out("valid")
            trainer.held_out("test")
            if report.stop_requested():
                raise Interrupted("training was stopped before its first step", exit_code=75)
        report.phase("resume" if checkpoint else "train")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if report.stop_requested():
            raise Interrupted("training was stopped; its last step is in a checkpoint", exit_code=75)
        if job.action == "dry_run":
            return {**_choices(trainer), **_memory(job, baseline)}
        chosen = best_step(run) or trainer.state.global_step
        _choose(trainer, run, chosen)
        return {"chosen_step": chosen, "total_steps": len(trainer.schedule.steps), **_choices(trainer), **_memory(job, baseline)}

    def evaluate(self, job: TrainJob, report: Report) -> Evaluation:
        report.phase("load")
        limit_memory(job.config)
        set_seed(job.config.seed)
        tokenizer = load_tokenizer(job.model)
        model = load_adapter(load_base(job.model, job.config), RunDir(job.run).adapters)
        data = _read(job, "test", tokenizer)
        pad = pad_token(tokenizer)
        report.phase("evaluate")
        if not len(data):
            return Evaluation(test_loss_before=None, test_loss_after=None, test_tokens=0)
        after = held_out_loss(model, data, job.config, pad, report.stop_requested)
        with model.disable_adapter():
            before = held_out_loss(model, data, job.config, pad, report.stop_requested)
        samples = tuple(_sample(model, tokenizer, chunk) for chunk in _prompts(data, job))
        return Evaluation(test_loss_before=before.mean, test_loss_after=after.mean, test_tokens=after.tokens, samples=samples)

    def generate(self, job: TrainJob, report: Report) -> dict[str, Any]:
        report.phase("load")
        limit_memory(job.config)
        tokenizer = load_tokenizer(job.model)
        base = load_base(job.model, job.config)
        report.phase("evaluate")
        write_answers(base, tokenizer, job, report)
        return {}

    def count_memory(self, job: TrainJob) -> dict[str, float]:
        from gswa.backends.torch.fake import count  # half a second of imports that training does without

        limit = job.config.max_seq_length
        try:
            return count(job.model, job.config, Rows(*job.rows) if job.rows else Rows(limit, limit))._asdict()
        except (ValueError, KeyError) as error:  # no such model_type in this version of transformers
            log.info("live tensors were not counted: %s", error)
            return {}

    def measure_number_formats(self, device: str) -> dict[str, float]:
        return measure(device)


def _memory(job: TrainJob, baseline: float) -> dict[str, float]:
    """Of the process before it loaded anything, and at its most."""
    return {"baseline_memory_gb": baseline, "peak_memory_gb": job_peak_gb(job.config.device)}


def _choices(trainer: GswaTrainer) -> dict[str, Any]:
    """How rows share a micro-batch and what computes the loss, and the speeds that decided it where the device leaves a choice."""
    model: Any = trainer.model
    found: dict[str, Any] = {"batching": SIDE_BY_SIDE if trainer.capacity is None else PACKED}
    if trainer.batching:
        found["batching_tokens_per_sec"] = trainer.batching
    if trainer.losses:
        found |= {"cross_entropy": fused.chosen(model.get_base_model()), "cross_entropy_ms": trainer.losses}
    return found


def _trainer(job: TrainJob, report: Report) -> GswaTrainer:
    config = job.config
    set_seed(config.seed)
    tokenizer = load_tokenizer(job.model)
    held_out: dict[Split, Chunks] = {split: _read(job, split, tokenizer) for split in HELD_OUT}
    data: dict[Split, Chunks] = {"train": Chunks(training_files(job.data), tokenizer), **held_out}
    base = load_base(job.model, config)
    use_packed_attention(base)
    model = add_adapter(base, config)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return GswaTrainer(model, job, report, data, _schedule(job, data["train"]), tokenizer)


def _schedule(job: TrainJob, train: Chunks) -> Schedule:
    if job.max_steps is not None:
        return Schedule.of_dry_run(train.lengths, job.config.effective_batch_size, job.max_steps)
    order = read_order(job.data)
    if order is None or not order.steps:
        raise DataError(f"{job.data}: no step to train; the order of the steps is missing or empty")
    return Schedule.of_order(order, job.config.effective_batch_size)


def _read(job: TrainJob, split: Split, tokenizer: Tokenizer) -> Chunks:
    return Chunks([job.data / f"{split}.jsonl"], tokenizer)


def _choose(trainer: GswaTrainer, run: RunDir, step: int) -> None:
    """Put the checkpoint of `step` into adapters/, and report its loss on `test`."""
    source = run.checkpoints / f"checkpoint-{step}"
    if step != trainer.state.global_step:
        model: Any = trainer.model
        model.load_adapter(str(source), adapter_name="default", is_trainable=True)
    trainer.held_out("test")
    _copy(source, run.adapters)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        temporary = target / f".{name}"
        shutil.copyfile(source / name, temporary)
        temporary.replace(target / name)


def _prompts(data: Chunks, job: TrainJob) -> list[Chunk]:
    """A few test chunks, the same ones for every run on the same data and seed."""
    return [data.chunk(i) for i in random.Random(job.config.seed).sample(range(len(data)), min(job.samples, len(data)))]


def _sample(model: Any, tokenizer: Tokenizer, chunk: Chunk) -> Sample:
    prompt = chunk.messages[:-1]
    with model.disable_adapter():
        base = answer(model, tokenizer, prompt)
    tuned = answer(model, tokenizer, prompt)
    return Sample(prompt=prompt[-1].content, author=chunk.target, base=base, tuned=tuned)
