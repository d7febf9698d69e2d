"""A second opinion on memory: the training step itself on tensors without data, so that it needs neither weights nor a device.

Two and four blocks are gone through, forward, backward and optimizer; what is alive grows by the same amount with every further
block, so that the whole model follows. Counted are the bytes of live tensors, which torch's FakeTensorMode knows without having
them; what an allocator takes beyond them is not.
"""

import gc
import weakref
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gswa.backends.torch.attention import attention
from gswa.backends.torch.lora import adapter_on_top
from gswa.backends.torch.loss import can_be_chunked, chunked
from gswa.backends.torch.model import DTYPES, add_adapter, make_ready
from gswa.cgroup import GB
from gswa.config import RunConfig
from gswa.memory import NF4, Alive, Rows

FEW, MORE = 2, 4  # blocks
ATTENTION = "gswa_fake"


class _Bytes(NamedTuple):
    train: float
    evaluate: float
    base: float


def count(folder: str, config: RunConfig, rows: Rows) -> Alive:
    """For the base model whose config.json is in `folder`, and longest rows of these lengths."""
    from transformers import AutoConfig

    whole = AutoConfig.from_pretrained(folder, local_files_only=True)
    blocks = whole.num_hidden_layers
    adapted = min(config.num_layers or blocks, blocks)
    frozen = int(adapted < blocks)  # one block below the adapted ones stands for all that are
    if blocks <= MORE + frozen:
        found = _count(whole, blocks, config, rows)
        return Alive(found.train / GB, found.evaluate / GB)
    few, more = (_count(whole, n + frozen, config.replace(num_layers=n), rows) for n in (FEW, MORE))
    each = _Bytes(*((y - x) / (MORE - FEW) for x, y in zip(few, more, strict=True)))
    below = each.base * (blocks - adapted - frozen)
    train, evaluate = (at + (adapted - FEW) * slope + below for at, slope in ((few.train, each.train), (few.evaluate, each.evaluate)))
    return Alive(train / GB, evaluate / GB)


def _count(whole: Any, blocks: int, config: RunConfig, rows: Rows) -> _Bytes:
    """A micro-batch while gradients and optimizer hold something already, then an evaluation batch."""
    with torch.device("meta"):
        model = _model(whole, blocks, config)
    gc.collect()  # else what happens to be collected meanwhile changes the count
    with FakeTensorMode(allow_non_fake_inputs=True), Tally() as tally:
        base = _without_data(model, config)
        tally.restart()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, foreach=False)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        model.train()
        _loss(model, config.batch_size, min(rows.train, config.max_seq_length), rows.targets).backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.zero_grad()
        train = tally.restart()
        model.eval()
        with torch.no_grad():
            _loss(model, config.eval_batch_size, min(rows.evaluate, config.max_seq_length), rows.targets)
        return _Bytes(train, tally.restart(), base)


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Bytes of the tensors that are alive, and the most there have been."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.alive = self.most = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        out = function(*arguments, **(options or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self._add(tensor.untyped_storage())
        self.most = max(self.most, self.alive)
        return out

    def _add(self, storage: Any) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._remove, storage.nbytes())

    def _remove(self, size: int) -> None:
        self.alive -= size

    def restart(self) -> int:
        """The most so far; from here on the most is counted anew."""
        most, self.most = self.most, self.alive
        return most


# -- a model without data ------------------------------------------------------------------------------------------------
def _model(whole: Any, blocks: int, config: RunConfig) -> Any:
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface

    settings = {**whole.to_dict(), "num_hidden_layers": blocks}
    if settings.get("layer_types"):
        settings["layer_types"] = settings["layer_types"][:blocks]
    base: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=DTYPES[config.number_format])  # type: ignore[no-untyped-call]
    capped = base.config._attn_implementation == "eager"
    make_ready(base, config)
    if not capped:
        # Asked about tensors without data, transformers makes the mask that it leaves out for real ones.
        AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)
        AttentionInterface.register(ATTENTION, attention if config.device == "cpu" else sdpa_attention_forward)
        base.set_attn_implementation(ATTENTION)
    model = add_adapter(base, config)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _without_data(model: Any, config: RunConfig) -> float:
    """Give the model fake tensors in place of meta ones; the bytes of the frozen base."""
    made: dict[torch.nn.Parameter, torch.nn.Parameter] = {}  # tied ones once
    for module in model.modules():
        if config.quantization == "4bit" and hasattr(module, "lora_A"):
            module.base_layer = _Quantised(module.base_layer)
            module.forward = MethodType(adapter_on_top, module)
        if hasattr(module, "adapted_as_one"):
            module.adapted_as_one &= config.quantization != "4bit"
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = made.setdefault(parameter, torch.nn.Parameter(empty, parameter.requires_grad))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)
    frozen: list[torch.Tensor] = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return sum(parameter.numel() * parameter.element_size() for parameter in frozen)


class _Quantised(torch.nn.Module):
    """As large as bitsandbytes' NF4 layer, which makes the whole weight for each product and keeps nothing."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.shape, self.dtype = linear.weight.shape, linear.weight.dtype
        self.packed = torch.nn.Parameter(
            torch.empty(int(NF4 * linear.weight.numel()), dtype=torch.uint8, device="meta"), requires_grad=False
        )
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Dequantised.apply(x, self.shape, self.dtype)  # type: ignore[no-untyped-call]  # torch's own
        return out if self.bias is None else out + self.bias


class _Dequantised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        ctx.weight = shape, dtype
        return x @ torch.empty(shape, dtype=dtype).t()

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        shape, dtype = ctx.weight
        return upstream[0] @ torch.empty(shape, dtype=dtype), None, None


def _loss(model: Any, batch_size: int, tokens: int, targets: float) -> torch.Tensor:
    """As the training step computes it. Which tokens carry loss is data, so that the first ones stand for them."""
    causal = model.get_base_model()
    ids = torch.empty((batch_size, tokens), dtype=torch.long)
    if not can_be_chunked(causal):
        whole: torch.Tensor = model(input_ids=ids, labels=ids, num_items_in_batch=1).loss
        return whole
    chosen = max(1, int(targets * (tokens - 1)))
    hidden = causal.model(input_ids=ids).last_hidden_state[:, :chosen].flatten(0, 1).clone()
    head = causal.get_output_embeddings().weight
    return chunked(hidden, head, ids[:, :chosen].flatten(), 1)
