"""The guide's tables, card by card."""

import pytest
from machines import apple, cpu, cuda

from gswa.config import BUILTIN_MODEL, RunConfig, resolve
from gswa.hardware import Hardware
from gswa.models import APPLE_MODELS, GUIDE_MODELS
from gswa.profiles import PROFILES, default_model, learning_rate_warning, model_layer, number_format, profile_for

# What the driver reports for the guide's example cards (MiB), and for what people rent.
CARDS = [
    ("GTX 1650", 4096, (7, 5), 4),
    ("RTX 3060 8GB", 8192, (8, 6), 8),
    ("RTX 4060", 8188, (8, 9), 8),
    ("RTX 4080", 16376, (8, 9), 16),
    ("RTX A4000", 16376, (8, 6), 16),
    ("Tesla T4", 15360, (7, 5), 16),
    ("RTX 3090", 24576, (8, 6), 24),
    ("RTX 4090", 24564, (8, 9), 24),
    ("RTX A5000", 24564, (8, 6), 24),
    ("RTX A6000", 49140, (8, 6), 48),
    ("A40", 46068, (8, 6), 48),
    ("H100", 81559, (9, 0), 48),
    ("RTX 3060 12GB", 12288, (8, 6), 8),
    ("A100 40GB", 40960, (8, 0), 24),
]
SETTINGS = {
    4: (1, 512, "4bit"),
    8: (1, 1024, "4bit"),
    16: (2, 1536, "4bit"),
    24: (4, 2048, "4bit"),
    48: (8, 2048, "none"),
}
CUDA_MODELS = {
    4: "Qwen/Qwen2.5-1.5B-Instruct",
    8: "microsoft/Phi-3.5-mini-instruct",
    16: "Qwen/Qwen2.5-7B-Instruct",
    24: "Qwen/Qwen2.5-14B-Instruct",
    48: "Qwen/Qwen2.5-14B-Instruct",
}
APPLE = {
    8: (1, 512, 4, "mlx-community/Qwen2.5-1.5B-Instruct-4bit"),
    16: (1, 1024, 8, "mlx-community/Mistral-7B-Instruct-v0.2-4bit"),
    32: (2, 1536, 12, "mlx-community/Mistral-7B-Instruct-v0.2-4bit"),
    64: (4, 2048, 16, "mlx-community/Qwen2.5-14B-Instruct-4bit"),
    128: (8, 4096, 24, "mlx-community/Qwen2.5-14B-Instruct-4bit"),
}


MACHINES = [cpu(), *(cuda(mib, capability) for _, mib, capability, _ in CARDS), *(apple(gb) for gb in APPLE)]


# -- rows --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "mib", "capability", "row"), CARDS, ids=[card[0] for card in CARDS])
def test_every_card_lands_in_its_row(name: str, mib: int, capability: tuple[int, int], row: int) -> None:
    layer = profile_for(cuda(mib, capability))
    values = layer.values
    assert layer.origin == f"profile cuda {row} GB"
    assert (values["batch_size"], values["max_seq_length"], values["quantization"]) == SETTINGS[row]
    assert (values["backend"], values["device"], values["gradient_checkpointing"]) == ("torch", "cuda", True)
    assert values["number_format"] == ("bf16" if capability >= (8, 0) else "fp16")
    assert values["model_id"] == CUDA_MODELS[row]


@pytest.mark.parametrize("gb", APPLE)
def test_every_mac_lands_in_its_row(gb: int) -> None:
    layer = profile_for(apple(gb))
    values = layer.values
    assert layer.origin == f"profile metal {gb} GB"
    assert (values["batch_size"], values["max_seq_length"], values["num_layers"], values["model_id"]) == APPLE[gb]
    assert (values["backend"], values["device"], values["number_format"]) == ("mlx", "metal", "bf16")


def test_between_two_rows_the_lower_one_holds() -> None:
    assert profile_for(apple(24)).origin == "profile metal 16 GB"
    assert profile_for(apple(256)).origin == "profile metal 128 GB"


def test_below_the_smallest_row_it_is_used() -> None:
    assert profile_for(cuda(3072)).origin == "profile cuda 4 GB"


def test_a_memory_limit_chooses_the_row() -> None:
    assert profile_for(cuda(24576, memory_limit_gb=8)).origin == "profile cuda 8 GB"


