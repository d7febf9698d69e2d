"""What memory was predicted and what was measured, by this machine's own runs and dry runs, and the correction that follows."""

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from gswa.files import read_lines
from gswa.memory import FORMULAS
from gswa.records import Record
from gswa.workspace import Workspace

ENOUGH = 3  # measurements before a correction is used
REMEMBERED = 50  # the newest, of one device
# What is believed before anything is measured: a formula may be wrong by a share of what it counts, and a process takes some memory
# that no formula counts. So the excess of small models is not taken for a share of every larger one.
FACTOR_SPREAD, OFFSET_SPREAD_GB = 0.15, 0.1
EXACT = 0.01  # no measurement is trusted to be nearer to its line than this share
NORMAL = 1.4826  # standard deviations of a normal distribution in its median distance from the middle
APART = 1.2  # so much one prediction must be above another for their slope to count


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
    """measured = offset_gb + factor × predicted; half of the `seen` measurements lie within `spread` (a share) of it.

    Beyond the largest that was seen, a factor below 1 is not continued.
    """

    factor: float
    offset_gb: float
    spread: float
    baseline_gb: float
    seen: int
    largest_gb: float

    def __str__(self) -> str:
        return (
            f"× {self.factor:.2f} {self.offset_gb:+.2f} GB on what is above the process itself, half of the {self.seen} measurements here "
            f"within ± {self.spread:.1%}"
        )

    def apply(self, predicted_gb: float) -> float:
        """Both above the process itself."""
        beyond = max(0.0, predicted_gb - self.largest_gb)
        return self.offset_gb + self.factor * (predicted_gb - beyond) + max(1.0, self.factor) * beyond


def fit(measured: Sequence[Measurement]) -> Correction | None:
    """The line that measurements and prior belief agree on; None below ENOUGH. Medians, so that a stray one does not count."""
    if len(measured) < ENOUGH:
        return None
    pairs = sorted((each.predicted_gb, each.measured_gb) for each in measured)
    factor, offset = _line(pairs)
    spread = statistics.median(abs(y / (offset + factor * x) - 1) for x, y in pairs)
    return Correction(factor, offset, spread, statistics.median(each.baseline_gb for each in measured), len(measured), pairs[-1][0])


def _line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(factor, offset) of sorted (predicted, measured).

    The excess at the median prediction is taken as measured. How it is shared out between factor and offset is the most probable
    way, given the spreads above and the slope of Theil and Sen, as exact as the measurements' scatter around it lets it be.
    """
    middle = statistics.median(x for x, _ in pairs)
    slopes = [(y2 - y1) / (x2 - x1) - 1 for (x1, y1), (x2, y2) in combinations(pairs, 2) if x2 > APART * x1]
    slope = statistics.median(slopes) if slopes else 0.0
    excess = statistics.median(y - x - slope * (x - middle) for x, y in pairs)
    scatter = NORMAL * statistics.median(abs(y - x - slope * (x - middle) - excess) for x, y in pairs)
    noise = max(scatter, EXACT * statistics.median(y for _, y in pairs))
    exactness = sum((x - middle) ** 2 for x, _ in pairs) / noise**2 if slopes else 0.0
    share = excess * middle / OFFSET_SPREAD_GB**2 + slope * exactness
    share /= FACTOR_SPREAD**-2 + (middle / OFFSET_SPREAD_GB) ** 2 + exactness
    return 1 + share, excess - share * middle


def measurements(workspace: Workspace, device: str) -> list[Measurement]:
    """The newest of this device and of these formulas."""
    lines = (line for line in read_lines(workspace.calibration) if line.get("formulas") == FORMULAS and line.get("device") == device)
    return [Measurement.model_validate(line) for line in lines][-REMEMBERED:]
