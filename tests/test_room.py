"""What a short micro-batch keeps in the memory that the longest needed."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from gswa.backends.torch import attention, room
from gswa.backends.torch.attention import CausalAttention
from gswa.backends.torch.fake import Tally
from gswa.backends.torch.loss import IGNORED
from gswa.backends.torch.model import DTYPES, add_adapter, make_ready
from gswa.backends.torch.room import Room, attention_weights, give_room
from gswa.config import RunConfig
from gswa.memory import QUERY_BLOCK, Rows, activations, read_shape

pytestmark = [
    pytest.mark.backend,
    # PEFT 0.21 and we ask transformers 5.23 by its old names, which its earlier versions have.
    pytest.mark.filterwarnings("ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"),
]
ROWS = 2


SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 300}


def make_model(family: str, number_format: str, batch_size: int = ROWS, num_layers: int | None = None, **sizes: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = RunConfig(number_format=number_format, lora_rank=4, batch_size=batch_size, num_layers=num_layers)
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 32 if family == "qwen3" else 16, "pad_token_id": 0, **sizes}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=DTYPES[number_format])
    make_ready(base, config)
    model = add_adapter(base, config).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    return model


MODELS = ["llama fp32", "llama bf16", "qwen2 bf16", "qwen3 fp32", "qwen3 bf16", "phi3 bf16", "gemma fp32", "llama bf16 amx"]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return make_model(*request.param.split()[:2])


@pytest.fixture(autouse=True)
def no_room_yet(request, monkeypatch):
    """A model that has seen no micro-batch, on a CPU whose attention has weights to keep, unless the model says otherwise."""
    amx = "amx" in request.node.name.partition("[")[2]
    monkeypatch.setattr(room, "by_amx", lambda _: amx)
    monkeypatch.setattr(attention, "by_amx", lambda _: amx)
    if "model" in request.fixturenames:
        base = request.getfixturevalue("model").get_base_model()
        give_room(base, base.room._config)


class Step(NamedTuple):
    """The gradients of a step, the bytes that it held after its forward pass, and the most that it held."""

    gradients: tuple[torch.Tensor, ...]
    kept: int
    most: int


def step(model: Any, width: int, targets: float, rows: int = ROWS) -> Step:
    """`targets` is a share of the tokens, or a count of them."""
    torch.manual_seed(width)
    words = model.config.vocab_size
    ids, count = torch.randint(0, words, (rows, width)), int(targets if targets > 1 else targets * width * rows)
    labels = ids.masked_fill(torch.arange(rows * width).view(rows, width) >= count + 1, IGNORED)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    weights = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]  # which the step does not make
    with Tally() as tally:
        for storage in weights:
            tally._seen.add(storage)
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=width).loss
        held = tally.alive
        return Step(torch.autograd.grad(loss, trained), held, tally.most)


def kept(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each call of attention from here on, whether its weights are kept."""
    told: list[bool] = []
    forward = CausalAttention.forward
    monkeypatch.setattr(CausalAttention, "forward", staticmethod(lambda ctx, *inputs: told.append(inputs[-1]) or forward(ctx, *inputs)))
    return told


def test_only_a_micro_batch_shorter_than_one_before_keeps_more_and_trains_the_same_to_the_bit(model, monkeypatch):
    """Or a resumed run, which has rehearsed its longest rows by then, would go on otherwise."""
    told = kept(monkeypatch)
    before = step(model, 64, 1.0)
    step(model, 300, 1.0)
    after = step(model, 64, 1.0)
    assert told == [False] * 8 + [not room.by_amx(None)] * 4
    assert all(torch.equal(x, y) for x, y in zip(before.gradients, after.gradients, strict=True))


def test_with_amx_attention_keeps_no_weights_and_leaves_its_room_to_others(monkeypatch):
    model = make_model("llama", "bf16")
    told, places = kept(monkeypatch), []
    for amx in (False, True):
        monkeypatch.setattr(room, "by_amx", lambda _, amx=amx: amx)
        monkeypatch.setattr(attention, "by_amx", lambda _, amx=amx: amx)
        base = model.get_base_model()
        give_room(base, base.room._config)
        step(model, 300, 1.0)
        base.room.begin(ROWS, 220, ROWS * 220)
        places.append(dict(base.room._places))
        step(model, 64, 1.0)
    assert told == [False] * 4 + [True] * 4 + [False] * 8
    assert "attention" not in places[1] and places[1]["mlp"] > places[0]["mlp"]


