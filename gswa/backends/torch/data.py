"""Chunks as tensors."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from gswa.backends.torch.loss import IGNORED
from gswa.dataset import Rendered, Tokenizer, render
from gswa.records import Chunk


class Chunks(Dataset[Rendered]):
    """Rendered chunks, in the order of their file."""

    def __init__(self, chunks: Iterable[Chunk], tokenizer: Tokenizer) -> None:
        self.rows: list[Rendered] = []
        self.weights: list[float] = []
        for chunk in chunks:
            self.rows.append(render(tokenizer, chunk.messages))
            self.weights.append(chunk.weight)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Rendered:
        return self.rows[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens per row."""
        return [len(row.ids) for row in self.rows]


def collate(rows: Sequence[Rendered], pad: int) -> dict[str, torch.Tensor]:
    """Rows → input_ids, attention_mask, labels of shape (batch, longest row); labels are -100 where no loss is."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORED)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        length = len(row.ids)
        ids[i, :length] = torch.tensor(row.ids)
        labels[i, :length] = torch.where(torch.tensor(row.mask), ids[i, :length], IGNORED)
        attention[i, :length] = 1
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def pad_token(tokenizer: Tokenizer) -> int:
    """Any id will do: padding is masked in attention and loss."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id or 0)


def train_loader(data: Chunks, steps: Sequence[Sequence[int]], batch_size: int, pad: int) -> DataLoader[Any]:
    """Every micro-batch of the whole run in order; a step's rows are cut into micro-batches of at most `batch_size`."""
    micro = [list(step[i : i + batch_size]) for step in steps for i in range(0, len(step), batch_size)]
    return DataLoader(data, batch_sampler=micro, collate_fn=partial(collate, pad=pad))


def eval_batches(data: Chunks, batch_size: int, pad: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """All rows once, the longest first: what does not fit fails at once."""
    order = sorted(range(len(data)), key=lambda i: len(data[i].ids), reverse=True)
    for start in range(0, len(order), batch_size):
        batch = collate([data[i] for i in order[start : start + batch_size]], pad)
        yield {name: tensor.to(device) for name, tensor in batch.items()}
