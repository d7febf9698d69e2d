"""The peak of memory foretold for a configuration on this machine: the formulas, corrected by what was measured here."""

import json
from typing import NamedTuple

from gswa.basemodel import resolve_model
from gswa.calibration import Correction, fit, measurements
from gswa.config import RunConfig
from gswa.errors import ConfigError
from gswa.memory import Prediction, Rows, Shape, predict, read_shape
from gswa.models import model_named
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

    def __call__(self, config: RunConfig) -> Forecast:
        return Forecast(predict(self.shape, config, self.rows), self.corrections[is_limited(config)])


def forecaster(model_id: str, compute: str, workspace: Workspace, rows: Rows | None = None) -> Forecaster | None:
    """None for a base whose config.json is not at hand, or whose architecture the formulas do not know. `compute` names the device."""
    shape = shape_of(model_id)
    if shape is None:
        return None
    corrections = {limited: fit(measurements(workspace, device_name(compute, limited))) for limited in (False, True)}
    return Forecaster(shape, rows, corrections)


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
