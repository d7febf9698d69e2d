"""What a short micro-batch keeps, rather than makes again, in the memory that the largest one needed.

A run's memory is planned, and rehearsed, for its longest rows. A shorter micro-batch leaves some of that: enough, most often, for what
takes longest to make again. By the formulas of `gswa.memory`, so that its target tokens count as its rows do.
"""

from typing import Any, Literal, TypeAlias

import torch

from gswa.backends.torch.products import by_amx
from gswa.config import RunConfig
from gswa.errors import ConfigError
from gswa.memory import LEAN_NORMS, NUMBER, QUERY_BLOCK, Rows, Shape, activations, adapted_blocks, by_blocks, read_shape

# Attention's weights; silu(gate) and x·Aᵀ of an MLP; x·Aᵀ of other layers with one input; what a norm makes.
Kind: TypeAlias = Literal["attention", "mlp", "adapter", "norm"]

INEXACT = 0.03  # of the most: one moment of the step is counted up to 1 % too high, another up to 2 % too low


class Room:
    """Counts, for the micro-batch under way, how many of each kind may be kept."""

    def __init__(self, shape: Shape, config: RunConfig, attention: bool = True) -> None:
        """`attention`: whether it has weights to keep."""
        self._shape, self._config, self._attention = shape, config, attention
        self._most = 0.0
        self._places: dict[Kind, int] = {}

    def begin(self, rows: int, width: int, targets: int) -> None:
        """A training micro-batch of `rows` × `width` tokens, so many of which carry loss, is under way."""
        config = self._config.replace(batch_size=rows)
        needed = activations(self._shape, config, Rows(width, width, targets / (rows * width)))
        needed -= rows * width * self._shape.hidden * NUMBER[config.number_format]  # so much a token the formulas may be off
        self._most = max(self._most, needed)
        left = max(0.0, (1 - INEXACT) * self._most - needed)
        for kind, (count, size) in self._sizes(config, width).items():
            self._places[kind] = min(count, int(left // size))
            left -= self._places[kind] * size

    def _sizes(self, config: RunConfig, width: int) -> dict[Kind, tuple[int, float]]:
        """How many there are of each kind and how large one is, in bytes; what saves the most time comes first."""
        shape, blocks = self._shape, adapted_blocks(self._shape, config)
        a_number = NUMBER[config.number_format] * config.batch_size * width
        sizes: dict[Kind, tuple[int, float]] = {}
        if self._attention:
            sizes["attention"] = blocks, attention_weights(shape, config, width)
        if by_blocks(shape, config):
            sizes["mlp"] = blocks, a_number * (shape.inner + 3 * config.lora_rank)
        sizes["adapter"] = 2 * blocks, a_number * 3 * config.lora_rank
        if shape.family in LEAN_NORMS:
            sizes["norm"] = 2 * blocks, a_number * shape.hidden
        return sizes

    def take(self, kind: Kind) -> bool:
        """Whether one more may be kept."""
        if not self._places.get(kind):
            return False
        self._places[kind] -= 1
        return True


def may_keep(module: Any, kind: Kind) -> bool:
    """Whether this part of a block may keep one more of that kind; never where no room was given."""
    room = getattr(module, "room", None)
    return room is not None and room.take(kind)


def attention_weights(shape: Shape, config: RunConfig, width: int) -> float:
    """Bytes of one block's: those of a query up to the end of its block of queries."""
    number = NUMBER[config.number_format]
    return number * config.batch_size * shape.heads * width * (width + QUERY_BLOCK[number]) / 2


def give_room(base: Any, config: RunConfig) -> None:
    """To the attention, the MLP and the norms of each block; none where memory is not foretold, on a GPU, and where blocks are gone
    through again."""
    if config.device != "cpu" or config.gradient_checkpointing:
        return
    try:
        room = Room(read_shape(base.config.to_dict()), config, attention=not by_amx(base.get_input_embeddings().weight))
    except ConfigError:
        return
    base.room = room
    for block in base.get_decoder().layers:
        for part in (*block.children(), *(layer for layer in block.modules() if isinstance(layer, torch.nn.Linear))):
            part.room = room  # not attention's own norms, of each head, which are not counted
