"""The blocks of Llama, Mistral, Qwen and Phi-3 with less kept for the backward pass: what one cheap pass makes again is not kept.

per token and layer, hidden size H, inner size M      the library keeps            here
  each of two norms                                   x in fp32, its output        x
  gate, up                                            gate, silu(gate), up, product    gate, up
"""

import weakref
from collections.abc import Callable
from types import MethodType, TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

Make = Callable[[], torch.Tensor]


class RmsNorm(torch.autograd.Function):
    """weight · x / rms(x), the weight frozen. x (..., H); computed in fp32, returned in x's format."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return normalised(x, weight, epsilon)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """With r = 1 / rms(x) and g = weight · upstream: r·g - x · r³ · mean(g·x)."""
        x, weight = ctx.saved_tensors
        wide = x.float()
        r = _inverse_rms(wide, ctx.epsilon)
        g = (upstream[0] * weight).float()
        along = torch.linalg.vecdot(g, wide).unsqueeze_(-1).mul_(r.pow(3)).div_(-x.shape[-1])
        return g.mul_(r).addcmul_(wide, along).to(x.dtype), None, None


def normalised(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = x.float()
    return (wide * _inverse_rms(wide, epsilon)).to(x.dtype).mul_(weight)


def _inverse_rms(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


class GatedSilu(torch.autograd.Function):
    """silu(gate) · up."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        slope = upstream[0] * up
        torch.ops.aten.silu_backward.grad_input(slope, gate, grad_input=slope)
        return slope, F.silu(gate).mul_(upstream[0])


class Remade:
    """A tensor that a later layer wants to keep, made again when its backward pass first asks."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._tensor: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        if self._tensor is None:  # q, k and v share one; it goes when the last of them has run
            with torch.no_grad():
                self._tensor = self._make()
        return self._tensor


class Recipes:
    """While entered, autograd keeps a recipe in place of each tensor that has one.

    A tensor is known by its storage and its place there, which hold only as long as it lives: a weak reference tells, and lets
    the recipe go, or a checkpointed block's would hold gate and up until the whole forward pass had ended.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[weakref.ref[torch.Tensor], Remade]] = {}
        self._hooks = saved_tensors_hooks(self._pack, lambda kept: kept() if isinstance(kept, Remade) else kept)
        self._entered = False

    def __enter__(self) -> None:
        self._hooks.__enter__()
        self._entered = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered = False
        self._known.clear()
        self._hooks.__exit__(kind, error, trace)

    def offer(self, tensor: torch.Tensor, make: Make) -> None:
        if self._entered and tensor.requires_grad:
            place = _place(tensor)
            self._known[place] = (weakref.ref(tensor, lambda _: self._known.pop(place, None)), Remade(make))

    def _pack(self, tensor: torch.Tensor) -> Any:
        reference, recipe = self._known.get(_place(tensor), (None, None))
        original = reference() if reference else None
        return recipe if original is not None and original.shape == tensor.shape else tensor


def _place(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())  # a tensor without data, as planning counts them, has these too


def use_lean_blocks(base: Any) -> None:
    """Change a base model's norms and gated products; modules of another kind (Gemma's norms, GELU) keep their own."""
    recipes = Recipes()
    for module in base.modules():
        if hasattr(module, "variance_epsilon") and type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(_norm(recipes), module)
        elif all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj")) and type(module.act_fn).__name__.startswith(
            "SiLU"
        ):
            module.forward = MethodType(_gated(recipes), module)
    decoder = base.get_decoder()
    whole = decoder.forward

    def forward(*args: Any, **options: Any) -> Any:
        with recipes:
            return whole(*args, **options)

    decoder.forward = forward


def _norm(recipes: Recipes) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = RmsNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]  # torch's own
        kept = x.detach()
        recipes.offer(out, lambda: normalised(kept, self.weight, self.variance_epsilon))
        return out

    return forward


def _gated(recipes: Recipes) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        product = GatedSilu.apply(gate, up)  # type: ignore[no-untyped-call]  # torch's own
        kept = gate.detach(), up.detach()
        recipes.offer(product, lambda: F.silu(kept[0]).mul_(kept[1]))
        out: torch.Tensor = self.down_proj(product)
        return out

    return forward
