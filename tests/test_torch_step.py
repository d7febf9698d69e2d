"""The parts of the torch step that are ours: each equals the library's own, forward and backward."""

import weakref
from types import SimpleNamespace

import pytest
import torch
from transformers.models.llama import modeling_llama as llama

from gswa.backends.torch import attention, lora
from gswa.backends.torch.attention import CausalAttention
from gswa.backends.torch.blocks import GATE_AND_UP, MORE, NOTHING, GatedMlp, GatedSilu, Recipes, RmsNorm
from gswa.backends.torch.data import collate
from gswa.backends.torch.formats import measure
from gswa.backends.torch.lora import Adapted, AddAdapter, use_lean_lora
from gswa.backends.torch.model import add_adapter, load_base
from gswa.backends.torch.products import FILLED, linear
from gswa.backends.torch.rotary import Rotated, instead_of
from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import RunConfig
from gswa.dataset import Rendered
from gswa.memory import AT_ONCE, QUERY_BLOCK

pytestmark = [
    pytest.mark.backend,
    # PEFT 0.21 and we ask transformers 5.23 by its old names, which its earlier versions have.
    pytest.mark.filterwarnings("ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"),
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


def layers(dtype: torch.dtype, into: int, *outs: int, bias: bool = False) -> tuple[list[torch.nn.Linear], list[torch.Tensor]]:
    """Frozen bases, and A and B of each."""
    torch.manual_seed(1)
    bases = [torch.nn.Linear(into, out, bias, dtype=dtype).requires_grad_(False) for out in outs]
    shapes = [shape for out in outs for shape in ((3, into), (out, 3))]
    return bases, [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def plainly(x: torch.Tensor, base: torch.nn.Linear, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return base(x) + 0.5 * (x @ a.t() @ b.t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # base and adapter as one product, and as two
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outs", [(6,), (6, 4, 2)])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("amx", [False, True])  # which few machines have: which side of the adapters' products comes first
def test_layers_with_one_input_are_each_base_plus_adapter(dtype, bias, outs, keeps, amx, monkeypatch):
    monkeypatch.setattr(lora, "by_amx", lambda _: amx)
    x = tensors((2, 5, 8))[0].to(dtype).detach().requires_grad_()
    bases, adapters = layers(dtype, 8, *outs, bias=bias)
    theirs = [plainly(x, base, a, b) for base, a, b in zip(bases, adapters[::2], adapters[1::2], strict=True)]
    same(torch.cat(Adapted.apply(x, keeps, bases, 0.5, *adapters), -1), torch.cat(theirs, -1), [x, *adapters])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at_once", [1, 3, 10, 64])
@pytest.mark.parametrize("keeps", [GATE_AND_UP, MORE])
@pytest.mark.parametrize("amx", [False, True])
def test_an_mlp_by_blocks_of_rows_is_the_mlp(dtype, at_once, keeps, amx, monkeypatch):
    monkeypatch.setattr(lora, "by_amx", lambda _: amx)
    x = tensors((2, 5, 8))[0].to(dtype).detach().requires_grad_()
    (gate, up), first = layers(dtype, 8, 6, 6)
    (down,), last = layers(dtype, 6, 8)
    theirs = plainly(F.silu(plainly(x, gate, *first[:2])) * plainly(x, up, *first[2:]), down, *last)
    same(GatedMlp.apply(x, at_once, keeps, [gate, up, down], 0.5, *first, *last), theirs, [x, *first, *last])


def test_an_mlp_that_is_not_trained_keeps_nothing():
    x = torch.randn(10, 8)
    (gate, up), first = layers(torch.float32, 8, 6, 6)
    (down,), last = layers(torch.float32, 6, 8)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        GatedMlp.apply(x, 4, NOTHING, [gate, up, down], 0.5, *first, *last)
    assert {tuple(tensor.shape) for tensor in kept} == {(10, 8), (3, 8), (6, 3), (3, 6), (8, 3)}


def test_layers_that_share_an_input_may_be_called_in_any_order_and_apart(model):
    attention = model.get_base_model().model.layers[0].self_attn
    layers, width = (attention.q_proj, attention.k_proj, attention.v_proj), attention.q_proj.in_features
    one, other = (torch.randn(1, 300, width, dtype=attention.q_proj.base_layer.weight.dtype) for _ in range(2))
    wanted = {x: [type(layer).forward(layer, x) for layer in layers] for x in (one, other)}
    for x, n in ((one, 2), (one, 0), (other, 0), (one, 0), (one, 0), (one, 1), (other, 1), (one, 2)):
        torch.testing.assert_close(layers[n](x).float(), wanted[x][n].float(), atol=0.02, rtol=0.02)


def test_rotary_positions_are_the_librarys():
    q, k, angles = tensors((2, 3, 5, 8), (2, 1, 5, 8), (1, 5, 4))
    cos, sin = (torch.cat((part, part), -1).detach() for part in (angles.cos(), angles.sin()))
    theirs = llama.apply_rotary_pos_emb(q, k, cos, sin)
    ours = Rotated.apply(q, k, cos[:, None], sin[:, None])
    same(torch.cat(ours, 1), torch.cat(theirs, 1), [q, k])


def by_neighbours(q, k, cos, sin, unsqueeze_dim=1):
    """As in GPT-J and Cohere's models."""

    def turned(x):
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + turned(q) * sin, k * cos + turned(k) * sin


def by_half_a_width(q, k, cos, sin, unsqueeze_dim=1):
    """As in GPT-OSS, whose cosines are half as wide as a head."""

    def turned(x):
        one, two = x.chunk(2, -1)
        return torch.cat((one * cos[:, None] - two * sin[:, None], two * cos[:, None] + one * sin[:, None]), -1)

    return turned(q), turned(k)


@pytest.mark.parametrize("theirs", [by_neighbours, by_half_a_width, lambda q, cos: q * cos, lambda q, k, cos, sin, unsqueeze_dim=1: q])
def test_positions_that_turn_otherwise_are_left_to_the_library(theirs, monkeypatch):
    monkeypatch.setattr(llama, "apply_rotary_pos_emb", theirs)
    base = load_base(str(BUILTIN_FOLDER), RunConfig())
    assert "forward" not in vars(base.model.layers[0].self_attn)


def test_other_models_of_the_process_turn_positions_as_before(model):
    library = llama.apply_rotary_pos_emb
    assert "forward" in vars(model.get_base_model().model.layers[0].self_attn)
    loss(model, [[5, 6, 7]])
    assert llama.apply_rotary_pos_emb is library
    assert library.__module__ == llama.__name__


def test_positions_in_more_digits_than_the_heads_are_left_to_the_library():
    """OLMo multiplies in fp32; cosines cast to bf16 before would lose digits."""
    q, k, angles = (tensor.detach() for tensor in tensors((1, 2, 300, 8), (1, 2, 300, 8), (1, 300, 8)))
    given = q.bfloat16(), k.bfloat16(), angles.float().cos(), angles.float().sin()
    for ours, theirs in zip(instead_of(llama.apply_rotary_pos_emb)(*given), llama.apply_rotary_pos_emb(*given), strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bias", [False, True])
def test_the_adapter_added_in_place_is_the_adapter_added(bias):
    x, a, b = tensors((2, 5, 8), (3, 8), (6, 3))
    base = torch.nn.Linear(8, 6, bias).double().requires_grad_(False)
    same(AddAdapter.apply(base(x), x, 0.5, a, b), base(x) + 0.5 * (x @ a.t() @ b.t()), [x, a, b])


def test_a_4_bit_product_with_a_bias_gets_its_adapter():
    """As in Qwen2: that product is a view, and autograd refused that it be written into."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    x, a, b = (tensor.detach().float().requires_grad_() for tensor in tensors((2, 5, 64), (3, 64), (96, 3)))
    base = bitsandbytes.nn.Linear4bit(64, 96, quant_type="nf4", compute_dtype=torch.float32).to("cpu").requires_grad_(False)
    same(AddAdapter.apply(base(x), x, 0.5, a, b), base(x) + 0.5 * (x @ a.t() @ b.t()), [x, a, b])


def test_the_gated_product_keeps_its_gradient():
    gate, up = tensors((3, 4), (3, 4))
    same(GatedSilu.apply(gate, up), F.silu(gate) * up, [gate, up])


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def test_the_norm_keeps_its_gradient():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.rand(8)
    same(RmsNorm.apply(x, weight, 1e-6)[0], rms_norm(x, weight), [x])


def test_the_norm_of_values_far_from_zero_keeps_its_gradient_in_16_bits():
    """LayerNorm's backward pass, which takes the gradients' mean away, is made use of."""
    torch.manual_seed(0)
    x, weight, upstream = ((torch.randn(*size) + 2).bfloat16() for size in ((2, 5, 64), (64,), (2, 5, 64)))
    (exact,) = torch.autograd.grad(rms_norm(wide := x.double().requires_grad_(), weight.double()), wide, upstream.double())
    (ours,) = torch.autograd.grad(RmsNorm.apply(x.requires_grad_(), weight, 1e-6)[0], x, upstream)
    assert (ours - exact).norm() < 0.02 * exact.norm()  # without the mean it is 1.15


def test_the_norm_of_large_values_keeps_its_gradient_in_fp16():
    """The sum of the gradients was written in fp16 before it was divided, and overflowed."""
    x, weight, upstream = torch.randn(2, 2048).half().requires_grad_(), torch.full((2048,), 5.0).half(), torch.full((2, 2048), 20.0).half()
    assert torch.autograd.grad(RmsNorm.apply(x, weight, 1e-6)[0], x, upstream)[0].isfinite().all()


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


BLOCK = QUERY_BLOCK[4]


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 300])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize(("keeps", "amx"), [(False, False), (True, False), (False, True)])
def test_causal_attention_in_blocks_is_attention(monkeypatch, length, key_heads, keeps, amx):
    monkeypatch.setattr(attention, "by_amx", lambda _: amx)
    q, k, v = tensors((2, 4, length, 8), (2, key_heads, length, 8), (2, key_heads, length, 8))
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    same(CausalAttention.apply(q, k, v, 8**-0.5, keeps), theirs, [q, k, v])


def test_attention_never_looks_ahead():
    q, k, v = tensors((1, 1, 200, 4), (1, 1, 200, 4), (1, 1, 200, 4))
    whole = CausalAttention.apply(q, k, v, 0.5, False)
    begun = CausalAttention.apply(q[:, :, :130], k[:, :, :130], v[:, :, :130], 0.5, False)
    assert torch.allclose(whole[:, :, :130], begun, atol=1e-12)


@pytest.mark.parametrize(
    "way",
    [
        lambda x, base, a, b: Adapted.apply(x, False, [base], 1.0, a, b)[0],
        lambda x, base, a, b: AddAdapter.apply(base(x), x, 1.0, a, b),
    ],
)
def test_a_bf16_adapter_follows_the_optimizer(way):
    """Fused AdamW changes a weight without counting up its version: a cast kept by version would stay behind."""
    base, x = torch.nn.Linear(8, 6, dtype=torch.bfloat16).requires_grad_(False), torch.randn(1, 5, 8).bfloat16()
    a, b = torch.nn.Parameter(torch.ones(3, 8)), torch.nn.Parameter(torch.ones(6, 3))
    before = way(x, base, a, b).detach()
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    torch.optim.AdamW([a, b], lr=0.5, fused=True).step()
    assert not torch.allclose(way(x, base, a, b), before, atol=0.5)


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


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
@pytest.mark.parametrize("num_layers", [1, None])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_gradient_is_that_of_peft(number_format, num_layers, checkpointing, monkeypatch):
    """Stock PEFT on the library's model; ours with an MLP that takes seven rows at once, so that blocks have a rest."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    monkeypatch.setitem(AT_ONCE, number_format, 7)
    config = RunConfig(number_format=number_format, lora_rank=4, num_layers=num_layers, device="cpu")
    model = add_adapter(load_base(str(BUILTIN_FOLDER), config), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    stock = get_peft_model(AutoModelForCausalLM.from_pretrained(BUILTIN_FOLDER, dtype=model.dtype), model.peft_config["default"])
    set_peft_model_state_dict(stock, get_peft_model_state_dict(model))
    ids = torch.arange(10, 110).view(2, 50)
    for each in (model, stock):
        if checkpointing:
            each.gradient_checkpointing_enable({"use_reentrant": False})
        each.train()
        each(input_ids=ids, labels=ids).loss.backward()
    ours, theirs = ({name: w.grad for name, w in each.named_parameters() if w.requires_grad} for each in (model, stock))
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        off = float((ours[name] - wanted).norm() / wanted.norm())
        assert off < (1e-4 if number_format == "fp32" else 0.1), name


def test_an_adapter_of_another_scale_keeps_it():
    config = RunConfig(lora_rank=4)
    model = add_adapter(load_base(str(BUILTIN_FOLDER), config), config)
    attention = model.get_base_model().model.layers[0].self_attn
    x = torch.randn(1, 40, attention.k_proj.in_features)
    torch.nn.init.normal_(attention.k_proj.lora_B["default"].weight)
    attention.k_proj.scaling["default"] *= 3
    wanted = [type(layer).forward(layer, x) for layer in (attention.q_proj, attention.k_proj)]
    use_lean_lora(model)
    for layer, each in zip((attention.q_proj, attention.k_proj), wanted, strict=True):
        torch.testing.assert_close(layer(x), each)


def test_what_a_failed_pass_left_is_not_taken_for_the_next(model):
    attention = model.get_base_model().model.layers[0].self_attn
    x = torch.randn(1, 40, attention.q_proj.in_features, dtype=model.dtype)
    with torch.no_grad():
        attention.q_proj(x)  # and then the pass failed
    assert attention.k_proj(x).requires_grad


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
