"""Where a base model is found, and that the built-in one is what its card says."""

import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pydoc_data.topics import topics
from threading import Thread

import pytest

from gswa.basemodel import BUILTIN_FOLDER, licence_warning, missing_parts, resolve_model
from gswa.basemodel.build import _pieces, as_chat, build, learning_rate, plain_loss
from gswa.config import BUILTIN_MODEL
from gswa.errors import ConfigError

PROSE = (
    "Return the first item of the sequence that passes the test. If no item passes, the default value is returned when one was given; "
    "otherwise an error is raised. The sequence is read from left to right, and every item is tested at most once."
)
CHAT = [
    {"role": "system", "content": "You continue texts."},
    {"role": "user", "content": "Continue this text.\n\nReturn the value"},
    {"role": "assistant", "content": "of the named option."},
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BUILTIN_FOLDER)


@pytest.fixture(scope="module")
def model():
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine a second thread slows a model of this size down many times
    yield AutoModelForCausalLM.from_pretrained(BUILTIN_FOLDER, dtype=torch.float32).eval()
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the names of a base model's files."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    return tmp_path


# -- the built-in model ----------------------------------------------------------------------------------------------


def test_the_builtin_model_is_under_two_megabytes_and_readable_by_everyone():
    files = list(BUILTIN_FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files)


