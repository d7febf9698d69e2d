"""LoRA's products as autograd functions: fewer passes over the activations, and nothing kept but the input.

y_i = x·W_iᵀ + s·(x·A_iᵀ)·B_iᵀ        x (..., in), W_i (out_i, in), A_i (rank, in), B_i (out_i, rank), s = alpha / rank

PEFT keeps the input, its copy in the adapter's format, and x·Aᵀ; here x·Aᵀ is computed again in the backward pass, unless there is
room (room.py). Layers with one input (q, k, v) share the passes over it. The small products are written so that the long side comes
second: gᵀ·(x·Aᵀ) took ten times as long as ((A·xᵀ)·g)ᵀ, and x·Aᵀ twice as long as A·xᵀ where the rank is 8 (MKL, 2048 × 1024). With
AMX it comes first: from A·xᵀ, turned, the product with Bᵀ took 3.4 times as long (1216 × 1024, 2026-11).
"""

from collections.abc import Sequence
from functools import partial
from types import MethodType
from typing import Any

import torch

from gswa.backends.torch.products import by_amx, linear
from gswa.backends.torch.room import may_keep

SHARED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # names of layers that are given the same input
MLP = ("gate_proj", "up_proj", "down_proj")


class Products:
    """One pass, forward or backward, of layers with the same input and scale; rows can come in blocks, gradients add up.

    In fp32 base and adapter are one product, x·(W + s·B·A)ᵀ; in 16 bits that sum would round the adapter away, and where rows are
    few, as in generation, making it (in · out · rank) costs more than the two small products ((in + out) · rank a row).
    """

    def __init__(self, x: torch.Tensor, bases: Sequence[torch.nn.Linear], scale: float, adapters: Sequence[torch.Tensor]) -> None:
        """For as many rows as x has, in its format. `adapters` are A_1, B_1, A_2 …, fp32 masters; without bases, their share alone."""
        dtype, count = x.dtype, x.numel() // x.shape[-1]
        # Cast anew each time, for a thousandth of the step: a kept cast would go stale, since fused AdamW changes a weight
        # without counting up its version.
        downs = [weight.to(dtype) for weight in adapters[::2]]
        # s·Bᵀ, and as it lies, like A: oneDNN compiles one kernel for the products with both, in 16 bits, where it would two.
        self.ups = [(scale * weight).t().to(dtype, memory_format=torch.contiguous_format) for weight in adapters[1::2]]
        self.rank, self.scale, self.biases = len(downs[0]), scale, [base.bias for base in bases]
        self.down = torch.cat(downs) if len(downs) > 1 else downs[0]
        self.weights: list[torch.Tensor] = [base.weight for base in bases]
        few = count * sum(sum(w.shape) for w in self.weights) < sum(w.numel() for w in self.weights)
        self.one = bool(bases) and dtype == torch.float32 and not few
        if self.one:
            self.weights = [torch.addmm(w, b.t(), a) for w, b, a in zip(self.weights, self.ups, downs, strict=True)]
        self._gradients: list[torch.Tensor] = []
        self.through: list[torch.Tensor] = []  # x·Aᵀ, if it was made, of the rows that went forward last: what `backward` need not make

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, in) → (N, out) of each layer."""
        ys = [linear(x, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True)]
        return ys if self.one else self.add_adapters(x, ys)

    def add_adapters(self, x: torch.Tensor, ys: list[torch.Tensor]) -> list[torch.Tensor]:
        """Into `ys`, those without the adapters."""
        self.through = [narrow(x, self.down)]
        for y, through, up in zip(ys, self._each(self.through[0]), self.ups, strict=True):
            y.addmm_(through, up)
        return ys

    def backward(self, x: torch.Tensor, upstream: Sequence[torch.Tensor], wanted: bool = True) -> torch.Tensor | None:
        """x's gradient, if it is `wanted`, from those of the outputs; the adapters' are added to `gradients`."""
        through = self.adapters_backward(x, upstream)
        if not wanted:
            return None
        first, *others = zip(upstream, self.weights, strict=True)
        gradient = linear(first[0], first[1].t())
        for g, weight in others:
            gradient.add_(linear(g, weight.t())) if self.one else gradient.addmm_(g, weight)
        return gradient if self.one else gradient.addmm_(through, self.down)

    def adapters_backward(self, x: torch.Tensor, upstream: Sequence[torch.Tensor]) -> torch.Tensor:
        """s·g_i·B_i of all layers (N, rank each), side by side; adds (s·g·B)ᵀ·x and gᵀ·(x·Aᵀ) to `gradients`."""
        parts = [narrow(g, up) for g, up in zip(upstream, self.ups, strict=True)]
        through = parts[0] if len(parts) == 1 else torch.cat(parts, 1) if by_amx(x) else torch.cat([part.t() for part in parts]).t()
        downs = cut((through.t() @ x).float(), self.rank)
        (of_x,) = self.through or [narrow(x, self.down)]
        ups = [(part.t() @ g).t().float() for g, part in zip(upstream, self._each(of_x), strict=True)]
        found = [gradient for pair in zip(downs, ups, strict=True) for gradient in pair]
        self._gradients = [old.add_(new) for old, new in zip(self._gradients, found, strict=True)] if self._gradients else found
        return through

    @property
    def gradients(self) -> list[torch.Tensor]:
        """Of A_1, B_1, A_2 …, in fp32."""
        return [gradient if number % 2 == 0 else gradient * self.scale for number, gradient in enumerate(self._gradients)]

    def _each(self, through: torch.Tensor) -> list[torch.Tensor]:
        """x·Aᵀ of each layer. With AMX in a copy, or oneDNN would compile each product for each number of layers with one input."""
        return [part.contiguous() if by_amx(through) else part for part in cut(through, self.rank, 1)]


class Adapted(torch.autograd.Function):
    """The outputs of the layers that are given x."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, keeps: bool, bases: Sequence[torch.nn.Linear], scale: float, *adapters: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """`keeps` x·Aᵀ for the backward pass, rather than making it again."""
        ctx.layers = bases, scale
        products = Products(x, bases, scale, adapters)
        ys = products.forward(rows(x))
        ctx.save_for_backward(x, *adapters, *(products.through if keeps else ()))
        return tuple(y.view(*x.shape[:-1], -1) for y in ys)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        bases, scale = ctx.layers
        adapters, through = saved[: 2 * len(bases)], saved[2 * len(bases) :]
        products = Products(x, bases, scale, adapters)
        products.through = through
        gradient = products.backward(rows(x), [rows(g) for g in upstream], ctx.needs_input_grad[0])
        return None if gradient is None else gradient.view(x.shape), None, None, None, *products.gradients


class AddAdapter(torch.autograd.Function):
    """y + s·(x·Aᵀ)·Bᵀ, written into y: where a layer of another kind (4 bits) has made y of x."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, x: torch.Tensor, scale: float, *adapter: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, *adapter)
        ctx.scale = scale
        if y._is_view():  # as bitsandbytes' product with a bias is, made in a function of its own: autograd lets nobody write into that
            y = y.clone()
        else:
            ctx.mark_dirty(y)
        Products(x, [], scale, adapter).add_adapters(rows(x), [y.view(-1, y.shape[-1])])
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *adapter = ctx.saved_tensors
        products = Products(x, [], ctx.scale, adapter)
        through = products.adapters_backward(rows(x), [rows(upstream[0])])
        gradient = (through @ products.down).view(x.shape) if ctx.needs_input_grad[1] else None
        return upstream[0], gradient, None, *products.gradients


