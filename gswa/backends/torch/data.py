"""Chunks as tensors."""

import json
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from gswa.backends.torch.loss import IGNORED
from gswa.backends.torch.packed import pack
from gswa.config import RunConfig
from gswa.dataset import Rendered, Tokenizer, render
from gswa.packing import micro_batches
from gswa.records import Chunk


class Chunks(Dataset[Rendered]):
    """The chunks of some files, in their order; a missing file is empty. Each is read and rendered when it is asked for, so that
    a large corpus neither fills memory nor keeps the first step waiting."""

    def __init__(self, files: Sequence[Path], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.files = [path.open("rb") for path in files if path.is_file()]
        self.lengths = array("l")  # tokens per row
        self.places: list[tuple[int, int]] = []  # file, byte
        for number, file in enumerate(self.files):
            place = 0
            for line in file:
                self.lengths.append(json.loads(line)["tokens"])
                self.places.append((number, place))
                place += len(line)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Rendered:
        return render(self.tokenizer, self.chunk(index).messages)

    def chunk(self, index: int) -> Chunk:
        number, place = self.places[index]
        self.files[number].seek(place)
        return Chunk.model_validate_json(self.files[number].readline())

    def longest(self, count: int) -> list[Rendered]:
        return [self[i] for i in sorted(range(len(self)), key=lambda i: -self.lengths[i])[:count]]


def collate(rows: Sequence[Rendered], pad: int, multiple: int = 1) -> dict[str, torch.Tensor]:
    """Rows → input_ids and labels of shape (batch, longest row up to a multiple), padded on the right; labels are -100 where
    no loss is.

    No attention mask: a causal model's words never see the padding after them, and without a mask attention takes its
    fastest kernel. `tokens` (batch,) are the rows' own lengths.
    """
    lengths = [len(row.ids) for row in rows]
    ids = torch.full((len(rows), -(-max(lengths) // multiple) * multiple), pad)
    labels = torch.full_like(ids, IGNORED)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[i, :length] = torch.tensor(row.ids)
        labels[i, :length] = torch.where(torch.tensor(row.mask), ids[i, :length], IGNORED)
    return {"input_ids": ids, "labels": labels, "tokens": torch.tensor(lengths)}


def width_multiple(config: RunConfig) -> int:
    """Of a batch's width. In bf16 on a CPU oneDNN compiles and keeps a kernel for every shape, about 5 MB for each new width: with
    167 widths a step's memory grew from 0.5 to 1.25 GB. On CUDA multiples of 8 are what tensor cores want."""
    if config.number_format == "fp32":
        return 1
    return 16 if config.device == "cpu" else 8


def pad_token(tokenizer: Tokenizer) -> int:
    """Any id will do: padding is masked in attention and loss."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id or 0)


def train_loader(data: Chunks, steps: Sequence[Sequence[int]], config: RunConfig, pad: int, capacity: int | None = None) -> DataLoader[Any]:
    """Every micro-batch of the whole run in order: rows side by side, or packed into lines of at most `capacity` tokens."""
    micro = [rows for step in steps for rows in micro_batches(step, config.batch_size, data.lengths, capacity)]
    side_by_side = partial(collate, pad=pad, multiple=width_multiple(config))
    return DataLoader(data, batch_sampler=micro, collate_fn=side_by_side if capacity is None else pack)


def eval_batches(data: Chunks, config: RunConfig, pad: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """All rows once, the longest first: what does not fit fails at once."""
    order = sorted(range(len(data)), key=lambda i: -data.lengths[i])
    for start in range(0, len(order), config.eval_batch_size):
        batch = collate([data[i] for i in order[start : start + config.eval_batch_size]], pad, width_multiple(config))
        del batch["tokens"]
        yield {name: tensor.to(device) for name, tensor in batch.items()}
