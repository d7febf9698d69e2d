"""The memory model against published sizes, and against what it is for: smaller settings need less."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import RunConfig
from gswa.errors import ConfigError
from gswa.ladder import LADDERS
from gswa.memory import FAMILIES, GB, NF4, Prediction, Rows, adapter_parameters, base_bytes, predict, read_shape
from gswa.models import MODELS, model_named

# Parameters as the hub counts them in each model's safetensors.
PUBLISHED = {
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mistral-Large-Instruct-2407": 122_610_069_504,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "smollm2-135m": 134_515_008,
}


def shape(family: str = "llama", **changes: Any):
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4}
    return read_shape({"model_type": family, "vocab_size": 32000, "tie_word_embeddings": True, **sizes, **changes})


def peak(config: RunConfig, family: str = "llama", **changes: Any) -> float:
    return predict(shape(family, **changes), config).peak_gb


# -- sizes ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model_id", PUBLISHED)
def test_the_sizes_in_the_table_add_up_to_the_published_total(model_id: str) -> None:
    model = model_named(model_id)
    assert model is not None
    assert read_shape(model.config).parameters == PUBLISHED[model_id]


def test_the_built_in_bases_row_is_its_own_config() -> None:
    row = model_named("gswa-tiny")
    assert row is not None
    assert read_shape(row.config) == read_shape(json.loads((BUILTIN_FOLDER / "config.json").read_text()))


@pytest.mark.backend
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_that_transformers_makes(family: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family, hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=640,
        head_dim=32, tie_word_embeddings=family != "phi3", pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert read_shape(config.to_dict()).parameters == sum(p.numel() for p in model.parameters())


def test_an_architecture_that_is_not_known_is_an_error_and_no_guess() -> None:
    with pytest.raises(ConfigError, match="type mixtral"):
        shape("mixtral")


def test_a_model_that_also_sees_is_counted_by_its_text_part() -> None:
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 99,
    }
    assert read_shape({"model_type": "gemma3", "text_config": text}) == read_shape(text)


def test_four_bits_are_for_the_blocks_and_nothing_else() -> None:
    sizes, config = shape(), RunConfig(number_format="bf16", quantization="4bit")
    assert base_bytes(sizes, config) == sizes.quantised * NF4 + sizes.plain * 2
    assert round(8 * NF4, 3) == 4.127  # bits with double quantisation: QLoRA, section 3


def test_tied_embeddings_are_counted_once() -> None:
    assert shape(tie_word_embeddings=False).parameters - shape().parameters == 32000 * 512


def test_a_packed_matrix_has_one_adapter_where_three_would_have_more() -> None:
    config = RunConfig(lora_rank=8)
    assert adapter_parameters(shape("phi3"), config) < adapter_parameters(shape("llama"), config)
    assert shape("phi3").quantised == shape("llama").quantised


# -- peaks ---------------------------------------------------------------------------------------------------------------
def test_the_guides_24_gb_row_holds_with_a_chunked_loss() -> None:
    """About 11 GB for the 7B Qwen; 27 GB with a loss over all logits (facts: derived, and checked against two published tables)."""
    model = model_named("Qwen/Qwen2.5-7B-Instruct")
    assert model is not None
    row = RunConfig(
        device="cuda",
        number_format="bf16",
        quantization="4bit",
        batch_size=4,
        eval_batch_size=4,
        max_seq_length=2048,
        gradient_checkpointing=True,
    )
    assert predict(read_shape(model.config), row).peak_gb == pytest.approx(11, rel=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@given(
    batch=st.integers(0, 4),
    length=st.integers(3, 32),
    device=st.sampled_from(("cpu", "cuda")),
    number_format=st.sampled_from(("fp32", "bf16")),
    checkpointing=st.booleans(),
    layers=st.sampled_from((None, 4)),
    limit=st.sampled_from((None, 8.0)),
)
def test_every_rung_of_the_ladder_lowers_the_predicted_peak_or_leaves_it(
    family: str, batch: int, length: int, layers: int | None, **settings: Any
) -> None:
    settings = {"gradient_checkpointing": settings.pop("checkpointing"), "memory_limit_gb": settings.pop("limit"), **settings}
    config = RunConfig(
        batch_size=2**batch, gradient_accumulation=16, eval_batch_size=1, max_seq_length=64 * length, num_layers=layers, **settings
    )
    for rung in LADDERS["torch"]:
        smaller = rung.step(config)
        if smaller is not None:
            assert peak(smaller, family) <= peak(config, family)


def test_every_phase_holds_at_least_the_weights() -> None:
    for config in (RunConfig(), RunConfig(quantization="4bit", device="cuda", number_format="bf16")):
        found: Prediction = predict(shape(), config)
        least = found.baseline_gb + found.weights_gb
        assert min(found.load_gb, found.train_gb, found.evaluate_gb, found.save_gb) >= least
        assert found.peak_gb >= found.train_gb


def test_short_rows_need_less_than_the_limit_allows() -> None:
    config = RunConfig(max_seq_length=1024)
    assert predict(shape(), config, Rows(200, 200)).peak_gb < predict(shape(), config).peak_gb
    assert predict(shape(), config, Rows(4000, 4000)) == predict(shape(), config)


def test_evaluation_alone_grows_with_its_own_batch() -> None:
    small, large = (predict(shape(), RunConfig(eval_batch_size=size)) for size in (1, 64))
    assert (small.train_gb, small.save_gb) == (large.train_gb, large.save_gb)
    assert large.evaluate_gb > small.evaluate_gb


def test_logits_that_must_all_be_kept_cost_what_a_chunk_does_not() -> None:
    """Gemma 2 caps its logits, so that its loss is over the whole matrix: tokens × vocabulary × at least two fp32 tensors."""
    config = RunConfig(batch_size=4, max_seq_length=1024)
    assert peak(config, "gemma2") - peak(config, "gemma") > 4 * 1024 * 32000 * 8 / GB


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.model_id)
def test_memory_can_be_predicted_for_every_row_of_our_table(model: Any) -> None:
    assert predict(read_shape(model.config), RunConfig(model_id=model.model_id)).peak_gb > 0
