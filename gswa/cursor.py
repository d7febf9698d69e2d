"""Which text is trained at which step, and what is left of it when the limit falls: the data cursor.

The order of a run is written down once per length, in `data/<n>/order.json`, so that a step number says exactly which
spans were trained. A smaller micro-batch goes on in the same order. After a length rung the order before it, up to the
checkpoint's step, says what is trained already; only the rest is split anew, into `data/<n>/rest.jsonl`:

    epoch 0, split at 1024   [=A1=][=A2=][=B1=][=C1=]          trained up to the checkpoint: A1, B1
    the rest, split at 768         [A2'][A2"]   [C1'][C1"]     then epoch 1, all of it split at 768
"""

from collections import defaultdict
from itertools import accumulate, count
from math import ceil
from pathlib import Path

from gswa.basemodel import resolve_model
from gswa.config import RunConfig
from gswa.dataset import load_tokenizer
from gswa.files import write_atomically, write_lines
from gswa.order import ORDER_FILE, REST_FILE, Order, Turn, plan_steps, read_order, read_training_chunks, shown_in_epoch
from gswa.parts import Rules, divide_span
from gswa.records import Chunk, Example
from gswa.rundir import RunDir
from gswa.spans import Span

Shown = tuple[str, int, int]  # (example, epoch, copy)


def write_order(run: RunDir, config: RunConfig, start: int) -> Order:
    """The order for the run's present length, from step `start` on; kept where it is there already and begins no later.

    A checkpoint older than the order's start (a newer one was damaged) makes the order anew.
    """
    folder = run.chunks(config.max_seq_length)
    order = read_order(folder)
    if order is not None and order.start <= start:
        return order
    trained = trained_spans(run, start, above=config.max_seq_length) if start else {}
    rest, lost = _rest(run, config, trained)
    write_lines(folder / REST_FILE, [chunk for chunks in rest.values() for chunk in chunks])
    order = _plan(folder, config, start, rest, lost)
    write_atomically(folder / ORDER_FILE, order.model_dump_json())
    return order


# -- what is trained -------------------------------------------------------------------------------------------------------
def trained_spans(run: RunDir, step: int, above: int = 0) -> dict[Shown, list[Span]]:
    """Spans of each example's target that were trained up to `step`, by example, epoch and copy.

    Lengths only ever fall, so the orders follow each other by length; each held until the next one's start.
    """
    orders = [(folder, order) for folder in _folders(run, above) if (order := read_order(folder)) is not None]
    found: dict[Shown, list[Span]] = defaultdict(list)
    for number, (folder, order) in enumerate(orders):
        end = min([step, *(later.start for _, later in orders[number + 1 :])])
        chunks = list(read_training_chunks(folder))
        for turns in order.steps[: max(0, end - order.start)]:
            for turn in turns:
                chunk = chunks[turn.chunk]
                found[chunk.id, turn.epoch, turn.copy].append(chunk.span)
    return found


def _folders(run: RunDir, above: int) -> list[Path]:
    folders = [path for path in (run.path / "data").iterdir() if path.name.isdigit() and int(path.name) > above]
    return sorted(folders, key=lambda path: -int(path.name))


def gaps(spans: list[Span], text: str) -> list[Span]:
    """What of the text the spans leave over, without the white space at its ends."""
    found, position = [], 0
    for start, end in [*sorted(spans), (len(text), len(text))]:
        if text[position:start].strip():
            piece = text[position:start]
            found.append((start - len(piece.lstrip()), position + len(piece.rstrip())))
        position = max(position, end)
    return found


# -- what is left ----------------------------------------------------------------------------------------------------------
def _rest(run: RunDir, config: RunConfig, trained: dict[Shown, list[Span]]) -> tuple[dict[Shown, list[Chunk]], list[tuple[str, Span, str]]]:
    """Of every showing that was begun, the chunks of what is left of it; an empty list where nothing is."""
    if not trained:
        return {}, []
    rules = Rules(load_tokenizer(resolve_model(config.model_id)), config.max_seq_length, config.strategy)
    by_example: dict[str, list[Shown]] = defaultdict(list)
    for shown in trained:
        by_example[shown[0]].append(shown)
    rest: dict[Shown, list[Chunk]] = {}
    lost: list[tuple[str, Span, str]] = []
    for example in run.read_examples("train"):
        for shown in by_example.get(example.id, ()):
            rest[shown], failed = _divide_gaps(example, gaps(trained[shown], example.target), rules)
            lost += failed
    return rest, lost


def _divide_gaps(example: Example, spans: list[Span], rules: Rules) -> tuple[list[Chunk], list[tuple[str, Span, str]]]:
    divided = [(span, divide_span(example, span, rules)) for span in spans]
    chunks = [chunk for _, one in divided for chunk in one.chunks]
    return chunks, [(example.id, span, one.reason) for span, one in divided if not one.chunks]


# -- the plan --------------------------------------------------------------------------------------------------------------
def _plan(folder: Path, config: RunConfig, start: int, rest: dict[Shown, list[Chunk]], lost: list[tuple[str, Span, str]]) -> Order:
    chunks = list(read_training_chunks(folder))
    fresh = len(chunks) - sum(map(len, rest.values()))
    whole: dict[str, list[int]] = defaultdict(list)
    for index, chunk in enumerate(chunks[:fresh]):
        whole[chunk.id].append(index)
    numbers = count(fresh)
    begun = {shown: [next(numbers) for _ in parts] for shown, parts in rest.items()}
    weights = {name: chunks[indices[0]].weight for name, indices in whole.items()}

    def shown(epoch: int) -> list[tuple[str, int]]:
        return shown_in_epoch(weights, epoch, config.epochs, config.seed)

    def turns(epoch: int) -> list[Turn]:
        return [Turn(i, epoch, copy) for name, copy in shown(epoch) for i in begun.get((name, epoch, copy), whole[name])]

    epochs = count() if config.epochs is None else range(ceil(config.epochs))
    wanted = None if config.iters is None else config.iters - start
    steps = plan_steps(map(turns, epochs), [chunk.tokens for chunk in chunks], config.effective_batch_size, config.seed, wanted)
    size = {name: sum(len(chunks[i].target) for i in indices) for name, indices in whole.items()}
    ahead = [sum(len(chunks[turn.chunk].target) for turn in step) for step in steps]
    if config.epochs is None:
        done = start * (sum(ahead) / max(1, len(ahead)))
        shares = [(start + number) / (config.iters or 1) for number in range(len(steps) + 1)]
    else:
        total = sum(size[name] for epoch in range(ceil(config.epochs)) for name, _ in shown(epoch))
        done = max(0.0, total - sum(ahead))
        shares = [min(1.0, characters / total) for characters in accumulate(ahead, initial=done)]
    passes = [characters / sum(size.values()) for characters in accumulate(ahead, initial=done)]
    return Order(
        start=start,
        share_before=shares[0],
        shares=tuple(shares[1:]),
        epochs=tuple(passes[1:]),
        steps=tuple(map(tuple, steps)),
        lost=tuple(lost),
    )
