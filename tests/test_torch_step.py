"""The parts of the torch step that are ours: each equals the library's own, forward and backward."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from gswa.backends.torch.attention import BLOCK, CausalAttention
from gswa.backends.torch.blocks import GatedSilu, Recipes, RmsNorm
from gswa.backends.torch.data import collate
from gswa.backends.torch.formats import measure
from gswa.backends.torch.lora import AddAdapter, OneProduct, TwoProducts
from gswa.backends.torch.model import add_adapter, load_base
from gswa.backends.torch.products import FILLED, linear
from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import RunConfig
from gswa.dataset import Rendered

pytestmark = [
    pytest.mark.backend,
    # PEFT 0.21 asks transformers 5.23 by its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
F = torch.nn.functional


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def same(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    slope = torch.randn_like(theirs)
    mine = torch.autograd.grad(ours, inputs, slope)
    expected = torch.autograd.grad(theirs, inputs, slope)
    assert torch.allclose(ours, theirs, atol=1e-5)
    for got, wanted in zip(mine, expected, strict=True):
        assert torch.allclose(got.to(wanted.dtype), wanted, atol=1e-4)


def test_one_product_of_base_and_adapter_is_the_sum_of_the_two():
    x, a, b = tensors((2, 5, 8), (3, 8), (6, 3))
    base = torch.nn.Linear(8, 6).double().requires_grad_(False)
    same(OneProduct.apply(x, base, a, b, 0.5), base(x) + 0.5 * (x @ a.t() @ b.t()), [x, a, b])


@pytest.mark.parametrize("bias", [False, True])
def test_two_products_in_one_tensor_are_their_sum(bias):
    x, a, b = tensors((2, 5, 8), (3, 8), (6, 3))
    base = torch.nn.Linear(8, 6, bias).double().requires_grad_(False)
    same(TwoProducts.apply(x, base, a, b, 0.5), base(x) + 0.5 * (x @ a.t() @ b.t()), [x, a, b])


@pytest.mark.parametrize("bias", [False, True])
def test_the_adapter_added_in_place_is_the_adapter_added(bias):
    x, a, b = tensors((2, 5, 8), (3, 8), (6, 3))
    base = torch.nn.Linear(8, 6, bias).double().requires_grad_(False)
    same(AddAdapter.apply(base(x), x, a, b, 0.5), base(x) + 0.5 * (x @ a.t() @ b.t()), [x, a, b])


def test_a_4_bit_product_with_a_bias_gets_its_adapter():
    """As in Qwen2: that product is a view, and autograd refused that it be written into."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    x, a, b = (tensor.detach().float().requires_grad_() for tensor in tensors((2, 5, 64), (3, 64), (96, 3)))
    base = bitsandbytes.nn.Linear4bit(64, 96, quant_type="nf4", compute_dtype=torch.float32).to("cpu").requires_grad_(False)
    same(AddAdapter.apply(base(x), x, a, b, 0.5), base(x) + 0.5 * (x @ a.t() @ b.t()), [x, a, b])


def test_the_gated_product_keeps_its_gradient():
    gate, up = tensors((3, 4), (3, 4))
    same(GatedSilu.apply(gate, up), F.silu(gate) * up, [gate, up])


def test_the_norm_keeps_its_gradient():
    x = torch.randn(3, 8, requires_grad=True)
    weight = torch.rand(8)
    theirs = weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    same(RmsNorm.apply(x, weight, 1e-6), theirs, [x])


def test_what_has_a_recipe_is_not_kept_and_comes_back_the_same():
    (x,) = tensors((4, 4))
    recipes, made = Recipes(), []

    def make() -> torch.Tensor:
        made.append(1)
        return x.detach() * 2

    with recipes:
        doubled = x * 2
        recipes.offer(doubled, make)
        out = doubled.square() + doubled.sin()
    alive = weakref.ref(doubled)
    del doubled
    assert alive() is None
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert made == [1]
    assert torch.allclose(gradient, 8 * x + 2 * (2 * x).cos())


def test_a_tensor_at_the_place_of_one_that_is_gone_is_kept_itself():
    (x,) = tensors((64, 64))
    recipes = Recipes()
    with recipes:
        for _ in range(50):  # the allocator hands the same place out again
            gone = x * 2
            recipes.offer(gone, lambda: torch.zeros_like(x))
            del gone
            out = (x * 3).square()
            (gradient,) = torch.autograd.grad(out.sum(), x)
            assert torch.allclose(gradient, 18 * x)


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_causal_attention_in_blocks_is_attention(length, key_heads):
    q, k, v = tensors((2, 4, length, 8), (2, key_heads, length, 8), (2, key_heads, length, 8))
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    same(CausalAttention.apply(q, k, v, 8**-0.5), theirs, [q, k, v])


