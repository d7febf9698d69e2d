"""The training step on tensors without data, against the formulas of gswa/memory.py and against what checkpointing is for."""

import json
from pathlib import Path
from typing import Any

import pytest

from gswa.config import RunConfig
from gswa.memory import FAMILIES, GB, HELD, NUMBER, Rows, predict, read_shape, working_gb

pytestmark = [
    pytest.mark.backend,
    # PEFT 0.21 and we ask transformers 5.23 by its old names, which its earlier versions have.
    pytest.mark.filterwarnings("ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"),
]
ROWS = Rows(320, 256, 0.75)
SHORT = Rows(128, 64, 0.75)


def base(folder: Path, family: str, **changes: Any) -> Path:
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    content = {"model_type": family, "vocab_size": 6000, "head_dim": 64, "tie_word_embeddings": True, "pad_token_id": 0, **sizes, **changes}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def count(folder: Path, config: RunConfig, rows: Rows = ROWS) -> Any:
    from gswa.backends.torch.fake import count

    return count(str(folder), config, rows)


def settings(**changes: Any) -> RunConfig:
    given = {"batch_size": 3, "eval_batch_size": 3, "gradient_accumulation": 2, "max_seq_length": 512, "memory_limit_gb": 8.0, **changes}
    return RunConfig.model_validate(given)


FULL = settings()
HALF = settings(number_format="bf16", num_layers=2, lora_rank=32)
HALF_AGAIN = settings(number_format="bf16", gradient_checkpointing=True)
LARGE = settings(batch_size=12, eval_batch_size=12)
LARGE_HALF = settings(number_format="bf16", batch_size=12, eval_batch_size=12)
FEW_LAYERS = settings(num_layers=2, eval_batch_size=12)
QUANTISED = settings(device="cuda", number_format="bf16", quantization="4bit", gradient_checkpointing=True)


@pytest.mark.parametrize(
    ("family", "config"),
    [(family, config) for family in FAMILIES for config in (FULL, QUANTISED)]
    + [(family, config) for family in ("llama", "qwen3", "gemma2") for config in (HALF, HALF_AGAIN, LARGE, LARGE_HALF, FEW_LAYERS)],
)
def test_the_formulas_are_within_a_twentieth_of_what_is_alive(family: str, config: RunConfig, tmp_path: Path) -> None:
    folder = base(tmp_path, family)
    counted = count(folder, config)
    predicted = predict(read_shape(json.loads((folder / "config.json").read_text())), config, ROWS)
    alive = (predicted.train_gb - predicted.baseline_gb - working_gb(config)) / HELD[config.device]
    assert alive == pytest.approx(counted.train_gb, rel=0.05)
    alive = (predicted.evaluate_gb - predicted.baseline_gb - working_gb(config)) / HELD[config.device]
    assert alive == pytest.approx(counted.evaluate_gb, rel=0.1)


def test_two_and_four_blocks_say_what_the_whole_model_takes(tmp_path: Path) -> None:
    from gswa.backends.torch import fake

    for number, config in enumerate((settings(), settings(num_layers=6))):
        folder = tmp_path / str(number)
        folder.mkdir()
        extrapolated = count(base(folder, "llama", num_hidden_layers=9), config, SHORT)
        few, fake.FEW, more, fake.MORE = fake.FEW, 7, fake.MORE, 9
        try:
            whole = count(folder, config, SHORT)
        finally:
            fake.FEW, fake.MORE = few, more
        assert extrapolated == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_a_checkpointed_block_costs_its_input_and_no_more(number_format: str, tmp_path: Path) -> None:
    """The recipes of gswa/backends/torch/blocks.py once held gate and up of every block until the forward pass had ended."""
    config = settings(gradient_checkpointing=True, number_format=number_format)
    deep, deeper = (count(base(tmp_path, "llama", num_hidden_layers=blocks), config, SHORT).train_gb for blocks in (6, 10))
    shape = read_shape(json.loads((tmp_path / "config.json").read_text()))
    block = predict(shape, config).adapter_gb / 10 + sum(a * b for a, b in shape.linears) * NUMBER[number_format] / GB
    inputs = config.batch_size * SHORT.train * shape.hidden * NUMBER[number_format] / GB
    assert (deeper - deep) / 4 == pytest.approx(block + inputs, rel=0.1)


def test_counting_needs_no_weights_and_changes_nothing(tmp_path: Path) -> None:
    folder = base(tmp_path, "qwen2")
    assert count(folder, settings()) == count(folder, settings())
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_of_an_architecture_that_the_library_does_not_know_nothing_is_counted(tmp_path: Path) -> None:
    from gswa.backends.torch import BACKEND
    from gswa.records import TrainJob

    job = TrainJob(action="count", run=tmp_path, model=str(base(tmp_path, "not-an-architecture")), data=tmp_path, config=settings())
    assert BACKEND.count_memory(job) == {}
