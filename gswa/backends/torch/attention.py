"""Causal attention on the CPU as matrix products over blocks of queries; torch's own kernel takes up to twice the time there.

A block of 64 queries meets the keys up to its last one, so that the half above the diagonal is never computed, and its
scores (heads × 64 × keys) stay in the cache. Kept for the backward pass: q, k, v, the output and one number per query, as
in FlashAttention-2 (arXiv 2307.08691, algorithm 2). Measured on two CPUs, forward and backward, against
scaled_dot_product_attention: fp32 0.75 to 1.0 of its time, bf16 0.45 to 0.8.
"""

from collections.abc import Iterator
from typing import Any

import torch

NAME = "gswa_causal"
BLOCK = 64  # queries


class CausalAttention(torch.autograd.Function):
    """softmax(q·kᵀ·scale)·v under the causal mask. q (B, H, T, D); k and v (B, K, T, D) with H a multiple of K."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        q, k, v = _grouped(query, key.shape[1]) * scale, key.flatten(0, 1), value.flatten(0, 1)
        out = torch.empty_like(q)
        normaliser = torch.empty(*q.shape[:-1], 1, dtype=torch.float32)
        for block, seen in _blocks(q.shape[2]):
            scores = _scores(q[:, :, block], k[:, :seen])
            _future(scores, block).masked_fill_(_triangle(block), float("-inf"))
            peak = scores.amax(-1, keepdim=True)
            weights = scores.sub_(peak).exp_()
            total = weights.sum(-1, keepdim=True)
            out[:, :, block] = _times(weights.to(v.dtype), v[:, :seen]) / total
            normaliser[:, :, block] = total.log_().add_(peak)
        ctx.save_for_backward(q, k, v, out, normaliser)
        ctx.scale, ctx.keys = scale, key.shape
        return out.view(query.shape)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        q, k, v, out, normaliser = ctx.saved_tensors
        shape = upstream[0].shape
        gradient = upstream[0].reshape(q.shape)
        inner = (gradient * out).sum(-1, keepdim=True, dtype=torch.float32)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block, seen in _blocks(q.shape[2]):
            g = gradient[:, :, block]
            weights = _scores(q[:, :, block], k[:, :seen]).sub_(normaliser[:, :, block]).exp_()
            _future(weights, block).masked_fill_(_triangle(block), 0.0)
            grad_v[:, :seen].baddbmm_(_flat(weights.to(g.dtype)).mT, _flat(g))
            slope = _scores(g, v[:, :seen]).sub_(inner[:, :, block]).mul_(weights).to(g.dtype)
            grad_q[:, :, block] = _times(slope, k[:, :seen])
            grad_k[:, :seen].baddbmm_(_flat(slope).mT, _flat(q[:, :, block]))
        return grad_q.mul_(ctx.scale).view(shape), grad_k.view(ctx.keys), grad_v.view(ctx.keys), None


def _grouped(query: torch.Tensor, key_heads: int) -> torch.Tensor:
    """(B, H, T, D) → (B·K, H/K, T, D): the queries that share a key head, so that one product serves them all."""
    batch, heads, length, width = query.shape
    return query.reshape(batch * key_heads, heads // key_heads, length, width)


def _blocks(length: int) -> Iterator[tuple[slice, int]]:
    """Blocks of queries, each with how many keys it may see."""
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        yield slice(start, end), end


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """(N, G, n, x) → (N, G·n, x)."""
    return tensor.flatten(1, 2)


def _scores(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N, G, n, D) · (N, e, D)ᵀ → (N, G, n, e) in fp32."""
    return torch.bmm(_flat(left), right.mT).float().view(*left.shape[:3], -1)


def _times(weights: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N, G, n, e) · (N, e, D) → (N, G, n, D)."""
    return torch.bmm(_flat(weights), right).view(*weights.shape[:3], -1)


def _future(scores: torch.Tensor, block: slice) -> torch.Tensor:
    """The block on the diagonal, where alone there are keys that a query may not see."""
    return scores[..., block.start :]


def _triangle(block: slice) -> torch.Tensor:
    size = block.stop - block.start
    return torch.ones(size, size, dtype=torch.bool).triu_(1)


def attention(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any) -> tuple[Any, None]:
    """Transformers' attention interface: ours for a whole causal sequence, torch's for anything else (a mask, a cache, dropout)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    whole = mask is None and query.shape[2] == key.shape[2] > 1 and query.device.type == "cpu" and getattr(module, "is_causal", True)
    if not whole or options.get("dropout") or options.get("softcap") or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    out: torch.Tensor = CausalAttention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]  # torch's own
    return out.transpose(1, 2).contiguous(), None


def register() -> str:
    """Make it known to transformers, with the masks that sdpa gets; gives the name to load a model with."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
