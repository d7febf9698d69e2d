"""What a short micro-batch keeps in the memory that the longest needed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gswa.backends.torch.attention import CausalAttention
from gswa.backends.torch.fake import Tally
from gswa.backends.torch.loss import IGNORED
from gswa.backends.torch.model import DTYPES, add_adapter, make_ready
from gswa.backends.torch.room import Room, give_room
from gswa.config import RunConfig
from gswa.memory import QUERY_BLOCK, Rows, activations, attention_weights, read_shape

pytestmark = [
    pytest.mark.backend,
    # PEFT 0.21 and we ask transformers 5.23 by its old names, which its earlier versions have.
    pytest.mark.filterwarnings("ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"),
]
ROWS = 2


SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 300}


@pytest.fixture(scope="module", params=["llama fp32", "llama bf16", "qwen2 bf16", "qwen3 fp32", "qwen3 bf16", "phi3 bf16", "gemma fp32"])
def model(request):
    from transformers import AutoConfig, AutoModelForCausalLM

    family, number_format = request.param.split()
    config = RunConfig(number_format=number_format, lora_rank=4, batch_size=ROWS)
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 32 if family == "qwen3" else 16, "pad_token_id": 0}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=DTYPES[number_format])
    make_ready(base, config)
    model = add_adapter(base, config).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(autouse=True)
def no_room_yet(request):
    """A model that has seen no micro-batch."""
    if "model" in request.fixturenames:
        base = request.getfixturevalue("model").get_base_model()
        give_room(base, base.room._config)


def gradients(model: Any, width: int, targets: float) -> tuple[list[torch.Tensor], int]:
    """And the most bytes that were alive meanwhile."""
    torch.manual_seed(width)
    ids = torch.randint(0, 300, (ROWS, width))
    labels = ids.masked_fill(torch.arange(width) >= width * targets, IGNORED)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    with Tally() as tally:
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=width).loss
        found = torch.autograd.grad(loss, trained)
    return list(found), tally.most


def kept(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each call of attention from here on, whether its weights are kept."""
    told: list[bool] = []
    forward = CausalAttention.forward
    monkeypatch.setattr(CausalAttention, "forward", staticmethod(lambda ctx, *inputs: told.append(inputs[-1]) or forward(ctx, *inputs)))
    return told


def test_only_a_micro_batch_shorter_than_one_before_keeps_more_and_trains_the_same_to_the_bit(model, monkeypatch):
    """Or a resumed run, which has rehearsed its longest rows by then, would go on otherwise."""
    told = kept(monkeypatch)
    before, _ = gradients(model, 64, 1.0)
    gradients(model, 300, 1.0)
    after, _ = gradients(model, 64, 1.0)
    assert told == [False] * 8 + [True] * 4
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize("told", [0.05, 1.0])
@pytest.mark.parametrize(("width", "targets"), [(64, 1.0), (150, 0.1), (200, 1.0), (250, 1.0), (280, 1.0), (290, 0.05)])
def test_what_is_kept_never_takes_more_than_was_needed_before(model, told, width, targets):
    """Room that few target tokens left on the longest rows is not theirs who have many."""
    _, alone = gradients(model, width, targets)
    _, longest = gradients(model, 300, told)
    _, short = gradients(model, width, targets)
    assert alone <= short <= max(alone, 1.005 * longest)  # adapters, which no formula counts here, are a tenth of so small a model
    assert short > alone or width > 200


def test_blocks_are_counted_by_what_is_left_and_attention_comes_first():
    shape = read_shape({"model_type": "llama", **SIZES})
    config = RunConfig(number_format="bf16", batch_size=4)
    room = Room(shape, config)
    room.begin(4, 100, 400)
    assert not room.take("attention")
    room.begin(4, 200, 800)
    room.begin(4, 100, 400)
    left = 0.99 * activations(shape, config, Rows(200, 200)) - activations(shape, config, Rows(100, 100))
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
