"""Cross-entropy over target tokens only, in chunks: a vocabulary of 152 k costs megabytes, not gigabytes."""

from collections.abc import Callable
from types import MethodType
from typing import Any, TypeAlias

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from gswa.backends.torch.products import linear
from gswa.memory import FILLED, LOSS_CHUNK

IGNORED = -100

CrossEntropy: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any], torch.Tensor]


class ChunkedCrossEntropy(torch.autograd.Function):
    """sum(-log p(target)) / divisor for a frozen head; the logits of more than one chunk never exist at once.

    hidden (N, H), head (V, H), targets (N,). The gradient of `hidden` is computed in the forward pass, while the chunk's
    logits are at hand: d loss / d hidden = (softmax(logits) - onehot(target)) @ head / divisor.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, divisor: Any) -> torch.Tensor:
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), LOSS_CHUNK):
            rows = slice(start, start + LOSS_CHUNK)
            target = targets[rows, None]
            # The logits; one tensor of them, changed in place, is all there ever is.
            weights = linear(_filled(hidden[rows], head.dtype), head)[: len(target)].float()
            peak, chosen = weights.amax(-1, keepdim=True), weights.gather(1, target)
            torch.softmax(weights, -1, out=weights)
            # log sum exp(logits) = peak - log max(softmax): the largest probability is exp(peak) / sum exp(logits).
            total += (peak - weights.amax(-1, keepdim=True).log() - chosen).sum()
            if gradient is not None:
                slope = weights.scatter_add_(1, target, torch.full_like(chosen, -1)).div_(divisor)
                gradient[rows] = linear(_filled(slope, head.dtype), head.t())[: len(target)]
                del slope
            del weights
        ctx.save_for_backward(gradient)
        mean: torch.Tensor = total / divisor
        return mean

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (None if gradient is None else gradient * upstream[0]), None, None, None


def _filled(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """With rows of zeros up to a multiple of FILLED, in 16 bits on a CPU, where oneDNN compiles a kernel for every count of rows."""
    count, width = x.shape
    if x.device.type != "cpu" or dtype.itemsize != 2 or count % FILLED == 0:
        return x.to(dtype)
    filled = x.new_zeros(count + -count % FILLED, width, dtype=dtype)
    filled[:count] = x
    return filled


def chunked(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, divisor: Any) -> torch.Tensor:
    """sum(-log p(target)) / divisor of hidden (N, H), head (V, H) and targets (N,), by `ChunkedCrossEntropy`."""
    loss: torch.Tensor = ChunkedCrossEntropy.apply(hidden, head, targets, divisor)  # type: ignore[no-untyped-call]  # torch's own
    return loss


def use_chunked_loss(causal: Any) -> None:
    """Make a causal language model with a frozen, bias-free head compute its loss by its `cross_entropy`, by chunks, with the same value.

    Models that scale or cap their logits, or whose head is adapted, keep their own loss: the chunks would be wrong there.
    """
    if not can_be_chunked(causal):
        return
    head, whole = causal.get_output_embeddings(), causal.forward

    def forward(self: Any, *args: Any, labels: torch.Tensor | None = None, num_items_in_batch: Any = None, **inputs: Any) -> Any:
        if labels is None:
            return whole(*args, **inputs)
        targets = labels[:, 1:]
        keep = targets != IGNORED
        room = getattr(self, "room", None)
        if room is not None and torch.is_grad_enabled():
            room.begin(*labels.shape, int(keep.sum()))
        hidden = self.model(*args, **inputs).last_hidden_state[:, :-1]
        divisor = num_items_in_batch if num_items_in_batch is not None else keep.sum()
        return CausalLMOutputWithPast(loss=self.cross_entropy(hidden[keep], head.weight, targets[keep], divisor))

    causal.cross_entropy = chunked
    causal.forward = MethodType(forward, causal)


def can_be_chunked(causal: Any) -> bool:
    head, config = causal.get_output_embeddings(), causal.config
    capped = any(getattr(config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"))
    return not capped and type(head) is torch.nn.Linear and head.bias is None
