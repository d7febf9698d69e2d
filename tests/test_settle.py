"""From what was asked and the machine to the settings that run."""

import pytest
from machines import cpu, cuda

from gswa.config import RunRequest, Settings
from gswa.errors import ConfigError
from gswa.hardware import Hardware, Memory
from gswa.settle import settle

MODEL = "gswa-tiny"
SMALL_CPU = cpu(memory=Memory(total_gb=1, available_gb=1))


@pytest.fixture(autouse=True)
def nothing_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("GSWA_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("machine", "asked", "checkpointing"),
    [
        (cuda(24 * 1024), {}, False),  # a small base leaves room for its activations
        (cuda(24 * 1024), {"batch_size": 2048, "max_seq_length": 2048}, True),
        (cuda(24 * 1024), {"gradient_checkpointing": True}, True),
        (cpu(), {}, False),
        (SMALL_CPU, {"batch_size": 64, "max_seq_length": 2048}, True),
    ],
)
def test_activations_are_computed_twice_only_where_they_are_predicted_not_to_fit(machine: Hardware, asked: dict, checkpointing: bool):
    settled = settle(RunRequest(settings=Settings(model_id=MODEL, **asked)), machine)
    assert settled.config.gradient_checkpointing is checkpointing


def test_memory_safe_keeps_the_checkpointing_of_the_profile():
    assert settle(RunRequest(settings=Settings(model_id=MODEL), memory_safe=True), cuda(24 * 1024)).config.gradient_checkpointing


def test_a_limit_beyond_what_the_model_reads_is_refused_with_both_numbers():
    with pytest.raises(ConfigError, match="max_seq_length 4096: gswa-tiny was made for 2048 tokens"):
        settle(RunRequest(settings=Settings(model_id=MODEL, max_seq_length=4096)), cpu())


def test_a_machine_that_holds_longer_rows_than_the_model_reads_gets_what_it_reads(monkeypatch):
    monkeypatch.setattr("gswa.settle.context_length", lambda _: 256)
    settled = settle(RunRequest(settings=Settings(model_id=MODEL)), cpu())
    assert settled.config.max_seq_length == 256
    assert "as long as the model reads" in settled.origin["max_seq_length"]
