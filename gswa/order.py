"""The order of the steps: which chunks each optimizer step of a run sees, the same for every backend and batch size."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gswa.files import read_lines
from gswa.records import Chunk, Record

# Length-grouped batches are cut from windows of so many chunks, and so many steps at least: wide enough to pad under 2 %, narrow enough
# to stay random. Eight steps of 4 chunks padded 6.6 % (628 chunks of 270 tokens, 2026-11).
WINDOW_CHUNKS, WINDOW_STEPS = 128, 8
# So many chunks of like length come one after another, in a step or in several: one width in a row where devices make kernels anew
# for each (oneDNN on a CPU in 16 bits: a tenth of a run).
ALIKE = 16
ORDER_FILE, REST_FILE = "order.json", "rest.jsonl"
Span = tuple[int, int]


class Turn(NamedTuple):
    """One showing of a chunk: its index in the training file, the epoch (from 0), and which of the epoch's copies of it."""

    chunk: int
    epoch: int = 0
    copy: int = 0


def shown_in_epoch(weights: Mapping[str, float], epoch: int, epochs: float | None, seed: int) -> list[tuple[str, int]]:
    """(example, copy) that an epoch shows, in no order: of weight 2.5 half of the examples are there 3 times, half 2, then the other way.

    Of a last, partial epoch the same examples whatever length they are split to. `epochs` None: there is no last one.
    """
    phases = _phases(weights, seed)
    counts = {name: int(weight * (epoch + 1) + phases[name]) - int(weight * epoch + phases[name]) for name, weight in weights.items()}
    shown = [(name, copy) for name, count in counts.items() for copy in range(count)]
    share = 1.0 if epochs is None else min(1.0, epochs - epoch)
    if share < 1:
        random.Random(f"{seed}:{epoch}:share").shuffle(shown)
        return shown[: max(1, round(len(shown) * share))]
    return shown


def _phases(weights: Mapping[str, float], seed: int) -> dict[str, float]:
    """Evenly spaced over the examples of one weight, so that each epoch shows them n × weight times, rounded once for all of them
    (Hermite's identity: the sum of floor(x + i/n) over i is floor(nx))."""
    alike: dict[float, list[str]] = defaultdict(list)
    for name in sorted(weights):
        alike[weights[name]].append(name)
    phases = {}
    for weight, names in alike.items():
        random.Random(f"{seed}:{weight}:phases").shuffle(names)
        phases.update({name: (rank + 0.5) / len(names) for rank, name in enumerate(names)})
    return phases


def plan_steps(
    epochs: Iterable[Sequence[Turn]], lengths: Sequence[int], effective_batch: int, seed: int, steps: int | None = None
) -> list[list[Turn]]:
    """Which chunks each optimizer step sees: the same for every micro-batch size.

    Chunks of like length (in tokens, by index) share a step, so that little is padded, and small steps of like length follow each
    other; an epoch's remainder opens the next epoch, so that only the last step can be short. With `steps` that many and no more,
    of epochs that need not end. The first step is the one with the longest chunk: what cannot fit fails at once.
    """
    planned: list[list[Turn]] = []
    carry: list[Turn] = []
    for number, turns in enumerate(epochs):
        order = list(turns)
        random.Random(f"{seed}:{number}:{len(order)}").shuffle(order)
        pool = carry + order
        full = len(pool) - len(pool) % effective_batch
        grouped = _length_grouped(pool[:full], lengths, effective_batch, random.Random(f"{seed}:{number}:steps"))
        if grouped and not planned:
            grouped.insert(0, grouped.pop(max(range(len(grouped)), key=lambda step: max(lengths[turn.chunk] for turn in grouped[step]))))
        planned += grouped
        carry = pool[full:]
        if steps is not None and len(planned) >= steps:
            return planned[:steps]
    return [*planned, sorted(carry, key=lambda turn: lengths[turn.chunk])] if carry else planned


def _length_grouped(pool: list[Turn], lengths: Sequence[int], effective_batch: int, rng: random.Random) -> list[list[Turn]]:
    window = effective_batch * max(WINDOW_STEPS, WINDOW_CHUNKS // effective_batch)
    alike = max(1, ALIKE // effective_batch)
    groups = []
    for start in range(0, len(pool), window):
        part = sorted(pool[start : start + window], key=lambda turn: lengths[turn.chunk])
        steps = [part[i : i + effective_batch] for i in range(0, len(part), effective_batch)]
        groups += [steps[i : i + alike] for i in range(0, len(steps), alike)]
    rng.shuffle(groups)
    return [step for group in groups for step in group]


class Order(Record):
    """The steps from `start` on. Chunk indices count through train.jsonl and on through rest.jsonl.

    `share_before`: of the run's text, what was trained before `start`; `shares`: what is trained after each step. They
    count characters of targets, which a new split leaves as they are, or steps where `iters` were asked for; the learning
    rate depends on them alone. `epochs`: passes over the text done after each step. `lost`: spans that no chunk of this
    length could hold, with the reason.
    """

    schema_version: int = 1
    start: int
    share_before: float
    shares: tuple[float, ...]
    epochs: tuple[float, ...]
    steps: tuple[tuple[Turn, ...], ...]
    lost: tuple[tuple[str, Span, str], ...] = ()


def read_order(folder: Path) -> Order | None:
    file = folder / ORDER_FILE
    return Order.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None


def training_files(folder: Path) -> tuple[Path, Path]:
    """train.jsonl, then rest.jsonl, as the indices of an order count their chunks."""
    return folder / "train.jsonl", folder / REST_FILE


def read_training_chunks(folder: Path) -> Iterator[Chunk]:
    for file in training_files(folder):
        yield from (Chunk.model_validate(line) for line in read_lines(file))
