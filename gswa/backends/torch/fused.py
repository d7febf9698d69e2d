"""Cross-entropy by Liger's fused kernel, on a CUDA device where it says the same as our chunks and is faster.

It needs the package liger-kernel, Triton, a C compiler and a card that Triton knows. Where one of them is missing, the chunks stay.
"""

import logging
import time
from typing import Any, NamedTuple

import torch

from gswa.backends.torch.loss import IGNORED, CrossEntropy, chunked

log = logging.getLogger("gswa")
CHUNKED, FUSED = "chunked", "liger"
ROUNDS = 3  # the fastest counts; one more goes before them, in which Triton compiles
# Of the largest value, in bf16 and fp16; losses differ by a tenth of that at most. A right kernel for packed lines is within 0.012, one
# that lets rows see each other beyond 0.6.
CLOSE = 0.03


def fused(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, divisor: Any) -> torch.Tensor:
    """As `chunked`. Its logits take once to twice the memory of `hidden`, so that they grow with the targets; a row of them at least."""
    if not len(targets):
        return chunked(hidden, head, targets, divisor)  # Liger divides by the number of targets
    from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction

    smoothing = z_loss = 0.0
    total, *_ = LigerFusedLinearCrossEntropyFunction.apply(hidden, head, targets, None, None, IGNORED, z_loss, smoothing, "sum")
    mean: torch.Tensor = total / divisor
    return mean


class Trial(NamedTuple):
    seconds: float
    loss: float
    gradient: torch.Tensor


def choose(causal: Any, tokens: int) -> dict[str, float]:
    """Milliseconds of each way, forward and backward, over so many target tokens; the model goes on with the faster.

    Empty where there is no choice: the model keeps a loss of its own, or the kernel does not run here.
    """
    if not tokens or not hasattr(causal, "cross_entropy"):
        return {}
    try:
        theirs = _tried(fused, causal, tokens)
    except ImportError:
        return {}
    except Exception as error:  # noqa: BLE001  (of Triton's own kinds, too: no C compiler, no such card, no memory for it)
        log.info("Liger's cross-entropy does not run here: %s", str(error).partition("\n")[0])
        return {}
    ours = _tried(chunked, causal, tokens)
    if theirs.seconds < ours.seconds and _same(theirs, ours):
        causal.cross_entropy = fused
    return {CHUNKED: round(ours.seconds * 1e3, 3), FUSED: round(theirs.seconds * 1e3, 3)}


def chosen(causal: Any) -> str:
    return FUSED if getattr(causal, "cross_entropy", chunked) is fused else CHUNKED


def _same(one: Trial, other: Trial) -> bool:
    return near(one.gradient, other.gradient) and abs(one.loss - other.loss) <= CLOSE / 10 * abs(other.loss)


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether a kernel's tensor differs from the trusted one by no more than its format and its order of sums can make it; no for a NaN."""
    return bool((ours - theirs).abs().max() <= CLOSE * theirs.abs().max())


def _tried(cross_entropy: CrossEntropy, causal: Any, tokens: int) -> Trial:
    head = causal.get_output_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, head.shape[1], generator=generator).to(head.device, head.dtype).requires_grad_()
    targets = torch.randint(0, len(head), (tokens,), generator=generator).to(head.device)
    seconds = []
    for _ in range(1 + ROUNDS):
        began = time.perf_counter()
        loss = cross_entropy(hidden, head, targets, tokens)
        (gradient,) = torch.autograd.grad(loss, hidden)
        value = float(loss.detach())  # waits for the card
        seconds.append(time.perf_counter() - began)
    return Trial(min(seconds[1:]), value, gradient)