def narrow(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x (N, in) · weightᵀ (in, few) → (N, few), which lies turned where that is faster."""
    return x @ weight.t() if by_amx(x) else (weight @ x.t()).t()


def rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def cut(tensor: torch.Tensor, size: int, side: int = 0) -> tuple[torch.Tensor, ...]:
    """Parts of so many rows, or columns; the last may have fewer."""
    return tensor.split(size, side)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


class Together:
    """Layers that are given the same input: the first that is called makes the outputs of all, and the others find theirs.

    One thread at a time. What a pass that failed has left is let go by the next.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        self._input: tuple[torch.Tensor, bool] | None = None  # with whether gradients were asked for
        self._waiting: dict[Any, torch.Tensor] = {}

    def __call__(self, layer: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if layer.disable_adapters:
            return layer.base_layer(x)  # type: ignore[no-any-return]
        known = self._input is not None and x is self._input[0] and torch.is_grad_enabled() == self._input[1]
        if not known or layer not in self._waiting:
            keeps = torch.is_grad_enabled() and may_keep(layer.base_layer, "adapter")
            made = Adapted.apply(x, keeps, *layers_and_adapters(self._layers))  # type: ignore[no-untyped-call]  # torch's own
            self._input, self._waiting = (x, torch.is_grad_enabled()), dict(zip(self._layers, made, strict=True))
        y = self._waiting.pop(layer)
        if not self._waiting:
            self._input = None
        return y


def use_lean_lora(model: Any) -> None:
    """Give PEFT's plain LoRA layers the products above; layers of another kind (DoRA, dropout) keep PEFT's own."""
    from peft.tuners.lora.layer import LoraLayer

    for parent in list(model.modules()):
        layers: dict[str, Any] = {name: layer for name, layer in parent.named_children() if isinstance(layer, LoraLayer)}
        if all(name in layers for name in MLP):
            parent.adapted_as_one = alike([layers[name] for name in MLP])  # what the MLP's forward pass of blocks.py looks at
        groups = [[layers.pop(name) for name in names] for names in SHARED if alike([layers.get(name) for name in names])]
        for group in (*groups, *([layer] for layer in layers.values() if plain(layer))):
            together = Together(group)
            for layer in group:
                layer.forward = partial(together, layer)
        for layer in layers.values():
            if not plain(layer) and not _changed(layer):
                layer.forward = MethodType(adapter_on_top, layer)


def alike(layers: Sequence[Any]) -> bool:
    """Whether they are plain, with adapters of one rank and scale: what `Products` takes together."""
    return all(plain(layer) for layer in layers) and len({(*layer.r.items(), *layer.scaling.items()) for layer in layers}) == 1


def plain(layer: Any) -> bool:
    """Whether it is a linear layer in the base's own numbers with an adapter of the plainest kind."""
    from peft.tuners.lora.layer import Linear

    return type(layer) is Linear and type(layer.base_layer) is torch.nn.Linear and not _changed(layer)


def _changed(layer: Any) -> bool:
    """By what comes between its input and the adapter, or after it."""
    return bool(getattr(layer, "lora_variant", None)) or any(isinstance(m, torch.nn.Dropout) and m.p for m in layer.lora_dropout.values())


def layers_and_adapters(layers: Sequence[Any]) -> tuple[Any, ...]:
    """Their base layers, the scale, and A_1, B_1, A_2 …: what the functions above are applied to."""
    (name,) = layers[0].active_adapters
    weights = [side[name].weight for layer in layers for side in (layer.lora_A, layer.lora_B)]
    return [layer.base_layer for layer in layers], layers[0].scaling[name], *weights


def adapter_on_top(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """For base layers that multiply in their own way."""
    base: torch.Tensor = self.base_layer(x)
    if self.disable_adapters:
        return base
    sum_: torch.Tensor = AddAdapter.apply(base, x, *layers_and_adapters([self])[1:])  # type: ignore[no-untyped-call]  # torch's own
    return sum_
