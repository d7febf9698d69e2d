"""LoRA's product as one autograd function: fewer passes over the activations, and nothing kept but the input.

y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ        x (..., in), W (out, in), A (rank, in), B (out, rank), s = alpha / rank

PEFT keeps the input, its copy in the adapter's format, and x·Aᵀ; here x·Aᵀ is computed again in the backward pass. The small
products are written so that the long side comes second: gᵀ·(x·Aᵀ) took ten times as long as ((A·xᵀ)·g)ᵀ, and x·Aᵀ twice as long
as A·xᵀ where the rank is 8 (MKL, 2048 × 1024).
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F

from gswa.backends.torch.products import linear


class OneProduct(torch.autograd.Function):
    """x·(W + s·B·A)ᵀ: base and adapter in one matrix product. Exact in fp32 only: in bf16 the sum would round the adapter away."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, base: torch.nn.Linear, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(x, a, b)
        ctx.base, ctx.scale = base.weight, scale
        return linear(x, torch.addmm(base.weight, b, a, alpha=scale), base.bias)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor, torch.Tensor, None]:
        x, a, b = ctx.saved_tensors
        (gradient,) = upstream
        _, grad_a, grad_b = _adapter_gradients(x, gradient, a, b, ctx.scale)
        grad_x = linear(gradient, torch.addmm(ctx.base, b, a, alpha=ctx.scale).t()) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad_a, grad_b, None


class TwoProducts(torch.autograd.Function):
    """x·Wᵀ + s·(x·Aᵀ)·Bᵀ, and x's gradient likewise, each sum in one tensor; in x's format. A and B are fp32 masters, and so are
    their gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, base: torch.nn.Linear, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
        # Cast anew each time, for a thousandth of the step: a kept cast would go stale, since fused AdamW changes a weight
        # without counting up its version.
        a, b = a.to(x.dtype), b.to(x.dtype)
        ctx.save_for_backward(x, a, b)
        ctx.base, ctx.scale = base.weight, scale
        y = linear(x, base.weight, base.bias)
        y.view(-1, y.shape[-1]).addmm_(F.linear(rows(x), a), b.t(), alpha=scale)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor, torch.Tensor, None]:
        x, a, b = ctx.saved_tensors
        (gradient,) = upstream
        through_b, grad_a, grad_b = _adapter_gradients(x, gradient, a, b, ctx.scale)
        if not ctx.needs_input_grad[0]:
            return None, None, grad_a, grad_b, None
        grad_x = linear(gradient, ctx.base.t())
        grad_x.view(-1, x.shape[-1]).addmm_(through_b.t(), a, alpha=ctx.scale)
        return grad_x, None, grad_a, grad_b, None


class AddAdapter(torch.autograd.Function):
    """y + s·(x·Aᵀ)·Bᵀ, written into y: `TwoProducts` where a layer of another kind (4 bits) has made y of x."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        ctx.save_for_backward(x, a, b)
        ctx.scale = scale
        through_a = F.linear(rows(x), a)
        if y._is_view():  # as bitsandbytes' product with a bias is, made in a function of its own: autograd lets nobody write into that
            return torch.addmm(rows(y), through_a, b.t(), alpha=scale).view(y.shape)
        ctx.mark_dirty(y)
        y.view(-1, y.shape[-1]).addmm_(through_a, b.t(), alpha=scale)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor, None]:
        x, a, b = ctx.saved_tensors
        (gradient,) = upstream
        through_b, grad_a, grad_b = _adapter_gradients(x, gradient, a, b, ctx.scale)
        grad_x = (through_b.t() @ a).mul_(ctx.scale).view(x.shape) if ctx.needs_input_grad[1] else None
        return gradient, grad_x, grad_a, grad_b, None


def rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _adapter_gradients(
    x: torch.Tensor, gradient: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """((g·B)ᵀ, s·(g·B)ᵀ·x, s·gᵀ·(x·Aᵀ)), the last two in fp32."""
    g, x = rows(gradient), rows(x)
    through_b = b.t() @ g.t()
    grad_a = (through_b @ x).float().mul_(scale)
    grad_b = (a @ x.t() @ g).t().float().mul_(scale)
    return through_b, grad_a, grad_b


def use_lean_lora(model: Any) -> None:
    """Give PEFT's plain LoRA layers the products above; layers of another kind (DoRA, dropout) keep PEFT's own."""
    from peft.tuners.lora.layer import Linear, LoraLayer

    plain: list[Any] = [
        m for m in model.modules() if isinstance(m, LoraLayer) and not getattr(m, "lora_variant", None) and not _drops_out(m)
    ]
    for module in plain:
        module.forward = MethodType(_adapted if type(module) is Linear else adapter_on_top, module)


def _drops_out(module: Any) -> bool:
    return any(isinstance(layer, torch.nn.Dropout) and layer.p for layer in module.lora_dropout.values())


def _adapted(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    base = self.base_layer
    if self.disable_adapters:
        return base(x)  # type: ignore[no-any-return]
    way = OneProduct if x.dtype == torch.float32 and not _few_rows(x, base.weight) else TwoProducts
    product: torch.Tensor = way.apply(x, base, *_adapter(self))  # type: ignore[no-untyped-call]  # torch's own
    return product


def adapter_on_top(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """For base layers that multiply in their own way."""
    base: torch.Tensor = self.base_layer(x)
    if self.disable_adapters:
        return base
    sum_: torch.Tensor = AddAdapter.apply(base, x, *_adapter(self))  # type: ignore[no-untyped-call]  # torch's own
    return sum_


def _few_rows(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether forming W + s·B·A (out · in · rank) costs more than the two small products ((in + out) · rank a row), as in generation."""
    out, into = weight.shape
    return x.numel() // into * (out + into) < out * into


def _adapter(module: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    (name,) = module.active_adapters
    return module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
