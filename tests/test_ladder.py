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


@pytest.mark.parametrize("backend", LADDERS)
@pytest.mark.parametrize("phase", ["load", "train", "evaluate", "save", "resume"])
def test_every_ladder_ends(backend, phase):
    assert len(descend(RunConfig(backend=backend, batch_size=64, gradient_accumulation=1), phase)) > 1


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (6, 1), (3, 3), (12, 2), (7, 1)])
def test_a_batch_rung_keeps_the_effective_batch_and_at_least_halves_the_micro_batch(batch, accumulation):
    configs = descend(RunConfig(batch_size=batch, gradient_accumulation=accumulation, gradient_checkpointing=True))
    assert {config.effective_batch_size for config in configs} == {batch * accumulation}
    assert all(lower.batch_size <= higher.batch_size / 2 for higher, lower in pairwise(configs))
    assert configs[-1].batch_size == 1


def test_the_guides_batches_go_8_4_2_1():
    configs = descend(RunConfig(batch_size=8, gradient_accumulation=1, gradient_checkpointing=True))
    assert [(config.batch_size, config.gradient_accumulation) for config in configs] == [(8, 1), (4, 2), (2, 4), (1, 8)]


def test_an_evaluation_without_memory_shrinks_the_evaluation_batch_first():
    first, second, third, *_ = descend(RunConfig(batch_size=4, eval_batch_size=4), "evaluate")
    assert (first.eval_batch_size, second.eval_batch_size, third.eval_batch_size) == (4, 2, 1)
    assert third.batch_size == 4


def test_a_training_step_without_memory_leaves_the_evaluation_batch():
    assert {config.eval_batch_size for config in descend(RunConfig(eval_batch_size=4))} == {4}
