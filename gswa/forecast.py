"""The peak of memory foretold for a configuration on this machine: the formulas, corrected by what was measured here."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from gswa.basemodel import resolve_model
from gswa.calibration import Correction, Measurement, fit, measurements
from gswa.config import RunConfig, settings_in_words
from gswa.errors import ConfigError
from gswa.files import append_line
from gswa.hardware import Hardware
from gswa.memory import Alive, Prediction, Rows, Shape, predict, read_shape
from gswa.models import model_named
from gswa.records import SPLITS
from gswa.rundir import RunDir, now
from gswa.workspace import Workspace

LIMITED = ", under a limit"  # whose children give memory out in another way: another device, as far as memory goes


class Forecast(NamedTuple):
    """What the formulas say, and what this machine's measurements make of it."""

    prediction: Prediction
    correction: Correction | None

    @property
    def peak_gb(self) -> float:
        return self.corrected(self.prediction.peak_gb)

    @property
    def above_gb(self) -> float:
        """The formulas' own peak above the process itself: what a measurement is put beside."""
        return self.prediction.peak_gb - self.prediction.baseline_gb

    def corrected(self, peak_gb: float) -> float:
        if self.correction is None:
            return peak_gb
        return self.correction.baseline_gb + self.correction.apply(peak_gb - self.prediction.baseline_gb)


class Forecaster(NamedTuple):
    """Forecasts for one base model, with these rows of data, on one device."""

    shape: Shape
    rows: Rows | None
    corrections: dict[bool, Correction | None]

    def __call__(self, config: RunConfig, counted: Alive | None = None) -> Forecast:
        return Forecast(predict(self.shape, config, self.rows, counted), self.corrections[is_limited(config)])


def forecaster(model_id: str, compute: str, workspace: Workspace, rows: Rows | None = None) -> Forecaster | None:
    """None for a base whose config.json is not at hand, or whose architecture the formulas do not know. `compute` names the device."""
    shape = shape_of(model_id)
    if shape is None:
        return None
    corrections = {limited: fit(measurements(workspace, device_name(compute, limited))) for limited in (False, True)}
    return Forecaster(shape, rows, corrections)


def checkpointing_for(config: RunConfig, hardware: Hardware, workspace: Workspace, memory_safe: bool = False) -> bool:
    """On where keeping the activations is predicted to take more than there is, else off: it costs a third of a step's time.

    As the profile has it where nothing can be predicted, on Metal, and in memory-safe mode where it is on.
    """
    if config.backend != "torch" or (memory_safe and config.gradient_checkpointing):
        return config.gradient_checkpointing
    forecast = forecaster(config.model_id, hardware.compute_name, workspace)
    if forecast is None:
        return config.gradient_checkpointing
    return forecast(config.replace(gradient_checkpointing=False)).peak_gb > config.margin * hardware.memory_gb


def for_run(run: RunDir, config: RunConfig) -> Forecast | None:
    """For a run whose chunks are made: with its own rows, on the machine that it was probed on."""
    forecast = forecaster(config.model_id, _compute(run), Workspace(), rows_as_cut(run, config))
    return forecast(config) if forecast else None


def rows_as_cut(run: RunDir, config: RunConfig) -> Rows:
    """The longest chunks at this configuration's length, and the share of tokens that carry loss."""
    chunks = {split: [(c.tokens, c.target_tokens) for c in run.read_chunks(config.max_seq_length, split)] for split in SPLITS}
    longest = {split: max((tokens for tokens, _ in found), default=0) for split, found in chunks.items()}
    targets = sum(target for _, target in chunks["train"]) / max(1, sum(tokens for tokens, _ in chunks["train"]))
    return Rows(longest["train"], max(longest["valid"], longest["test"]), targets or 1.0)


def rows_uncut(run: RunDir, config: RunConfig) -> Rows:
    """For any length: the longest examples before they are cut, which a configuration's own limit then shortens."""
    stats = run.length_stats()
    longest = {split: int(stats[split].before.max) for split in stats}
    held_out = max(longest.get("valid", 0), longest.get("test", 0))
    return rows_as_cut(run, config)._replace(train=longest.get("train", 0), evaluate=held_out)


def learn(run: RunDir, config: RunConfig, result: Mapping[str, Any]) -> None:
    """Put what a child measured beside what was predicted for it, for the predictions to come."""
    forecast, compute = for_run(run, config), _compute(run)
    if forecast is None or not compute or "peak_memory_gb" not in result:
        return
    measurement = Measurement(
        time=now(),
        device=device_name(compute, is_limited(config)),
        settings=f"{config.model_id}: {settings_in_words(config.model_dump())}",
        predicted_gb=forecast.above_gb,
        measured_gb=result["peak_memory_gb"] - result["baseline_memory_gb"],
        baseline_gb=result["baseline_memory_gb"],
    )
    append_line(Workspace().calibration, measurement)


def _compute(run: RunDir) -> str:
    """What computes on the machine that the run was probed on; "" before the probe."""
    recorded = run.hardware()
    return Hardware.model_validate(recorded).compute_name if recorded else ""


def shape_of(model_id: str) -> Shape | None:
    known = model_named(model_id)
    try:
        if known is not None:
            return read_shape(known.config)
        folder = resolve_model(model_id, allow_download=False)
        return read_shape(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (ConfigError, OSError, ValueError, KeyError):
        return None


def is_limited(config: RunConfig) -> bool:
    return config.device == "cpu" and config.memory_limit_gb is not None


def device_name(compute: str, limited: bool) -> str:
    """As the calibration file calls it."""
    return compute + (LIMITED if limited else "")