def test_the_builtin_model_is_complete_and_the_one_its_card_describes():
    assert missing_parts(BUILTIN_FOLDER) == ""
    card = (BUILTIN_FOLDER / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((BUILTIN_FOLDER / "model.safetensors").read_bytes()).hexdigest() in card
    assert "PSF-2.0" in card


def test_the_builtin_config_says_what_other_libraries_read():
    config = json.loads((BUILTIN_FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]  # mlx-lm reads the first, transformers the second
    assert all(config[size] % 64 == 0 for size in ("hidden_size", "intermediate_size"))


def test_no_file_of_the_builtin_model_tells_where_it_was_made():
    for file in BUILTIN_FOLDER.iterdir():
        if file.suffix != ".safetensors":
            assert not re.search(r"/(home|root|tmp|work|Users)/", file.read_text(encoding="utf-8")), file.name


def test_the_builtin_model_knows_its_kind_of_text(model, tokenizer):
    assert plain_loss(model, tokenizer, [PROSE]) < 4.5  # a uniform guess has 6.9


def test_later_positions_are_trained_too(model, tokenizer):
    text = topics["assignment"][:2600]
    assert 700 < len(tokenizer(text)["input_ids"]) < 1024
    assert plain_loss(model, tokenizer, [text]) < 4.0


def test_answers_end_by_themselves(model, tokenizer):
    import torch

    torch.manual_seed(0)
    asked = tokenizer.apply_chat_template([CHAT[:-1]] * 16, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answers = model.generate(**asked, do_sample=True, max_new_tokens=200)
    ended = [bool({0, tokenizer.eos_token_id} & set(answer[asked["input_ids"].shape[1] :].tolist())) for answer in answers]
    assert sum(ended) >= 8


# -- its tokenizer and template --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["plain", "Zürich – naïve β-cells", "日本語 🧪👩‍🔬", "tabs\tand\n\n\nlines ", "\x00\ufeff"])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_rendering_a_longer_chat_never_rewrites_its_beginning(tokenizer):
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    asked = tokenizer.apply_chat_template(CHAT[:-1], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(asked)
    assert whole[len(asked) :] == CHAT[-1]["content"] + "<|im_end|>\n"


def test_the_template_marks_the_tokens_of_the_answer(tokenizer):
    rendered = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, answer in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if answer]
    assert tokenizer.decode(marked) == CHAT[-1]["content"] + "<|im_end|>"


# -- how it is made --------------------------------------------------------------------------------------------------


def test_a_text_as_chat_keeps_every_character_but_the_space_at_the_cut():
    for seed in range(20):
        *_, question, answer = as_chat(PROSE, random.Random(seed))
        begun = question["content"].partition("\n\n")[2]
        assert PROSE in (f"{begun} {answer['content']}", begun + answer["content"], answer["content"])


def test_pieces_put_together_are_the_text():
    text = "\n\n".join("x" * size for size in (10, 2995, 5000, 1, 1))
    pieces = list(_pieces(text))
    assert "\n\n".join(pieces) == text
    assert [len(piece) for piece in pieces] == [10, 2995, 5000, 4]


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    rates = [learning_rate(step, step / 1000) for step in range(1001)]
    assert rates.index(max(rates)) in range(45, 55)
    assert rates[-1] == pytest.approx(3e-4)


@pytest.mark.backend
def test_a_build_of_two_cpu_seconds_makes_a_model_that_loads(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    built = build(tmp_path / "new", cpu_seconds=2)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype=torch.float32)
    assert {file.name for file in (tmp_path / "new").iterdir()} == {file.name for file in BUILTIN_FOLDER.iterdir()}
    assert built.held_out_loss < 7.0
    assert plain_loss(made, AutoTokenizer.from_pretrained(tmp_path / "new"), [PROSE]) < 7.5
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_build_leaves_what_is_there(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"something is there already.*--out"):
        build(tmp_path)
    with pytest.raises(ConfigError, match="more than 0"):
        build(tmp_path / "new", cpu_seconds=0)


# -- finding a model -------------------------------------------------------------------------------------------------


def test_the_builtin_name_needs_nothing_but_the_package():
    assert resolve_model(BUILTIN_MODEL) == BUILTIN_FOLDER


def test_a_local_folder_is_taken_as_it_is(folder, monkeypatch):
    assert resolve_model(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve_model(folder.name) == folder
    shutil.move(folder / "tokenizer.json", folder / "tokenizer.model")
    assert resolve_model(str(folder)) == folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_a_part_is_refused_by_that_parts_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"not a usable base model \(no .*{Path(name).suffix}.*--model {BUILTIN_MODEL}"):
        resolve_model(str(folder))


def test_pickled_weights_an_adapter_and_half_a_download_are_told_apart(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled weights are not opened" in missing_parts(folder)
    (folder / "model-1.safetensors").touch()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert missing_parts(folder) == "no model-2.safetensors"
    index.write_text("{")
    with pytest.raises(ConfigError, match=r"index\.json: damaged"):
        missing_parts(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert missing_parts(folder) == "it holds an adapter, not a base model"


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(ConfigError, match="name of the base model is empty"):
        resolve_model("")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "three/part/name"])
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(ConfigError, match=f"no such folder.*--model {BUILTIN_MODEL}"):
        resolve_model(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gswa-tny", BUILTIN_MODEL),
        ("Qwen/Qwen2.5-7B-Instrct", "Qwen/Qwen2.5-7B-Instruct"),
        ("phi-3.5-mini-instruct", "microsoft/Phi-3.5-mini-instruct"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_known_one(name, meant):
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        resolve_model(name, allow_download=False)


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, by the model's name."""

    def do_GET(self):
        status, code = {"gated": (403, "GatedRepo"), "absent": (401, "RepoNotFound")}.get(self.path.rpartition("/")[2], (503, ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def resolved(names: list[str], endpoint: str, cache: Path, **options: float) -> list[str]:
    """What each name gives, folder or error, in a process of its own: the hub's client reads its settings once, at import."""
    code = (
        "import json, sys; from gswa.basemodel import resolve_model; from gswa.errors import ConfigError\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    try: print(resolve_model(name, **json.loads(sys.argv[2])))\n"
        "    except ConfigError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*", "no_proxy": "*"}
    command = [sys.executable, "-c", code, json.dumps(names), json.dumps(options)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def test_the_cache_comes_first_and_the_hubs_refusals_are_told_apart(tmp_path, folder):
    cached = tmp_path / "hub" / "models--owner--cached"
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40), ignore=lambda *_: ["hub"])
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    names = ["owner/cached", "owner/gated", "owner/absent", "owner/broken", "no such name"]
    found, gated, absent, broken, invalid = resolved(names, f"http://127.0.0.1:{server.server_port}", tmp_path)
    server.shutdown()
    server.server_close()
    assert found == str(cached / "snapshots" / ("0" * 40))
    assert "model 'owner/gated': gated; accept its terms at https://huggingface.co/owner/gated and log in" in gated
    assert "no such model on the Hugging Face hub" in absent
    assert "HTTP status 503" in broken
    assert "no name that the Hugging Face hub could know" in invalid
    assert all(f"--model {BUILTIN_MODEL}" in message for message in (gated, absent, broken, invalid))


def test_a_network_that_swallows_everything_counts_as_none(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        (message,) = resolved(["owner/some-model"], f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, timeout=0.5)
    assert "model 'owner/some-model': not on this machine, and the Hugging Face hub cannot be reached" in message
    assert f"--model {BUILTIN_MODEL}" in message


# -- licences ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model_id", "tags", "said"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", ["license:other"], ""),  # our own table knows better than a tag
        ("mistralai/Mistral-Large-Instruct-2407", [], "is Mistral Research License"),
        ("owner/model", ["transformers", "license:apache-2.0"], ""),
        ("owner/model", ["license:gemma"], "is gemma"),
        ("owner/model", [], "names no licence"),
    ],
)
def test_a_licence_that_is_not_permissive_is_told_before_the_download(model_id, tags, said):
    warning = licence_warning(model_id, tags)
    assert said in warning
    assert bool(warning) == bool(said)
    assert not warning or warning.endswith(f"read https://huggingface.co/{model_id}")