@pytest.mark.parametrize("told", [0.05, 1.0])
@pytest.mark.parametrize(("width", "targets"), [(64, 1.0), (150, 0.1), (200, 1.0), (250, 1.0), (280, 1.0), (290, 0.05)])
def test_what_is_kept_never_takes_more_than_was_needed_before(model, told, width, targets):
    """Room that few target tokens left on the longest rows is not theirs who have many."""
    alone = step(model, width, targets)
    longest = step(model, 300, told)
    short = step(model, width, targets)
    assert alone.most <= short.most <= max(alone.most, longest.most)
    assert short.kept > alone.kept or width > 200


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen2", {"number_format": "bf16", "batch_size": 1, "vocab_size": 60_000, "num_hidden_layers": 12}),
        ("mistral", {"number_format": "fp32", "num_layers": 2, "num_hidden_layers": 8, "num_key_value_heads": 1}),
        ("phi3", {"number_format": "fp32", "num_layers": 2, "num_hidden_layers": 8, "num_key_value_heads": 1}),
        ("llama", {"number_format": "fp32", "batch_size": 4, "num_layers": 1}),
    ],
    ids=["few targets of many words", "two blocks", "two blocks of packed layers", "one block"],
)
@pytest.mark.parametrize(("told", "targets"), [(2, 63), (63, 2), (64, 2), (65, 2), (2000, 2000)])
def test_nor_where_something_else_than_its_rows_is_large(family, settings, told, targets):
    model = make_model(family, **settings)
    rows = model.get_base_model().room._config.batch_size
    widths = (200, 264, 304, 350)
    alone = [step(model, width, min(targets, rows * width - rows), rows).most for width in widths]
    give_room(model.get_base_model(), model.get_base_model().room._config)
    longest = step(model, 370, min(told, rows * 360), rows).most
    for width, without in zip(widths, alone, strict=True):
        assert step(model, width, min(targets, rows * width - rows), rows).most <= max(without, longest)


def test_a_batch_of_fewer_rows_keeps_what_they_leave(model):
    alone = step(model, 300, 1.0, rows=1)
    longest = step(model, 300, 1.0)
    last = step(model, 300, 1.0, rows=1)
    assert alone.kept < last.kept and last.most <= longest.most


def test_an_evaluation_with_more_and_longer_rows_makes_no_room(model):
    alone = step(model, 64, 1.0).kept
    with torch.no_grad():
        ids = torch.randint(0, 300, (8, 400))
        model(input_ids=ids, labels=ids, num_items_in_batch=1)
    assert step(model, 64, 1.0).kept == alone


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_each_kind_that_has_a_place_is_kept(number_format):
    """What the forward pass leaves grows by what was counted: for attention less, whose blocks of queries are not all whole."""
    model = make_model("llama", number_format)
    room = model.get_base_model().room
    alone = step(model, 64, 1.0)
    grown = {}
    for kind in ("attention", "mlp", "adapter", "norm"):
        room._most = 0.0
        step(model, 300, 1.0)
        sizes = room._sizes(room._config, 64)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Room, "take", lambda self, asked, kind=kind: asked == kind)
            grown[kind] = (step(model, 64, 1.0).kept - alone.kept) / (sizes[kind][0] * sizes[kind][1])
    assert 0.5 < grown["attention"] <= 1
    assert 0.8 < grown["mlp"] <= 1
    assert 0.5 < grown["adapter"] <= 1 if number_format == "bf16" else grown["adapter"] == 0
    assert 0.5 < grown["norm"] <= 1


def test_blocks_are_counted_by_what_is_left_and_attention_comes_first():
    shape = read_shape({"model_type": "llama", **SIZES})
    config = RunConfig(number_format="bf16", batch_size=4)
    room = Room(shape, config)
    room.begin(4, 100, 400)
    assert not room.take("attention")
    room.begin(4, 200, 800)
    room.begin(4, 100, 400)
    needed = [activations(shape, config, Rows(width, width)) - 2 * 4 * width * 64 for width in (200, 100)]
    left = 0.97 * needed[0] - needed[1]
    assert left > 4 * attention_weights(shape, config, 100)
    assert [room.take("attention") for _ in range(5)] == [True] * 4 + [False]
    some = min(4, int((left - 4 * attention_weights(shape, config, 100)) // (2 * 4 * 100 * (128 + 24))))
    assert [room.take("mlp") for _ in range(5)] == [number < some for number in range(5)]


def test_the_weights_that_attention_keeps_are_no_more_than_is_counted():
    for dtype, number_format in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        shape = read_shape({"model_type": "llama", **SIZES, "hidden_size": 32})
        for width in (1, QUERY_BLOCK[dtype.itemsize] - 1, 100, 300):
            q, k, v = (torch.randn(2, 4, width, 8, dtype=dtype, requires_grad=True) for _ in range(3))
            saved = CausalAttention.apply(q, k, v, 0.5, True).grad_fn.saved_tensors[3:]
            counted = attention_weights(shape, RunConfig(number_format=number_format, batch_size=2), width)
            assert 0 < sum(weights.nbytes for weights in saved) <= counted


@pytest.mark.parametrize("settings", [{"model_type": "mamba"}, {"model_type": "gemma3n_text", "intermediate_size": [8, 8]}])
def test_a_model_whose_memory_is_not_foretold_loads_and_keeps_no_more(settings):
    base = torch.nn.Module()
    base.config = SimpleNamespace(to_dict=lambda: settings)
    give_room(base, RunConfig())
    assert not hasattr(base, "room")


def test_there_is_no_room_where_blocks_are_gone_through_again_or_on_a_card(model):
    base = model.get_base_model()
    config, again = base.room._config, RunConfig(gradient_checkpointing=True)
    del base.room
    for other in (again, RunConfig(device="cuda")):
        give_room(base, other)
        assert not hasattr(base, "room")
    give_room(base, config)
    assert base.room is base.model.layers[0].input_layernorm.room is base.model.layers[1].mlp.room is base.model.layers[0].self_attn.room
