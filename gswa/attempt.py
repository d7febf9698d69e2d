"""One attempt at training: chunks at this length, a job for the child, what came of it, and what to try after it."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gswa import chunking
from gswa.backends.checkpoint import all_checkpoints, last_sealed, steps_of
from gswa.backends.child import preload, run_child
from gswa.basemodel import resolve_model
from gswa.config import RunConfig
from gswa.cursor import write_order
from gswa.errors import OutOfMemory
from gswa.forecast import for_run, learn
from gswa.ladder import Descent, next_rung
from gswa.records import EvalMetrics, StepMetrics, TrainJob
from gswa.rundir import OomFallback, RunDir, now

log = logging.getLogger("gswa")
Tell = Callable[[StepMetrics, int], None]  # a step, and how many there are in all


def train(run: RunDir, on_step: Tell = lambda step, total: None) -> None:
    """Train the run as its current configuration says, from its last checkpoint where there is one.

    Nothing is left to do where an earlier process got to the end of it. Raises OutOfMemory, which the ladder answers,
    TrainingError or Interrupted.
    """
    if run.metadata().get("trained"):
        log.info("training came to its end before; what comes after it is left")
        return
    config = run.current_config()
    preload(config.backend, config.quantization)  # it loads its libraries while the chunks are made
    chunking.chunks(run, config)
    checkpoint = last_sealed(run.checkpoints)
    start = steps_of(checkpoint) if checkpoint else 0
    write_order(run, config, start)
    number = run.metadata().get("attempts", 0) + 1
    if number > 1:
        _say_where(run, checkpoint)
    run.update(attempts=number, predicted_memory_gb=_predicted(run, config))
    try:
        result = run_child(job_for(run, config, attempt=number), _listener(run, on_step))
    except OutOfMemory as error:
        error.step = max(error.step, start)
        if next_config(config, error) is None:
            raise OutOfMemory(last_word(run, config, error), error.phase, error.step, error.peak_memory_gb) from error
        raise
    learn(run, config, result)
    run.update(**result, trained=now())
    summary = run.summary()
    run.update(
        losses=summary.model_dump(include={"train_loss", "valid_loss_before", "valid_loss_after", "test_loss_before", "test_loss_after"}),
    )


def _say_where(run: RunDir, checkpoint: Path | None) -> None:
    start = steps_of(checkpoint) if checkpoint else 0
    if damaged := [path.name for path in all_checkpoints(run.checkpoints) if steps_of(path) > start]:
        log.warning("passed over, because damaged or not whole: %s", ", ".join(damaged))
    total = run.metadata().get("total_steps")
    of = f" of {total}" if total else ""
    log.info("training goes on after step %d%s, from %s", start, of, checkpoint.name if checkpoint else "the start: there is no checkpoint")


def next_config(config: RunConfig, error: BaseException) -> Descent | None:
    """What to try after this death; None for another kind of error, at the foot of the ladder, and where it is switched off."""
    if not isinstance(error, OutOfMemory) or not config.enable_oom_fallback:
        return None
    return next_rung(config, error.phase)


def last_word(run: RunDir, config: RunConfig, error: OutOfMemory) -> str:
    """The one message of a run that memory ended: what was tried, the peak at each rung, and what to do."""
    settings = ("batch_size", "gradient_accumulation", "eval_batch_size", "max_seq_length", "gradient_checkpointing", "quantization")
    tried = [(event.attempt, event.phase, event.rung, _gb(event.peak_memory_gb)) for event in run.fallbacks()]
    lines = [f"out of memory in phase {error.phase} at step {error.step}: {error}"]
    if not config.enable_oom_fallback:
        lines.append("Stepping down is switched off (--no-oom-fallback); without that flag smaller settings are tried.")
    if tried:
        lines.append("Tried, and the peak of memory at each:")
        lines += [
            f"  attempt {attempt}: out of memory in {phase}, peak {peak}; then {rung} was given up" for attempt, phase, rung, peak in tried
        ]
    lines.append(f"  last attempt, peak {_gb(error.peak_memory_gb)}: " + ", ".join(f"{name} {getattr(config, name)}" for name in settings))
    lines.append("What helps: a smaller model (--model), fewer adapted layers (--num-layers), closing other programs, a larger machine.")
    return "\n".join(lines)


def _gb(gigabytes: float | None) -> str:
    return "not measured" if gigabytes is None else f"{gigabytes:.2f} GB"


def _predicted(run: RunDir, config: RunConfig) -> float | None:
    forecast = for_run(run, config)
    return round(forecast.peak_gb, 4) if forecast else None


def evaluate(run: RunDir) -> None:
    """Held-out losses and samples of adapters/, read back from disk by a fresh process.

    Out of memory, it is tried again with smaller batches. With a single row too, the run completes without: its adapter is there.
    """
    config = run.current_config()
    log.info("reading the adapter back, for its loss on test and for samples")
    try:
        run_child(job_for(run, config, action="evaluate", attempt=run.metadata().get("attempts", 1)))
    except OutOfMemory as error:
        error.phase, error.step = "evaluate", run.metadata().get("chosen_step", error.step)
        if not config.enable_oom_fallback:
            raise
        if config.eval_batch_size == 1:
            log.warning("the adapter was not evaluated, for want of memory (%s); it lies in %s", error, run.adapters)
        elif step_down(run, error):
            evaluate(run)


def job_for(run: RunDir, config: RunConfig, **fields: Any) -> TrainJob:
    return TrainJob(
        run=run.path, model=str(resolve_model(config.model_id)), data=run.chunks(config.max_seq_length), config=config, **fields
    )


def _listener(run: RunDir, on_step: Tell) -> Callable[[dict[str, Any]], None]:
    """Turns the child's messages into log lines and calls; `total` comes before the first step."""
    total = [0]
    started = time.monotonic()

    def listen(message: dict[str, Any]) -> None:
        if "total_steps" in message:
            total[0] = message["total_steps"]
            run.update(total_steps=total[0])
            log.info("model loaded in %.1f s; %d optimizer steps", time.monotonic() - started, total[0])
        if isinstance(message.get("step"), dict):
            on_step(StepMetrics.model_validate(message["step"]), total[0])
        if "evaluation" in message:
            metrics = EvalMetrics.model_validate(message["evaluation"])
            log.info(
                "held-out loss on %s after %d steps: %.4f (%d tokens)", metrics.split, metrics.step, metrics.eval_loss, metrics.eval_tokens
            )

    return listen


def step_down(run: RunDir, error: BaseException) -> bool:
    """Answer an attempt's death by the next rung; False where it was not for want of memory, or nothing is left to give up."""
    config = run.current_config()
    descent = next_config(config, error)
    if not isinstance(error, OutOfMemory) or descent is None:
        return False
    before, after = config.model_dump(), descent.config.model_dump()
    changed = {name: value for name, value in after.items() if value != before[name]}
    run.record(
        OomFallback(
            phase=error.phase,
            step=error.step,
            error=str(error),
            rung=descent.rung.name,
            before={name: before[name] for name in changed},
            after=changed,
            reason=descent.rung.reason,
            predicted_memory_gb=_predicted(run, config),
            peak_memory_gb=error.peak_memory_gb,
        )
    )
    log.warning(
        "out of memory in phase %s at step %d: %s",
        error.phase,
        error.step,
        ", ".join(f"{k} {before[k]} -> {v}" for k, v in changed.items()),
    )
    return True