def test_tables_are_sorted_with_the_largest_first() -> None:
    tables = [[row.memory_gb for row in table] for table in PROFILES.values()]
    tables += [[model.memory_gb or 0 for model in table] for table in (GUIDE_MODELS, APPLE_MODELS)]
    assert tables == [sorted(figures, reverse=True) for figures in tables]


# -- CPU ---------------------------------------------------------------------------------------------------------------
def test_a_cpu_trains_the_built_in_base() -> None:
    config = resolve(profile_for(cpu()), model_layer(BUILTIN_MODEL)).config
    assert (config.model_id, config.batch_size, config.gradient_accumulation, config.eval_batch_size) == (BUILTIN_MODEL, 4, 2, 4)
    assert (config.max_seq_length, config.number_format, config.device, config.learning_rate) == (1024, "fp32", "cpu", 5e-3)


def test_only_a_base_that_it_was_measured_on_changes_the_learning_rate() -> None:
    assert resolve(profile_for(cpu()), model_layer("smollm2-135m")).config.learning_rate == 1e-3
    assert "learning_rate" not in model_layer("Qwen/Qwen2.5-1.5B-Instruct").values
    assert resolve(profile_for(cpu()), model_layer("other")).config.learning_rate == 2e-4


# -- every machine -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hardware", MACHINES, ids=lambda hardware: profile_for(hardware).origin)
def test_every_profile_is_a_valid_configuration_with_effective_batch_8(hardware: Hardware) -> None:
    for memory_safe in (False, True):
        assert resolve(profile_for(hardware, memory_safe)).config.effective_batch_size == 8


@pytest.mark.parametrize("hardware", MACHINES, ids=lambda hardware: profile_for(hardware).origin)
def test_memory_safe_needs_less_on_every_machine(hardware: Hardware) -> None:
    plain, safe = resolve(profile_for(hardware)).config, resolve(profile_for(hardware, memory_safe=True)).config
    assert (safe.eval_batch_size, safe.margin, safe.model_id) == (1, 0.7, plain.model_id)
    lower = safe.batch_size * safe.max_seq_length < plain.batch_size * plain.max_seq_length
    assert lower or (safe.quantization, plain.quantization) == ("4bit", "none")


def test_memory_safe_is_the_next_lower_row() -> None:
    safe = profile_for(cuda(24576), memory_safe=True)
    assert (safe.values["batch_size"], safe.values["max_seq_length"]) == SETTINGS[16][:2]
    assert safe.origin == "profile cuda 24 GB, memory-safe"


# -- warnings ----------------------------------------------------------------------------------------------------------
def test_a_rate_too_small_for_the_adapter_warns() -> None:
    guide = RunConfig(learning_rate=1e-5, lora_rank=8)
    warning = learning_rate_warning(guide)
    assert warning is not None
    assert "learn almost nothing" in warning
    assert learning_rate_warning(guide.replace(lora_alpha=160)) is None
    assert learning_rate_warning(RunConfig()) is None


def test_an_unquantised_row_never_gets_a_model_that_needs_4_bits() -> None:
    assert default_model(cuda(143771)) == "Qwen/Qwen2.5-14B-Instruct"


# -- number formats ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({}, "fp32"),
        ({"fp32": 90.0, "bf16": 4.0, "fp16": 5.0}, "fp32"),  # AVX2: a format that a processor merely knows is no gain
        ({"fp32": 90.0, "bf16": 95.0, "fp16": 20.0}, "fp32"),
        ({"fp32": 90.0, "bf16": 210.0, "fp16": 20.0}, "bf16"),
        ({"fp32": 90.0, "bf16": 4.0, "fp16": 400.0}, "fp32"),  # fp16 would need a gradient scaler
    ],
)
def test_a_cpu_computes_in_the_format_that_was_measured_to_be_fast(speeds, expected):
    assert number_format(cpu(number_formats=speeds)) == expected


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({"fp32": 8.0, "bf16": 4.0, "fp16": 25.0}, "fp16"),  # Turing emulates bf16
        ({"fp32": 20.0, "bf16": 70.0, "fp16": 72.0}, "bf16"),
        ({"fp32": 8.0, "fp16": 0.2}, "fp32"),  # Pascal
    ],
)
def test_a_card_computes_in_the_format_that_was_measured_to_be_fast(speeds, expected):
    assert number_format(cuda(24576, number_formats=speeds)) == expected