def test_attention_never_looks_ahead():
    q, k, v = tensors((1, 1, 200, 4), (1, 1, 200, 4), (1, 1, 200, 4))
    whole = CausalAttention.apply(q, k, v, 0.5)
    begun = CausalAttention.apply(q[:, :, :130], k[:, :, :130], v[:, :, :130], 0.5)
    assert torch.equal(whole[:, :, :130], begun)


@pytest.mark.parametrize("way", [TwoProducts.apply, lambda x, base, *adapter: AddAdapter.apply(base(x), x, *adapter)])
def test_a_bf16_adapter_follows_the_optimizer(way):
    """Fused AdamW changes a weight without counting up its version: a cast kept by version would stay behind."""
    base, x = torch.nn.Linear(8, 6, dtype=torch.bfloat16).requires_grad_(False), torch.randn(1, 5, 8).bfloat16()
    a, b = torch.nn.Parameter(torch.ones(3, 8)), torch.nn.Parameter(torch.ones(6, 3))
    before = way(x, base, a, b, 1.0).detach()
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    torch.optim.AdamW([a, b], lr=0.5, fused=True).step()
    assert not torch.allclose(way(x, base, a, b, 1.0), before, atol=0.5)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def model(request):
    config = RunConfig(number_format=request.param, lora_rank=4)
    model = add_adapter(load_base(str(BUILTIN_FOLDER), config), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    return model


def loss(model, rows: list[list[int]]) -> float:
    batch = collate([Rendered(row, [True] * len(row)) for row in rows], pad=0)
    del batch["tokens"]
    with torch.no_grad():
        return float(model(**batch, num_items_in_batch=1).loss)


def test_no_row_of_a_batch_sees_another_one_or_its_padding(model):
    rows = [[5 + i % 900 for i in range(n)] for n in (7, 150, 64, 300)]
    alone = sum(loss(model, [row]) for row in rows)
    assert loss(model, rows) == pytest.approx(alone, rel=1e-5 if model.dtype == torch.float32 else 2e-3)


def test_the_lean_model_is_the_library_s_model(model):
    """The same weights under PEFT's own layers, transformers' own MLP and torch's own attention."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(BUILTIN_FOLDER, dtype=model.dtype)
    theirs = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=list(model.peft_config["default"].target_modules)))
    set_peft_model_state_dict(theirs, get_peft_model_state_dict(model))
    ids = torch.arange(10, 400)[None]
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits.float().log_softmax(-1)
        got = model(input_ids=ids).logits.float().log_softmax(-1)
    assert (got - expected).abs().mean() < (1e-5 if model.dtype == torch.float32 else 0.03)


def test_an_adapter_that_is_switched_off_is_off(model):
    row = [[5, 6, 7, 8] * 40]
    with model.disable_adapter():
        off = loss(model, row)
    assert off != loss(model, row)


def test_generation_from_a_cache_says_what_the_whole_sequence_says(model):
    ids = torch.tensor([[5, 9, 200, 31, 7]])
    said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, use_cache=True)
    for length in range(5, said.shape[1]):
        with torch.no_grad():
            scores = model(input_ids=said[:, :length]).logits[0, -1]
        assert float(scores[said[0, length]]) == pytest.approx(float(scores.max()), abs=0.05)


def test_a_machine_s_number_formats_are_measured():
    speeds = measure("cpu")
    assert set(speeds) >= {"fp32", "bf16"}
    assert all(speed > 0 for speed in speeds.values())


def test_dropout_keeps_peft_s_own_layers():
    config = RunConfig(lora_dropout=0.5, lora_rank=4)
    model = add_adapter(load_base(str(BUILTIN_FOLDER), config), config)
    layer: SimpleNamespace = model.base_model.model.model.layers[0].mlp.up_proj
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("rows", [FILLED - 1, FILLED, 2 * FILLED])
def test_a_product_is_the_same_by_whichever_library(rows):
    x, weight, bias = torch.randn(2, rows, 48), torch.randn(80, 48), torch.randn(80)
    exact = x.double() @ weight.double().t()
    torch.testing.assert_close(linear(x, weight).double(), exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(linear(x, weight, bias).double(), exact + bias.double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(linear(exact.float(), weight.t()).double(), exact @ weight.double(), atol=1e-2, rtol=0)
