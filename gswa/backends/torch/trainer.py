"""Transformers' Trainer, in our order of steps, with our evaluation, records and sealed checkpoints."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from gswa.backends.base import Report
from gswa.backends.checkpoint import rotate, seal
from gswa.backends.torch.data import Chunks, pad_token, train_loader
from gswa.backends.torch.evaluate import held_out_loss
from gswa.backends.torch.memory import peak_gb, reserved_gb, reset_peak
from gswa.dataset import Tokenizer
from gswa.errors import TrainingError
from gswa.records import EvalMetrics, HeldOut, Split, StepMetrics, TrainJob
from gswa.rundir import RunDir, now

FLOOR = 0.1  # the learning rate decays to this share of its peak


def arguments(job: TrainJob, steps: int) -> TrainingArguments:
    """The library's spelling of our settings. Saving, evaluating and rotating are ours: see Telemetry."""
    config = job.config
    return TrainingArguments(
        output_dir=str(RunDir(job.run).checkpoints),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        max_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=config.number_format == "bf16",
        fp16=config.number_format == "fp16",
        use_cpu=config.device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default replaces a NaN loss by the running mean
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=config.device == "cuda",
    )


def learning_rate_factor(share: float, warmup: float) -> float:
    """Linear warm-up over the first `warmup` of the run, then a cosine down to `FLOOR`; `share` of the run done is in [0, 1]."""
    if share < warmup:
        return share / warmup
    progress = (share - warmup) / (1 - warmup)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class GswaTrainer(Trainer):
    """`data` holds all splits; `steps` says which rows of `train` each optimizer step sees."""

    def __init__(
        self, model: Any, job: TrainJob, report: Report, data: dict[Split, Chunks], steps: Sequence[Sequence[int]], tokenizer: Tokenizer
    ) -> None:
        self.job, self.report, self.data, self.steps = job, report, data, steps
        self.pad = pad_token(tokenizer)
        self.tokens = self.cells = 0  # of the step under way: non-padding tokens, and all places of its tensors
        telemetry = Telemetry(self)
        super().__init__(model=model, args=arguments(job, len(steps)), train_dataset=data["train"], callbacks=[telemetry])
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        return train_loader(self.data["train"], self.steps, self.job.config.batch_size, self.pad)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            warmup = self.job.config.warmup_ratio
            target: Any = optimizer or self.optimizer
            # `done` steps are behind us; the share counts the one under way too, so that the first is not at zero.
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                target, lambda done: learning_rate_factor((done + 1) / num_training_steps, warmup)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.tokens += int(inputs["attention_mask"].sum())
        self.cells += inputs["attention_mask"].numel()
        return super().training_step(model, inputs, num_items_in_batch)

    def held_out(self, split: HeldOut) -> None:
        """Evaluate on one split and record it; nothing where the split is empty."""
        if not len(self.data[split]):
            return
        config = self.job.config
        self.report.phase("evaluate")
        reset_peak(config.device)
        loss = held_out_loss(self.model, self.data[split], config, self.pad)
        self.report.evaluation(
            EvalMetrics(
                step=self.state.global_step,
                timestamp=now(),
                split=split,
                eval_loss=loss.mean,
                perplexity=math.exp(min(loss.mean, 700.0)),
                eval_tokens=loss.tokens,
                peak_memory_gb=peak_gb(config.device),
                attempt=self.job.attempt,
            )
        )
        self.report.phase("train")


class Telemetry(TrainerCallback):
    """Records each step, and decides when to evaluate, to save and to stop."""

    def __init__(self, trainer: GswaTrainer) -> None:
        self.trainer = trainer
        self.started = 0.0
        self.seconds = 0.0
        self.saved = time.monotonic()
        self.trained_tokens = 0
        self.run = RunDir(trainer.job.run)
        steps, wanted = len(trainer.steps), trainer.job.config.evaluations
        self.due = {round(steps * (i + 1) / wanted) for i in range(wanted)} | {steps}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        earlier = [step for step in self.run.steps() if step.step <= state.global_step]
        self.trained_tokens = earlier[-1].trained_tokens if earlier else 0
        reset_peak(self.trainer.job.config.device)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds = time.perf_counter() - self.started
        if self.trainer.report.stop_requested():
            control.should_save = control.should_training_stop = True
        if time.monotonic() - self.saved > self.trainer.job.config.checkpoint_seconds:
            control.should_save = True
        if self.trainer.job.action == "train" and state.global_step in self.due:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        trainer, device = self.trainer, self.trainer.job.config.device
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss became {logs['loss']} at step {state.global_step}; training stopped, and the last checkpoint "
                "before it stands. Try a lower learning rate"
            )
        self.trained_tokens += trainer.tokens
        rows = sum(map(len, trainer.steps[: state.global_step]))
        trainer.report.step(
            StepMetrics(
                step=state.global_step,
                timestamp=now(),
                train_loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                tokens_per_sec=trainer.tokens / max(self.seconds, 1e-9),
                peak_memory_gb=peak_gb(device),
                trained_tokens=self.trained_tokens,
                grad_norm=logs.get("grad_norm", 0.0),
                epoch=rows / max(1, len(trainer.data["train"])),
                attempt=trainer.job.attempt,
                padding_fraction=1 - trainer.tokens / max(trainer.cells, 1),
                peak_reserved_gb=reserved_gb(device),
            )
        )
        trainer.tokens = trainer.cells = 0
        if trainer.job.action == "train" and state.global_step in self.due:
            trainer.held_out("valid")
        reset_peak(device)
        if control.should_save:
            trainer.report.phase("save")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir)
        seal(folder / f"checkpoint-{state.global_step}")
        rotate(folder, best_step(self.run))
        self.saved = time.monotonic()
        self.trainer.report.phase("train")


def best_step(run: RunDir) -> int | None:
    """The evaluated step with the lowest loss on `valid`, the base model's own (step 0) left out."""
    tried = [evaluation for evaluation in run.evaluations("valid") if evaluation.step > 0]
    return min(tried, key=lambda evaluation: evaluation.eval_loss).step if tried else None
