"""The errors a user can meet, each with the exit code of the command line.

GswaError                 1  a run failed
├── ConfigError           2  a flag, a YAML key or a setting that cannot be
├── CorpusError           3  no document with usable text
├── DataError             3  training data that cannot be used
├── TrainingError         1  the child that trains ended without a result
│   └── OutOfMemory       1  it ended for want of memory: the only one that the ladder answers
├── NoPlan                1  the planner found no settings that train on this machine
└── Interrupted      130/75  Ctrl-C or SIGTERM; what was trained is in the last checkpoint
"""

from typing import Literal

Phase = Literal["load", "train", "evaluate", "save", "resume"]


class GswaError(Exception):
    """Says what is wrong, why, and what to do; shown without a traceback."""

    exit_code = 1


class ConfigError(GswaError):
    exit_code = 2


class CorpusError(GswaError):
    exit_code = 3


class DataError(GswaError):
    exit_code = 3


class TrainingError(GswaError):
    pass


class OutOfMemory(TrainingError):
    """Memory ran out in `phase` at optimizer step `step` (0: before the first one was done).

    `peak_memory_gb` is the largest figure measured in the attempt, None where it died before any.
    """

    def __init__(self, message: str, phase: Phase, step: int = 0, peak_memory_gb: float | None = None) -> None:
        super().__init__(message)
        self.phase = phase
        self.step = step
        self.peak_memory_gb = peak_memory_gb


class NoPlan(GswaError):
    pass


class Interrupted(GswaError):
    """`exit_code` is 130 after Ctrl-C and 75 after SIGTERM."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
