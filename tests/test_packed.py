"""Rows packed into one line train as each of them alone does; on the CPU the kernel is a loop over the rows, all else is the same."""

import math
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from small_job import make_job

from gswa.backends.child import run_child
from gswa.backends.torch import packed
from gswa.backends.torch.backend import _trainer
from gswa.backends.torch.data import collate
from gswa.backends.torch.model import add_adapter, load_base
from gswa.backends.torch.packed import attention, is_right, pack, use_packed_attention
from gswa.backends.torch.rehearsal import rehearse
from gswa.backends.torch.trainer import PACKED, SIDE_BY_SIDE
from gswa.backends.worker import Messages
from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import RunConfig
from gswa.dataset import Rendered
from gswa.rundir import RunDir

pytestmark = [
    pytest.mark.backend,
    # Its old names: PEFT 0.21 asks for one, and our floor (transformers 5.20) has only the other.
    pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning"),
]
LENGTHS = (7, 150, 64, 1, 300)


def rows() -> list[Rendered]:
    """Some tokens carry loss, the first of each among them."""
    return [Rendered([5 + (i * i + n) % 900 for i in range(n)], [i % 3 == 0 for i in range(n)]) for n in LENGTHS]


@pytest.fixture(scope="module", params=["fp32", "bf16", "checkpointing"])
def model(request):
    again = request.param == "checkpointing"
    config = RunConfig(number_format="bf16" if request.param == "bf16" else "fp32", lora_rank=4, gradient_checkpointing=again)
    base = load_base(str(BUILTIN_FOLDER), config)
    base.set_attn_implementation(packed.register())
    model = add_adapter(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    if again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    return model


def loss_and_gradient(model, batch) -> tuple[float, torch.Tensor]:
    batch.pop("tokens")
    model.zero_grad()
    loss = model(**batch, num_items_in_batch=1).loss
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_packed_line_has_the_loss_and_the_gradient_of_every_row_alone(model):
    exact = model.dtype == torch.float32
    alone = [loss_and_gradient(model, collate([row], pad=0)) for row in rows() if len(row.ids) > 1]
    loss, gradient = loss_and_gradient(model, pack(rows()))
    assert loss == pytest.approx(sum(one for one, _ in alone), rel=1e-5 if exact else 2e-3)
    expected = sum(one for _, one in alone)
    assert float((gradient - expected).norm() / expected.norm()) < (1e-5 if exact else 2e-2)


def test_rows_side_by_side_are_what_they_were(model):
    """An evaluation does not pack."""
    batch = collate(rows(), pad=0)
    expected = sum(loss_and_gradient(model, collate([row], pad=0))[0] for row in rows() if len(row.ids) > 1)
    assert loss_and_gradient(model, batch)[0] == pytest.approx(expected, rel=1e-5 if model.dtype == torch.float32 else 2e-3)


def test_a_packed_line_has_no_padding_and_no_target_across_rows():
    line = pack(rows())
    assert line["input_ids"].shape == (1, sum(LENGTHS))
    assert line["cu_seq_lens_q"].tolist() == [0, 7, 157, 221, 222, 522]
    assert all(line["labels"][0, start] == -100 for start in line["cu_seq_lens_q"][:-1])
    assert line["position_ids"][0, 157] == 0
    assert pack([])["input_ids"].numel() == 0


@pytest.mark.parametrize(("dtype", "shape"), [(torch.float32, (4, 2, 8)), (torch.bfloat16, (28, 4, 128)), (torch.float16, (14, 2, 64))])
def test_a_leak_between_rows_would_be_seen(dtype, shape, monkeypatch):
    """The check before a kernel is trusted: attention over the whole line, as if it were one row, is not right. In bf16 it trusted none."""
    assert is_right(torch.device("cpu"), dtype, *shape)
    whole = packed.each_row
    monkeypatch.setattr(packed, "each_row", lambda q, k, v, bounds, *rest: whole(q, k, v, bounds[[0, -1]], *rest))
    assert not is_right(torch.device("cpu"), dtype, *shape)


def test_no_mask_of_line_by_line_is_drawn():
    seen = []

    def look(module, query, key, value, mask, **options):
        seen.append(mask)
        return attention(module, query, key, value, mask, **options)

    from transformers import AttentionInterface

    base = load_base(str(BUILTIN_FOLDER), RunConfig())
    base.set_attn_implementation(packed.register())
    AttentionInterface.register(packed.NAME, look)
    try:
        line = pack(rows())
        del line["tokens"]
        base(**line, num_items_in_batch=1)
    finally:
        packed.register()
    assert seen == [None] * base.config.num_hidden_layers


def test_on_a_cpu_rows_lie_side_by_side():
    base = load_base(str(BUILTIN_FOLDER), RunConfig())
    assert not use_packed_attention(base)


@pytest.mark.parametrize("sizes", [{"batch_size": 2, "gradient_accumulation": 2}, {"batch_size": 3, "gradient_accumulation": 2}])
def test_a_run_on_packed_lines_has_the_losses_of_one_with_padding(sizes, tokenizer, tmp_path):
    padded = make_job(tmp_path / "padded", tokenizer, **sizes)
    run_child(padded)
    job = make_job(tmp_path / "packed", tokenizer, **sizes)
    with Path(os.devnull).open("wb") as nowhere, ExitStack() as files:
        trainer = _trainer(job, Messages(RunDir(job.run), nowhere.fileno()))
        for data in trainer.data.values():
            for file in data.files:
                files.enter_context(file)
        trainer.model.base_model.model.set_attn_implementation(packed.register())
        rehearse(trainer)
        assert set(trainer.batching) == {SIDE_BY_SIDE, PACKED} and min(trainer.batching.values()) > 0
        trainer.capacity = sizes["batch_size"] * max(trainer.data["train"].lengths)
        trainer.train()
    steps, expected = RunDir(job.run).steps(), RunDir(padded.run).steps()
    assert [step.train_loss for step in steps] == pytest.approx([step.train_loss for step in expected], abs=1e-5)
    assert [step.trained_tokens for step in steps] == [step.trained_tokens for step in expected]
    assert {step.padding_fraction for step in steps} == {0}
    assert max(step.padding_fraction for step in expected) > 0


@pytest.mark.parametrize(("at_once", "rehearsed"), [(True, 0), (False, 1)])
def test_a_first_step_that_is_as_large_as_any_is_its_own_rehearsal(at_once, rehearsed, tokenizer, tmp_path):
    job = make_job(tmp_path, tokenizer)
    seen = []
    with Path(os.devnull).open("wb") as nowhere, ExitStack() as files:
        trainer = _trainer(job, Messages(RunDir(job.run), nowhere.fileno()))
        for data in trainer.data.values():
            for file in data.files:
                files.enter_context(file)
        trainer.model.register_forward_hook(lambda model, *_: seen.append(model.training))
        rehearse(trainer, at_once)
        assert seen.count(True) == rehearsed
        assert bool(trainer.reserved) == at_once
        trainer.train()
        assert trainer.reserved == []


@pytest.mark.gpu
def test_the_kernel_for_packed_lines_is_right_on_this_card(tokenizer, tmp_path):
    """Grouped queries and a head of 32, as in the built-in model; then a whole run chooses by measurement and says so."""
    config = RunConfig(number_format="bf16", device="cuda", lora_rank=4)
    base = load_base(str(BUILTIN_FOLDER), config)
    assert use_packed_attention(base)
    model = add_adapter(base, config)
    on_card = {name: value.cuda() if torch.is_tensor(value) else value for name, value in pack(rows()).items()}
    alone = [loss_and_gradient(model, {n: v.cuda() for n, v in collate([row], pad=0).items()})[0] for row in rows() if len(row.ids) > 1]
    assert math.isclose(loss_and_gradient(model, on_card)[0], sum(alone), rel_tol=5e-3)
    job = make_job(tmp_path, tokenizer, number_format="bf16", device="cuda")
    result = run_child(job)
    assert result["batching"] in (SIDE_BY_SIDE, PACKED) and set(result["batching_tokens_per_sec"]) == {SIDE_BY_SIDE, PACKED}
