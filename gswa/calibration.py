"""What memory was predicted and what was measured, by this machine's own runs and dry runs, and the correction that follows."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from gswa.files import read_lines
from gswa.memory import FORMULAS
from gswa.records import Record
from gswa.workspace import Workspace

ENOUGH = 3  # measurements before a correction is used
REMEMBERED = 50  # the newest, of one device
# What is believed before anything is measured, and how exact a measurement is: a formula may be wrong by a share of what it counts,
# and a process takes some memory that no formula counts. So a small model's excess is not taken for a share of every larger one.
FACTOR_SPREAD, OFFSET_SPREAD_GB = 0.15, 0.1
NOISE, NOISE_GB = 0.03, 0.02  # a share of what was measured, and what any process may take more or less
STRAY = 1.5  # times the noise: beyond it a measurement counts by its distance and not by its square (Huber)
ROUNDS = 30


class Measurement(Record):
    """One line of the calibration file, in GB. What was predicted and measured is the part above the process itself.

    `device` names what computed, and how its memory is given out; `formulas` is the version of those that predicted.
    """

    time: str
    device: str
    formulas: int = FORMULAS
    settings: str
    predicted_gb: float
    measured_gb: float
    baseline_gb: float


class Correction(NamedTuple):
    """measured = offset_gb + factor × predicted; half of the `seen` measurements lie within `spread` (a share) of it."""

    factor: float
    offset_gb: float
    spread: float
    baseline_gb: float
    seen: int

    def __str__(self) -> str:
        return (
            f"× {self.factor:.2f} {self.offset_gb:+.2f} GB on what is above the process itself, half of the {self.seen} measurements here "
            f"within ± {self.spread:.1%}"
        )

    def apply(self, predicted_gb: float) -> float:
        """Both above the process itself."""
        return self.offset_gb + self.factor * predicted_gb


def fit(measured: Sequence[Measurement]) -> Correction | None:
    """The line that measurements and prior belief agree on; None below ENOUGH. Least squares, weighted anew until strays do not count."""
    if len(measured) < ENOUGH:
        return None
    pairs = [(each.predicted_gb, each.measured_gb) for each in measured]
    factor, offset = 1.0, 0.0
    for _ in range(ROUNDS):
        factor, offset = _line(pairs, [_weight(offset + factor * x, y) for x, y in pairs])
    spread = statistics.median(abs(y / (offset + factor * x) - 1) for x, y in pairs)
    return Correction(factor, offset, spread, statistics.median(each.baseline_gb for each in measured), len(measured))


def _weight(foretold: float, measured: float) -> float:
    """Of a measurement that lies so far from what the line foretells."""
    noise = math.hypot(NOISE * measured, NOISE_GB)
    return min(1.0, STRAY * noise / (abs(foretold - measured) + 1e-9)) / noise**2


def _line(pairs: Sequence[tuple[float, float]], weights: Sequence[float]) -> tuple[float, float]:
    """(factor, offset) of least squares, with the prior as two more observations."""
    xx = sum(w * x * x for (x, _), w in zip(pairs, weights, strict=True)) + FACTOR_SPREAD**-2
    x1 = sum(w * x for (x, _), w in zip(pairs, weights, strict=True))
    one = sum(weights) + OFFSET_SPREAD_GB**-2
    xy = sum(w * x * y for (x, y), w in zip(pairs, weights, strict=True)) + FACTOR_SPREAD**-2
    y1 = sum(w * y for (_, y), w in zip(pairs, weights, strict=True))
    determinant = xx * one - x1 * x1
    return (xy * one - x1 * y1) / determinant, (xx * y1 - x1 * xy) / determinant


def measurements(workspace: Workspace, device: str) -> list[Measurement]:
    """The newest of this device and of these formulas."""
    lines = (line for line in read_lines(workspace.calibration) if line.get("formulas") == FORMULAS and line.get("device") == device)
    return [Measurement.model_validate(line) for line in lines][-REMEMBERED:]
