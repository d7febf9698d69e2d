"""Transformers' Trainer, in our order of steps, with our evaluation, records and sealed checkpoints."""

import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from gswa.backends.base import Report
from gswa.backends.checkpoint import all_checkpoints, is_sealed, rotate, seal, steps_of
from gswa.backends.torch import fused
from gswa.backends.torch.data import Chunks, pad_token, train_loader
from gswa.backends.torch.evaluate import held_out_loss
from gswa.backends.torch.memory import give_back, keep_heap, peak_gb, reserved_gb, reset_peak
from gswa.backends.torch.packed import NAME, tried
from gswa.dataset import Tokenizer
from gswa.errors import Interrupted, TrainingError
from gswa.order import Order
from gswa.records import EvalMetrics, HeldOut, Split, StepMetrics, TrainJob
from gswa.rundir import RunDir, now

FLOOR = 0.1  # the learning rate decays to this share of its peak
SIDE_BY_SIDE, PACKED = "length-grouped", "best-fit packing"
SAME = 5e-3  # of two losses in bf16
LOSS_SHARE = 0.05  # of the run: so much may be lost at most


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
        fp16=config.number_format == "fp16",  # for its gradient scaler; bf16 needs none, and the weights are in it already
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


class Schedule(NamedTuple):
    """Rows of `train` by optimizer step, with the share of the run and the epochs done after each. The first `start` steps
    lie behind: an earlier length trained them, and their rows are never read."""

    start: int
    steps: list[list[int]]
    shares: list[float]
    epochs: list[float]

    @classmethod
    def of_order(cls, order: Order, effective_batch: int) -> "Schedule":
        behind = order.start
        steps = [[0] * effective_batch] * behind + [[turn.chunk for turn in step] for step in order.steps]
        return cls(behind, steps, [order.share_before] * behind + [*order.shares], [0.0] * behind + [*order.epochs])

    @classmethod
    def of_dry_run(cls, lengths: Sequence[int], effective_batch: int, steps: int) -> "Schedule":
        """The longest rows first, so that what cannot fit is known within seconds."""
        rows = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        cut = [rows[i : i + effective_batch] for i in range(0, len(rows), effective_batch)][:steps]
        return cls(0, cut, [(n + 1) / len(cut) for n in range(len(cut))], [1.0] * len(cut))


