"""What `info` says of machines that are not here."""

import json
from pathlib import Path

import pytest
from machines import apple, cpu, cuda

from gswa.advice import info_json, info_table, models_table, notes, outlooks, truths_table
from gswa.hardware import Hardware
from gswa.models import MODELS
from gswa.workspace import Workspace

MACHINES = [cpu(), cuda(4096, (7, 5)), cuda(16376), cuda(24564), cuda(49140), cuda(81559, (9, 0)), apple(8), apple(64)]


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def verdicts(hardware: Hardware, here: Workspace) -> dict[str, str]:
    return {each.model.model_id: each.verdict for each in outlooks(hardware, here)}


# -- the table -----------------------------------------------------------------------------------------------------------
def test_info_says_what_is_recommended_and_why(here: Workspace) -> None:
    rows = dict(info_table(cuda(16376, name="RTX 4080", driver="570.86.10", cuda="12.8"), here))
    assert rows["GPU 0"].startswith("RTX 4080, 16.0 GB")
    assert rows["recommended model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert rows["settings"] == "batch 2 × 4, 1,536 tokens, bf16, 4-bit base, gradient checkpointing"
    assert rows["because"] == "profile cuda 16 GB: CUDA with 16.0 GB"
    assert rows["predicted peak"].endswith("of 12.8 GB that the margin of 80% leaves")


def test_info_says_what_will_be_settled_where_activations_are_predicted_to_fit(here: Workspace) -> None:
    """It once named the profile's checkpointing, which settling then took away."""
    assert "gradient checkpointing" not in dict(info_table(cuda(143771, name="H200"), here))["settings"]


@pytest.mark.parametrize("hardware", MACHINES, ids=lambda hardware: f"{hardware.device} {hardware.memory_gb}")
def test_info_has_a_value_in_every_row(hardware: Hardware, here: Workspace) -> None:
    assert all(name and value for name, value in info_table(hardware, here))
    for header, rows in (models_table(outlooks(hardware, here)), truths_table(outlooks(hardware, here))):
        assert rows
        assert all(len(row) == len(header) for row in rows)
    assert json.loads(json.dumps(info_json(hardware, here)))["models"]


# -- the models ----------------------------------------------------------------------------------------------------------
def test_a_model_is_marked_by_what_is_predicted_for_it_here(here: Workspace) -> None:
    small, middle = verdicts(cuda(8192), here), verdicts(cuda(24564), here)
    assert (small["microsoft/Phi-3.5-mini-instruct"], small["Qwen/Qwen2.5-7B-Instruct"]) == ("fits", "tight")
    assert (middle["Qwen/Qwen2.5-14B-Instruct"], middle["Qwen/Qwen3-32B"]) == ("fits", "does not fit")


def test_a_model_that_fits_with_smaller_settings_says_with_which(here: Workspace) -> None:
    (qwen,) = (each for each in outlooks(cuda(46068), here) if each.model.model_id == "Qwen/Qwen3-32B")
    assert (qwen.verdict, qwen.with_less.startswith("batch 1 × 8"), "4-bit base" in qwen.with_less) == ("does not fit", True, True)


def test_the_same_model_needs_more_where_more_is_asked_of_it(here: Workspace) -> None:
    for model_id in ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-8B"):
        peaks = [
            each.forecast.peak_gb
            for size in (4096, 16376, 24564, 49140)
            for each in outlooks(cuda(size), here)
            if each.model.model_id == model_id
        ]
        assert peaks == sorted(peaks)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.model_id)
def test_every_base_has_a_row_of_what_is_true_of_it(model: object, here: Workspace) -> None:
    rows = [*truths_table(outlooks(cuda(24564), here))[1], *truths_table(outlooks(apple(64), here))[1]]
    (row,) = (row for row in rows if row[0] == model.model_id)  # type: ignore[attr-defined]  # a Model
    assert all(row)


# -- notes ---------------------------------------------------------------------------------------------------------------
def test_the_model_that_the_guide_puts_on_48_gb_is_contradicted_with_both_numbers(here: Workspace) -> None:
    (note,) = (note for note in notes(cuda(49140), here) if "Mistral-Large" in note)
    assert "the guide says 48 GB, 287 GB are predicted (228 GB of them weights)" in note
    assert "use Qwen/Qwen2.5-14B-Instruct" in note
    assert not any("Mistral-Large" in note for note in notes(cuda(24576), here))


def test_a_row_that_is_predicted_to_pass_the_margin_stays_and_is_contradicted(here: Workspace) -> None:
    (note,) = (note for note in notes(cuda(49140), here) if note.startswith("profile cuda 48 GB"))
    assert "batch 8 × 1, 2,048 tokens" in note
    assert "more than the 38.4 GB that the margin leaves; it fits with batch 1 × 8" in note
    assert not any(note.startswith("profile cuda") for note in notes(cuda(24576), here))


def test_below_the_smallest_row_there_is_a_warning(here: Workspace) -> None:
    assert any("3.0 GB is less than the smallest profile of 4 GB" in note for note in notes(cuda(3072), here))
    assert not any("less than" in note for note in notes(cuda(4096), here))


def test_a_gpu_that_torch_cannot_use_is_named(here: Workspace) -> None:
    hardware = cuda(24576, name="RTX 3090", versions={"torch": "2.13.0+cpu"})
    assert any("RTX 3090 is not used" in note and "make setup-cuda" in note for note in notes(hardware, here))


def test_a_limit_above_the_machine_is_named(here: Workspace) -> None:
    assert any("above the 8.0 GB" in note for note in notes(cuda(8192, memory_limit_gb=24), here))
