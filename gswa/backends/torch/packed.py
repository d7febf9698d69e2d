"""Rows end to end in one line, with no padding, for an attention kernel that takes sequences of any length.

rows              a a a a a    b b b
input_ids         a a a a a b b b           (1, T)
position_ids      0 1 2 3 4 0 1 2           (1, T): the rotary embedding starts anew with each row
cu_seq_lens_q     0 5 8                     (rows + 1,): no row attends to another; transformers hands it through to attention
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from inspect import signature
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch

from gswa.backends.torch.attention import CausalAttention
from gswa.backends.torch.fused import near
from gswa.backends.torch.loss import IGNORED
from gswa.dataset import Rendered

NAME = "gswa_packed"


def pack(rows: Sequence[Rendered]) -> dict[str, Any]:
    """`tokens` (rows,) are the rows' lengths. A row's first token is nobody's target: the token before it is another row's."""
    lengths = [len(row.ids) for row in rows]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    ids = torch.tensor([token for row in rows for token in row.ids], dtype=torch.long)
    carries = torch.tensor([carries and place > 0 for row in rows for place, carries in enumerate(row.mask)], dtype=torch.bool)
    positions = torch.tensor([place for length in lengths for place in range(length)], dtype=torch.long)
    return {
        "input_ids": ids[None],
        "labels": torch.where(carries, ids, IGNORED)[None],
        "position_ids": positions[None],
        "cu_seq_lens_q": bounds,
        "max_length_q": max(lengths, default=0),
        "tokens": torch.tensor(lengths),
    }


# -- attention -------------------------------------------------------------------------------------------------------------
def attention(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any) -> tuple[Any, None]:
    """Transformers' attention interface: each row of a packed line by itself; torch's own attention for anything else."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    bounds = options.get("cu_seq_lens_q")
    if bounds is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    return each_row(query, key, value, bounds, int(options["max_length_q"]), scale), None


def each_row(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
    """Causal attention within each row. query (1, H, T, D), key and value (1, K, T, D), bounds (rows + 1,) → (1, T, H, D)."""
    if query.device.type == "cpu":
        pieces = [slice(start, end) for start, end in pairwise(bounds.tolist())]
        parts: list[torch.Tensor] = [
            CausalAttention.apply(query[:, :, piece], key[:, :, piece], value[:, :, piece], scale, False)  # type: ignore[no-untyped-call]  # torch's own
            for piece in pieces
        ]
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous()
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    grouped: dict[str, Any] = {"enable_gqa": True} if q.shape[1] != k.shape[1] and _wants_to_be_told() else {}
    out: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=(-1, 0), **grouped)
    return out[None]  # type: ignore[no-any-return]


@cache
def _wants_to_be_told() -> bool:
    """Of grouped queries, which the kernel of torch 2.11 takes as they come."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in signature(varlen_attn).parameters


def register() -> str:
    """Make it known to transformers; gives the name to load a model with."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)
    return NAME


def _mask(q_length: int, kv_length: int, attention_mask: Any = None, **options: Any) -> Any:
    """None for whole sequences, packed or not: transformers would draw a mask of T × T for a packed line."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **options)


# -- which way -------------------------------------------------------------------------------------------------------------
def use_packed_attention(base: Any) -> bool:
    """Give a model on a CUDA device the kernel for packed lines, if the model's attention is plain and the kernel is there and right."""
    config = base.config
    special = any(getattr(config, name, None) for name in ("sliding_window", "attn_logit_softcapping", "attention_dropout"))
    plain = not special and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    if base.device.type != "cuda" or config._attn_implementation != "sdpa" or not plain:
        return False
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    if not is_right(base.device, base.dtype, heads, getattr(config, "num_key_value_heads", None) or heads, width):
        return False
    base.set_attn_implementation(register())
    return True


def is_right(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int) -> bool:
    """Whether the kernel runs on this device, forward and backward, and says what torch's own attention says of each row alone."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 24, width, generator=generator).to(device, dtype).requires_grad_() for n in (heads, key_heads, key_heads))
    alone = torch.nn.functional.scaled_dot_product_attention
    rows = [alone(q[:, :, row], k[:, :, row], v[:, :, row], is_causal=True, enable_gqa=True) for row in (slice(0, 17), slice(17, 24))]
    theirs = torch.cat(rows, dim=2).transpose(1, 2)
    try:
        ours = each_row(q, k, v, torch.tensor([0, 17, 24], dtype=torch.int32, device=device), 17, width**-0.5)
        found = torch.autograd.grad(ours.square().sum(), (q, k, v))
    except (ImportError, RuntimeError, TypeError, ValueError):  # no such kernel in this torch, or not for this card, format or width
        return False
    wanted = torch.autograd.grad(theirs.square().sum(), (q, k, v))
    return all(near(a, b) for a, b in zip((ours, *found), (theirs, *wanted), strict=True))


class Trial(NamedTuple):
    seconds: float
    loss: float  # summed over the target tokens


def tried(model: Any, batches: Iterable[Mapping[str, Any]]) -> Trial:
    """A forward and a backward pass over micro-batches, after a first time that is not counted; no gradient stays."""
    given = [{name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()} for batch in batches]
    seconds = loss = 0.0
    for _ in range(2):
        began, loss = time.perf_counter(), 0.0
        for batch in given:
            one = model(**{name: value for name, value in batch.items() if name != "tokens"}, num_items_in_batch=1).loss
            one.backward()
            loss += float(one.detach())
        seconds = time.perf_counter() - began
        model.zero_grad(set_to_none=True)
    return Trial(seconds, loss)
