"""Liger's cross-entropy: the same loss and gradient as our chunks, taken where it is faster, never where it is wrong or missing."""

import os
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from extras import extra
from small_job import make_job

from gswa.backends.child import run_child
from gswa.backends.torch import fused
from gswa.backends.torch.loss import chunked
from gswa.backends.torch.model import add_adapter, load_base
from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import RunConfig

pytestmark = [
    pytest.mark.backend,
    # PEFT 0.21 asks transformers 5.23 by its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def random_model(rows: int, width: int) -> SimpleNamespace:
    torch.manual_seed(0)
    head = SimpleNamespace(weight=torch.randn(rows, width))
    return SimpleNamespace(get_output_embeddings=lambda: head, cross_entropy=chunked)


def instead(monkeypatch, function):
    """What Liger's kernel would do on this machine."""
    monkeypatch.setattr(fused, "fused", function)


def loss_of_one_product(hidden, head, targets, divisor):
    return torch.nn.functional.cross_entropy(hidden @ head.t(), targets, reduction="sum") / divisor


def slow(*given):
    """By far: on a busy machine the fast one has taken 0.06 seconds at least."""
    time.sleep(0.5)
    return chunked(*given)


def test_without_the_package_the_chunks_stay(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    model = random_model(50, 8)
    assert fused.choose(model, 20) == {}
    assert fused.chosen(model) == fused.CHUNKED


def test_rows_without_a_target_have_no_loss_either_way():
    hidden, targets = torch.ones(0, 8, requires_grad=True), torch.ones(0, dtype=torch.long)
    loss = fused.fused(hidden, torch.ones(50, 8), targets, 5)
    assert loss == chunked(hidden, torch.ones(50, 8), targets, 5) == 0
    loss.backward()
    assert hidden.grad.shape == (0, 8)


def test_a_faster_loss_that_is_the_same_is_taken_and_both_times_are_told(monkeypatch):
    model = random_model(50, 8)
    monkeypatch.setattr(fused, "chunked", slow)
    instead(monkeypatch, loss_of_one_product)
    found = fused.choose(model, 20)
    assert set(found) == {fused.CHUNKED, fused.FUSED}
    assert found[fused.FUSED] < found[fused.CHUNKED]
    assert model.cross_entropy is loss_of_one_product


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_a_faster_loss_that_is_wrong_is_not_taken(factor, monkeypatch):
    model = random_model(50, 8)
    monkeypatch.setattr(fused, "chunked", slow)
    instead(monkeypatch, lambda *given: factor * loss_of_one_product(*given))
    assert fused.choose(model, 20)
    assert model.cross_entropy is chunked


def test_a_kernel_that_does_not_run_here_leaves_the_chunks(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    model = random_model(50, 8)
    instead(monkeypatch, broken)
    with caplog.at_level("INFO", "gswa"):
        assert fused.choose(model, 20) == {}
    assert model.cross_entropy is chunked
    assert "does not run here: Failed to find C compiler. Please specify via CC environment variable." in caplog.text


def test_a_model_that_keeps_its_own_loss_has_no_choice():
    assert fused.choose(SimpleNamespace(), 20) == {}


@pytest.mark.skipif("TRITON_INTERPRET" not in os.environ, reason="Triton's interpreter is asked for by TRITON_INTERPRET=1, as in .ci/run")
def test_ligers_kernel_says_what_the_chunks_say():
    extra("triton")
    extra("liger_kernel.ops")
    base = load_base(str(BUILTIN_FOLDER), RunConfig())
    model = add_adapter(base, RunConfig())
    weights = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    ids = torch.randint(0, base.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(12) > 4, ids, -100)
    found = {}
    for cross_entropy in (chunked, fused.fused):
        base.cross_entropy = cross_entropy
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=5).loss
        found[cross_entropy] = loss, *torch.autograd.grad(loss, weights)
    for ours, theirs in zip(*found.values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert set(fused.choose(base, 20)) == {fused.CHUNKED, fused.FUSED}


@pytest.mark.gpu
def test_on_a_card_the_faster_loss_is_chosen_and_told(tokenizer, tmp_path):
    extra("liger_kernel")
    result = run_child(make_job(tmp_path, tokenizer, number_format="bf16", device="cuda"))
    times = result["cross_entropy_ms"]
    assert set(times) == {fused.CHUNKED, fused.FUSED}
    assert result["cross_entropy"] in times
