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
WIDE = 2.0  # largest over smallest prediction, from which on a slope can be told from an offset
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
    """A line through the measurements (Theil and Sen: the median slope, so that a stray one does not count); where they are too
    alike for a slope, their median ratio. None below ENOUGH."""
    if len(measured) < ENOUGH:
        return None
    pairs = sorted((each.predicted_gb, each.measured_gb) for each in measured)
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(pairs, 2) if x2 > APART * x1]
    if pairs[-1][0] >= WIDE * pairs[0][0] and statistics.median(slopes) > 0:
        factor = statistics.median(slopes)
        offset = statistics.median(y - factor * x for x, y in pairs)
    else:
        factor, offset = statistics.median(y / x for x, y in pairs), 0.0
    spread = statistics.median(abs(y / (offset + factor * x) - 1) for x, y in pairs)
    return Correction(factor, offset, spread, statistics.median(each.baseline_gb for each in measured), len(measured))


def measurements(workspace: Workspace, device: str) -> list[Measurement]:
    """The newest of this device and of these formulas."""
    lines = (line for line in read_lines(workspace.calibration) if line.get("formulas") == FORMULAS and line.get("device") == device)
    return [Measurement.model_validate(line) for line in lines][-REMEMBERED:]
