"""The blocks of Llama, Mistral, Qwen and Phi-3 with less kept for the backward pass: what one cheap pass makes again is not kept.

per token and layer, hidden size H, inner size M      the library keeps            here
  each of two norms                                   x in fp32, its output        x
  gate, up                                            gate, silu(gate), up, product    gate, up

On a CPU the MLP goes through its rows by blocks, so that what one product has written is near when the next pass reads it, and of
what is not kept one block exists at a time. Fewer rows a block cost more in repacked weights than they save (AMD EPYC, 2026-11).
"""

import weakref
from collections.abc import Callable
from types import MethodType, TracebackType
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from gswa.backends.torch.lora import MLP, Products, cut, layers_and_adapters, rows
from gswa.backends.torch.room import may_keep

Make = Callable[[], torch.Tensor]
ADAPTERS = 6  # tensors: A and B of gate, up and down
Keeps: TypeAlias = Literal[0, 1, 2]
NOTHING, GATE_AND_UP, MORE = 0, 1, 2  # of what an MLP makes, for its backward pass: silu(gate) and its adapters' x·Aᵀ beside the two


class RmsNorm(torch.autograd.Function):
    """weight · x · r and r = 1 / rms(x) (..., 1), the weight frozen. x (..., H); computed in fp32, returned in x's format, r in fp32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
        wide = x.float()
        norm: torch.Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        r = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        ctx.mark_non_differentiable(r)
        return normalised(x, wide, weight, r), r

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """With g = weight · upstream: r·g - x · r³ · mean(g·x)."""
        x, weight, r = ctx.saved_tensors
        if x.device.type == "cpu" and x.dtype == weight.dtype:
            return _by_layer_norm(x, weight, r, upstream[0]), None, None
        wide, g = x.float(), (upstream[0] * weight).float()
        along = torch.linalg.vecdot(g, wide).unsqueeze_(-1).mul_(r.pow(3)).div_(-x.shape[-1])
        return g.mul_(r).addcmul_(wide, along).to(x.dtype), None, None


def _by_layer_norm(x: torch.Tensor, weight: torch.Tensor, r: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    """x's gradient by LayerNorm's, which for a mean of 0 is the same less r · mean(g): in half of the time of pass after pass on a CPU
    (1152 × 384, 2026-11)."""
    wide, mean = weight.float(), torch.zeros_like(r)  # as in 16 bits it wants them, in fp32
    less = torch.ops.aten.native_layer_norm_backward(upstream, x, weight.shape, mean, r, wide, None, [True, False, False])[0]
    means = (upstream @ (weight / x.shape[-1])).unsqueeze(-1)  # the sum, undivided, overflowed in fp16
    gradient: torch.Tensor = less.add_((means * r).to(x.dtype))
    return gradient


def normalised(x: torch.Tensor, wide: torch.Tensor, weight: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """weight · x · r in x's format; `wide` is x in fp32, and lost."""
    return (wide * r if wide is x else wide.mul_(r)).to(x.dtype).mul_(weight)


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


class GatedMlp(torch.autograd.Function):
    """down(silu(gate(x)) · up(x)), the three of them with adapters, `at_once` rows after another."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, at_once: int, keeps: Keeps, bases: Any, scale: float, *adapters: torch.Tensor) -> torch.Tensor:
        ctx.settings = bases, scale, at_once, keeps
        first, last = _both(x, bases, scale, adapters)
        kept: list[torch.Tensor] = []
        ys: list[torch.Tensor] = []
        for block in cut(rows(x), at_once):
            gate, up = first.forward(block)
            silu = F.silu(gate)
            ys += last.forward(silu * up if keeps == MORE else silu.mul_(up))
            kept += [(), (gate, up), (gate, up, silu, *first.through, *last.through)][keeps]
            del silu  # before the next block's are made
        ctx.save_for_backward(x, *adapters, *kept)
        return _joined(ys, x)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        adapters, kept = saved[:ADAPTERS], iter(saved[ADAPTERS:])
        bases, scale, at_once, keeps = ctx.settings
        first, last = _both(x, bases, scale, adapters)
        gradients: list[Any] = []
        for block, above in zip(cut(rows(x), at_once), cut(rows(upstream[0]), at_once), strict=True):
            gate, up = next(kept), next(kept)
            silu = next(kept) if keeps == MORE else F.silu(gate)
            first.through, last.through = ([next(kept)] if keeps == MORE and not products.one else [] for products in (first, last))
            for_gate: Any = last.backward(silu * up, [above])
            for_up = silu * for_gate if keeps == MORE else silu.mul_(for_gate)
            for_gate.mul_(up)
            torch.ops.aten.silu_backward.grad_input(for_gate, gate, grad_input=for_gate)
            gradients.append(first.backward(block, [for_gate, for_up], ctx.needs_input_grad[0]))
        gradient = _joined(gradients, x) if ctx.needs_input_grad[0] else None
        return gradient, None, None, None, None, *first.gradients, *last.gradients


def _both(x: torch.Tensor, bases: Any, scale: float, adapters: Any) -> tuple[Products, Products]:
    """Of gate and up, and of down."""
    return Products(x, bases[:2], scale, adapters[:4]), Products(x, bases[2:], scale, adapters[4:])


def _joined(blocks: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    return (blocks[0] if len(blocks) == 1 else torch.cat(blocks)).view(like.shape)


class Remade:
    """A tensor that a later layer wants to keep, made again when its backward pass first asks."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._tensor: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        if self._tensor is None:  # 4-bit q, k and v share one; it goes when the last of them has run
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


def use_lean_blocks(base: Any, at_once: int) -> None:
    """Change a base model's norms and MLPs, these to take so many rows at once; others (Gemma's norms, GELU) keep their own."""
    recipes = Recipes()
    for module in base.modules():
        if hasattr(module, "variance_epsilon") and type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(_norm(recipes), module)
        elif all(hasattr(module, part) for part in MLP) and type(module.act_fn).__name__.startswith("SiLU"):
            module.forward = MethodType(_gated(recipes, at_once), module)
    decoder = base.get_decoder()
    whole = decoder.forward

    def forward(*args: Any, **options: Any) -> Any:
        with recipes:
            return whole(*args, **options)

    decoder.forward = forward


def _norm(recipes: Recipes) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor
        out, r = RmsNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]  # torch's own
        kept = x.detach()
        if not (out.requires_grad and may_keep(self, "norm")):
            recipes.offer(out, lambda: normalised(kept, kept.float(), self.weight, r))
        return out

    return forward


def _gated(recipes: Recipes, at_once: int) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        layers = [getattr(self, name) for name in MLP]
        if getattr(self, "adapted_as_one", False) and not any(layer.disable_adapters for layer in layers):
            keeps = NOTHING if not torch.is_grad_enabled() else MORE if may_keep(self, "mlp") else GATE_AND_UP
            whole: torch.Tensor = GatedMlp.apply(x, at_once, keeps, *layers_and_adapters(layers))  # type: ignore[no-untyped-call]  # torch's own
            return whole
        if not torch.is_grad_enabled():
            return _joined([self.down_proj(F.silu(self.gate_proj(part)).mul_(self.up_proj(part))) for part in cut(rows(x), at_once)], x)
        gate, up = self.gate_proj(x), self.up_proj(x)
        product = GatedSilu.apply(gate, up)  # type: ignore[no-untyped-call]  # torch's own
        both = gate.detach(), up.detach()
        recipes.offer(product, lambda: F.silu(both[0]).mul_(both[1]))
        out: torch.Tensor = self.down_proj(product)
        return out

    return forward
