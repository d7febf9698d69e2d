from itertools import pairwise

import pytest

from gswa.config import RunConfig
from gswa.ladder import LADDERS, next_rung


def descend(config: RunConfig, phase: str = "train") -> list[RunConfig]:
    configs = [config]
    while (descent := next_rung(configs[-1], phase)) is not None:
        configs.append(descent.config)
        assert len(configs) < 100
    return configs


def batch_rungs(config: RunConfig) -> list[RunConfig]:
    """As far down as only the batch has changed."""
    return [one for one in descend(config) if one.max_seq_length == config.max_seq_length and not one.gradient_checkpointing]


@pytest.mark.parametrize("backend", LADDERS)
@pytest.mark.parametrize("phase", ["load", "train", "evaluate", "save", "resume"])
def test_every_ladder_ends(backend, phase):
    assert len(descend(RunConfig(backend=backend, batch_size=64, gradient_accumulation=1), phase)) > 1


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (6, 1), (3, 3), (12, 2), (7, 1)])
def test_a_batch_rung_keeps_the_effective_batch_and_at_least_halves_the_micro_batch(batch, accumulation):
    configs = batch_rungs(RunConfig(batch_size=batch, gradient_accumulation=accumulation))
    assert {config.effective_batch_size for config in configs} == {batch * accumulation}
    assert all(lower.batch_size <= higher.batch_size / 2 for higher, lower in pairwise(configs))
    assert configs[-1].batch_size == 1


def test_the_guides_batches_go_8_4_2_1():
    configs = batch_rungs(RunConfig(batch_size=8, gradient_accumulation=1))
    assert [(config.batch_size, config.gradient_accumulation) for config in configs] == [(8, 1), (4, 2), (2, 4), (1, 8)]


def test_an_evaluation_without_memory_shrinks_the_evaluation_batch_first():
    first, second, third, *_ = descend(RunConfig(batch_size=4, eval_batch_size=4), "evaluate")
    assert (first.eval_batch_size, second.eval_batch_size, third.eval_batch_size) == (4, 2, 1)
    assert third.batch_size == 4


def test_a_training_step_without_memory_leaves_the_evaluation_batch():
    assert {config.eval_batch_size for config in descend(RunConfig(eval_batch_size=4))} == {4}


def test_the_whole_way_down_on_a_card_without_quantisation():
    start = RunConfig(device="cuda", batch_size=2, gradient_accumulation=4, max_seq_length=1024)
    changes = [{k: v for k, v in lower.model_dump().items() if higher.model_dump()[k] != v} for higher, lower in pairwise(descend(start))]
    assert changes == [
        {"batch_size": 1, "gradient_accumulation": 8},
        {"gradient_checkpointing": True},
        {"max_seq_length": 768},
        {"max_seq_length": 576},
        {"quantization": "4bit"},
        {"max_seq_length": 256, "gradient_accumulation": 16},
    ]


def test_on_a_mac_the_evaluation_batch_goes_first_and_layers_stop_at_four():
    start = RunConfig(backend="mlx", device="metal", batch_size=2, gradient_accumulation=4, max_seq_length=512, num_layers=16)
    configs = descend(start)
    assert configs[1].eval_batch_size == 1
    assert [config.num_layers for config in configs][-2:] == [4, 4]
    assert configs[-1].gradient_checkpointing
    assert min(config.max_seq_length for config in configs) == 256


@pytest.mark.parametrize("length", range(128, 4096, 100))
def test_every_length_on_the_way_is_a_multiple_of_64_and_no_shorter_than_256(length):
    for config in descend(RunConfig(max_seq_length=length))[1:]:
        assert config.max_seq_length == length or config.max_seq_length % 64 == 0
        assert config.max_seq_length >= min(length, 256)


@pytest.mark.parametrize("backend", LADDERS)
def test_every_rung_of_every_ladder_is_reached(backend):
    device = "cuda" if backend == "torch" else "metal"
    config = RunConfig(backend=backend, device=device, batch_size=8, gradient_accumulation=1, num_layers=16)
    reached = []
    while (descent := next_rung(config, "train")) is not None:
        reached.append(descent.rung)
        config = descent.config
    assert set(reached) == set(LADDERS[backend])