class GswaTrainer(Trainer):
    """`data` holds all splits; `schedule` says which rows of `train` each optimizer step sees."""

    def __init__(
        self, model: Any, job: TrainJob, report: Report, data: dict[Split, Chunks], schedule: Schedule, tokenizer: Tokenizer
    ) -> None:
        self.job, self.report, self.data, self.schedule = job, report, data, schedule
        self.pad = pad_token(tokenizer)
        self.capacity: int | None = None  # tokens of a packed line; None where rows lie side by side
        self.batching: dict[str, float] = {}  # non-padding tokens per second of each way, where there was a choice
        self.losses: dict[str, float] = {}  # milliseconds of each cross-entropy, where there was a choice
        self.reserved: list[torch.Tensor] = []  # held for the optimizer's moments until they are made
        self.tokens = self.cells = 0  # of the step under way: non-padding tokens, and all places of its tensors
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._next: Future[Any] | None = None
        telemetry = Telemetry(self)
        super().__init__(model=model, args=arguments(job, len(schedule.steps)), train_dataset=data["train"], callbacks=[telemetry])
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        return train_loader(self.data["train"], self.schedule.steps, self.job.config, self.pad, self.capacity)

    @property
    def packs(self) -> bool:
        """Whether the model's attention takes packed lines."""
        model: Any = self.model
        return bool(model.config._attn_implementation == NAME)

    def choose_loss(self, tokens: int) -> None:
        """Time each cross-entropy over so many target tokens, and go on with the faster, if both give the same."""
        model: Any = self.model
        self.losses = fused.choose(model.get_base_model(), tokens)

    def choose_batching(self) -> None:
        """Time a step with rows side by side and with rows packed, and go on with the faster, if both give the same loss."""
        data, config, step = self.data["train"], self.job.config, self.schedule.steps[self.schedule.start]
        line = config.batch_size * max(data.lengths)
        loaders = {way: train_loader(data, [step], config, self.pad, capacity) for way, capacity in ((SIDE_BY_SIDE, None), (PACKED, line))}
        trials = {way: tried(self.model, (batch for batch in loader if batch["tokens"].numel())) for way, loader in loaders.items()}
        tokens = sum(data.lengths[row] for row in step)
        self.batching = {way: round(tokens / trial.seconds, 1) for way, trial in trials.items()}
        same = math.isclose(trials[PACKED].loss, trials[SIDE_BY_SIDE].loss, rel_tol=SAME)
        self.capacity = line if same and trials[PACKED].seconds < trials[SIDE_BY_SIDE].seconds else None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            warmup, shares = self.job.config.warmup_ratio, self.schedule.shares
            target: Any = optimizer or self.optimizer
            # `done` steps are behind us; the share counts the one under way too, so that the first is not at zero.
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                target, lambda done: learning_rate_factor(shares[min(done, len(shares) - 1)], warmup)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """A step's micro-batches; those of the next one are read and rendered meanwhile."""
        fetch = partial(super().get_batch_samples, epoch_iterator, num_batches, device)
        samples = self._next.result() if self._next else fetch()
        self._next = self._ahead.submit(fetch)
        return samples

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.tokens += int(inputs.pop("tokens").sum())
        self.cells += inputs["input_ids"].numel()
        if not inputs["input_ids"].numel():  # packing needed fewer micro-batches than the step has
            return torch.zeros((), device=model.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: nothing here asks, and the library goes through all parameters for it, for each micro-batch."""
        return 0

    def held_out(self, split: HeldOut) -> None:
        """Evaluate on one split and record it; nothing where the split is empty, or where a stop is asked for meanwhile.

        Raises TrainingError where the loss is not finite.
        """
        if not len(self.data[split]):
            return
        config = self.job.config
        self.report.phase("evaluate")
        give_back(config.device)
        reset_peak(config.device)
        try:
            loss = held_out_loss(self.model, self.data[split], config, self.pad, self.report.stop_requested)
        except Interrupted:
            return
        if not math.isfinite(loss.mean):
            raise _diverged(f"the held-out loss is {loss.mean}", self.state.global_step)
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
        give_back(config.device)
        self.report.phase("train")


class Telemetry(TrainerCallback):
    """Records each step, and decides when to evaluate, to save and to stop."""

    def __init__(self, trainer: GswaTrainer) -> None:
        self.trainer = trainer
        self.run = RunDir(trainer.job.run)
        self.real = trainer.job.action == "train"
        self.started = self.seconds = 0.0
        self.saved_at, self.saved_share = time.monotonic(), 0.0
        self.trained_tokens = 0
        self.due = evaluation_steps(trainer.schedule.shares, trainer.job.config.evaluations)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        earlier = [step for step in self.run.steps() if step.step <= state.global_step]
        self.trained_tokens = earlier[-1].trained_tokens if earlier else 0
        self.saved_share = self._share(state.global_step)
        if self.real and state.global_step in self.due and state.global_step not in {seen.step for seen in self.run.evaluations("valid")}:
            self.trainer.held_out("valid")  # it was cut off by the stop that this run is resumed from
        self.trainer.report.phase("train")
        give_back(self.trainer.job.config.device)
        reset_peak(self.trainer.job.config.device)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.reserved.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds = time.perf_counter() - self.started
        keep_heap(self.trainer.job.config)
        if self.trainer.report.stop_requested():
            control.should_save = control.should_training_stop = True
        if self.real and (state.global_step in self.due or self._too_much_to_lose(state.global_step)):
            control.should_save = True

    def _share(self, step: int) -> float:
        return self.trainer.schedule.shares[step - 1] if step else 0.0

    def _too_much_to_lose(self, step: int) -> bool:
        """Whether one step more without a checkpoint could lose over five minutes, or over 5 % of the run."""
        ahead = self._share(min(step + 1, len(self.trainer.schedule.steps)))
        waited = time.monotonic() - self.saved_at + self.seconds
        # Shares are sums: without the margin 60 equal steps were saved 26 times, 3 of them being a little over 5 %.
        return ahead - self.saved_share > LOSS_SHARE + 1e-9 or waited > self.trainer.job.config.checkpoint_seconds

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        trainer = self.trainer
        if not math.isfinite(logs["loss"]):
            raise _diverged(f"the loss became {logs['loss']}", state.global_step)
        trainer.report.step(self._metrics(state.global_step, logs))
        trainer.tokens = trainer.cells = 0
        if self.real and state.global_step in self.due:
            trainer.held_out("valid")
            if trainer.report.stop_requested():
                control.should_save = control.should_training_stop = True
        reset_peak(trainer.job.config.device)
        if control.should_save:
            trainer.report.phase("save")

    def _metrics(self, step: int, logs: dict[str, float]) -> StepMetrics:
        trainer, device = self.trainer, self.trainer.job.config.device
        self.trained_tokens += trainer.tokens
        return StepMetrics(
            step=step,
            timestamp=now(),
            train_loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            tokens_per_sec=trainer.tokens / max(self.seconds, 1e-9),
            peak_memory_gb=peak_gb(device),
            trained_tokens=self.trained_tokens,
            grad_norm=logs.get("grad_norm", 0.0),
            epoch=trainer.schedule.epochs[step - 1],
            attempt=trainer.job.attempt,
            padding_fraction=1 - trainer.tokens / max(trainer.cells, 1),
            peak_reserved_gb=reserved_gb(device),
        )

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        folder = Path(args.output_dir)
        checkpoint = folder / f"checkpoint-{state.global_step}"
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        if not all(bool(weight.isfinite().all()) for weight in trained):
            raise _diverged("the adapter's weights are no longer finite", state.global_step)
        cursor = {
            "step": state.global_step,
            "max_seq_length": self.trainer.job.config.max_seq_length,
            "share": self._share(state.global_step),
        }
        (checkpoint / "cursor.json").write_text(json.dumps(cursor), encoding="utf-8")
        seal(checkpoint)
        rotate(folder, best_step(self.run))
        self.saved_at, self.saved_share = time.monotonic(), self._share(state.global_step)
        self.trainer.report.phase("train")


def _diverged(what: str, step: int) -> TrainingError:
    return TrainingError(f"{what} at step {step}; training stopped. Start a new run with a lower --learning-rate: this one would repeat it")


def evaluation_steps(shares: Sequence[float], evaluations: int) -> set[int]:
    """The first step at or past each tenth (or other part) of the run, and the last one."""
    wanted = [(i + 1) / evaluations - 1e-9 for i in range(evaluations)]
    passed = {next((step for step, share in enumerate(shares, 1) if share >= part), len(shares)) for part in wanted}
    return passed | {len(shares)}


def best_step(run: RunDir) -> int | None:
    """The step with the lowest loss on `valid` whose checkpoint is there; the base model (step 0) is not among them."""
    kept = {steps_of(path): path for path in all_checkpoints(run.checkpoints)}
    best_first = sorted(run.evaluations("valid"), key=lambda evaluation: evaluation.eval_loss)
    # A seal takes as long to check as its files to read: those of the others are not asked.
    return next((tried.step for tried in best_first if tried.step in kept and is_sealed(kept[tried.step])), None)
