"""What an export writes, and what it says where it can write no more."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from chats import chat
from safetensors.numpy import load_file, save_file
from small_base import CHATML, HEAD, HEADS, KEY_HEADS, LAYERS, RANK, make_adapter, make_base, make_run, random_weights
from tokenizers import Tokenizer

from gswa.basemodel import BUILTIN_FOLDER
from gswa.errors import ConfigError, DataError
from gswa.export import ExportReport, export, export_adapter
from gswa.export.adapter import read_adapter
from gswa.export.bases import ARCHITECTURES, Base, read_base
from gswa.export.card import vllm_rank
from gswa.export.chat import PROBES, Turn, recognise, starts_with_bos, without_generation_marks
from gswa.export.gguf_writer import base_obstacle
from gswa.export.replay import tokenize
from gswa.export.tokens import SPLITTING_RULES, read_vocabulary, splitting_rule
from gswa.export.verify import ExportFault, gguf_name
from gswa.files import write_lines
from gswa.models import MODELS, Model, model_named
from gswa.records import Message
from gswa.rundir import RunDir

QWEN = "Qwen/Qwen2.5-7B-Instruct"


def tensors(file: Path) -> dict[str, Any]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(file).tensors}


def field(file: Path, key: str) -> Any:
    return gguf.GGUFReader(file).fields[key].contents()


@pytest.fixture
def local_run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path, make_base(tmp_path / "my-base"))


def hub_export(run: RunDir, folder: Path, model_id: str, **settings: Any) -> ExportReport:
    """As if `folder` were the hub's copy of `model_id`."""
    asked = {"to": "modelfile", "ollama_base": None, "verify": True, **settings}
    base = Base(model_id, folder, "hub", json.loads((folder / "config.json").read_text()))
    return export_adapter(run, read_adapter(run.adapters), base, **asked)


# -- the adapter as GGUF -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_only_a_llamas_query_and_key_rows_change_places(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path, make_base(tmp_path / "base", kind))
    export(run, "gguf", verify=False)
    exported = tensors(run.adapters / "gswa-adapter.gguf")
    trained = load_file(run.adapters / "adapter_model.safetensors")
    assert len(exported) == len(trained)
    for part, layer in (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj"), ("attn_output", "o_proj")):
        source = trained[f"base_model.model.model.layers.1.self_attn.{layer}.lora_B.weight"]
        expected = source.copy()
        heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(part, 0) if kind != "qwen2" else 0
        for head in range(heads):  # llama.cpp turns rows 2i and 2i + 1 together, transformers i and i + half
            for i in range(HEAD // 2):
                expected[head * HEAD + 2 * i] = source[head * HEAD + i]
                expected[head * HEAD + 2 * i + 1] = source[head * HEAD + i + HEAD // 2]
        np.testing.assert_array_equal(exported[f"blk.1.{part}.weight.lora_b"], expected)
        source = trained[f"base_model.model.model.layers.1.self_attn.{layer}.lora_A.weight"]
        np.testing.assert_array_equal(exported[f"blk.1.{part}.weight.lora_a"], source)


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({}, 8.0),
        ({"use_rslora": True}, 8.0 / RANK**0.5 * RANK),  # llama.cpp divides by the rank, not by its root
        ({"alpha_pattern": {"q_proj": 2}}, 0.0),  # no one alpha is right, so the scale is in B and alpha 0 means 1
    ],
)
def test_the_exported_scale_is_pefts(tmp_path: Path, settings: dict[str, Any], alpha: float) -> None:
    run = make_run(tmp_path, make_base(tmp_path / "base"))
    make_adapter(run.adapters, **settings)
    report = export(run, "gguf", verify=False)
    assert field(run.adapters / "gswa-adapter.gguf", "adapter.lora.alpha") == pytest.approx(alpha)
    assert hub_export(run, tmp_path / "base", QWEN, to="gguf").verified  # compares scale · B · A of each layer
    assert not report.verified


def test_layers_that_were_not_trained_are_not_exported(local_run: RunDir) -> None:
    pairs = load_file(local_run.adapters / "adapter_model.safetensors")
    save_file({name: pair for name, pair in pairs.items() if "layers.1." in name}, local_run.adapters / "adapter_model.safetensors")
    export(local_run, "gguf", verify=False)
    assert {name.split(".")[1] for name in tensors(local_run.adapters / "gswa-adapter.gguf")} == {"1"}


# -- Modelfile -----------------------------------------------------------------------------------------------------------
def test_a_local_base_lies_beside_the_modelfile_with_its_template_and_stops(local_run: RunDir) -> None:
    report = export(local_run, verify=False)
    text = (local_run.adapters / "Modelfile").read_text()
    assert report.files == ("adapters/Modelfile", "adapters/README.md", "adapters/gswa-adapter.gguf", "adapters/gswa-base.gguf")
    assert "\nFROM ./gswa-base.gguf\nADAPTER ./gswa-adapter.gguf\n" in text
    template = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    assert f'TEMPLATE """{template}"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "PARAMETER num_ctx 256" in text
    assert "SYSTEM" not in text


@pytest.mark.parametrize("model", [model for model in MODELS if model.ollama], ids=lambda model: model.model_id)
def test_a_base_that_ollama_has_is_named_and_brings_its_own_template(tmp_path: Path, model: Model) -> None:
    folder = make_base(tmp_path / "snapshot", "qwen2")
    run = make_run(tmp_path, folder)
    report = hub_export(run, folder, model.model_id)
    text = (run.adapters / "Modelfile").read_text()
    assert f"\nFROM {model.ollama}\nADAPTER ./gswa-adapter.gguf\n" in text
    assert "TEMPLATE" not in text
    assert not (run.adapters / "gswa-base.gguf").exists()
    assert report.verified
    assert report.notes == ()


def test_a_base_that_ollama_may_lack_gives_a_note_and_no_guess(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "snapshot")
    run = make_run(tmp_path, folder)
    report = hub_export(run, folder, "someone/some-llama")
    assert report.notes == ("no Ollama library model is known for someone/some-llama; name one with --ollama-base",)
    assert report.files == ("adapters/README.md", "adapters/gswa-adapter.gguf")
    named = hub_export(run, folder, "someone/some-llama", ollama_base="some-llama:8b")
    assert named.notes == ()
    assert "\nFROM some-llama:8b\n" in (run.adapters / "Modelfile").read_text()


def test_an_architecture_without_gguf_gives_a_note_and_a_card(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", architectures=["GemmaForCausalLM"])
    report = export(make_run(tmp_path, folder))
    assert report.files == ("adapters/README.md",)
    assert report.notes == ("GemmaForCausalLM adapters are not written as GGUF; the PEFT files are there for vLLM and transformers",)


def test_a_name_that_ollama_could_not_read_is_refused(local_run: RunDir) -> None:
    with pytest.raises(ConfigError, match="not a model name"):
        export(local_run, ollama_base="qwen 2.5", verify=False)


def test_the_system_text_is_that_of_training(local_run: RunDir) -> None:
    def examples(*systems: str) -> None:
        made = [chat(f"e{i}", "Text.") for i in range(len(systems))]
        with_system = [
            e.model_copy(update={"messages": (Message(role="system", content=s), *e.messages)}) for e, s in zip(made, systems, strict=True)
        ]
        write_lines(local_run.examples / "train.jsonl", with_system)

    examples("Write as I do.", "Write as I do.")
    export(local_run, verify=False)
    assert 'SYSTEM """Write as I do."""' in (local_run.adapters / "Modelfile").read_text()
    for systems, reason in ((("One.", "Two."), "several system texts"), (('Say "no"',), "at its end")):
        examples(*systems)
        assert reason in export(local_run, verify=False).notes[0]
        assert "SYSTEM" not in (local_run.adapters / "Modelfile").read_text()


def test_an_mlx_copy_counts_as_the_model_it_was_made_from() -> None:
    assert model_named("mlx-community/Mistral-7B-Instruct-v0.3-4bit") == model_named("mistralai/Mistral-7B-Instruct-v0.3")
    assert model_named("mlx-community/Something-4bit") is None


def test_a_licence_that_is_not_permissive_is_written_into_the_card(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "snapshot", "mistral")
    run = make_run(tmp_path, folder)
    hub_export(run, folder, "mistralai/Mistral-Large-Instruct-2407")
    card = (run.adapters / "README.md").read_text()
    assert "license: other\nlicense_name: Mistral Research License" in card
    assert "the licence of mistralai/Mistral-Large-Instruct-2407 is Mistral Research License: it may limit" in card


# -- templates and tokens ------------------------------------------------------------------------------------------------
def test_a_system_turn_that_the_template_adds_is_found() -> None:
    def qwen(turns: Any) -> str:
        added = [] if turns[0][0] == "system" else [("system", "You are Qwen.")]
        return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in (*added, *turns)) + "<|im_start|>assistant\n"

    found = recognise(qwen, "")
    assert found is not None
    assert found.default_system == "You are Qwen."


def test_a_template_that_only_looks_like_a_known_one_is_not_taken_for_it() -> None:
    assert recognise(lambda turns: "".join(f"<|im_start|>{role}\n{content.strip('.')}<|im_end|>\n" for role, content in turns), "") is None


def test_a_beginning_that_is_a_turn_s_own_is_not_taken_from_it() -> None:
    def chatml(turns: Sequence[Turn]) -> str:
        return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns) + "<|im_start|>assistant\n"

    assert not starts_with_bos(chatml, "<|im_start|>")
    assert starts_with_bos(lambda turns: f"<s>{chatml(turns)}", "<s>")
    assert not starts_with_bos(chatml, "<s>")


def test_marks_for_trainers_leave_the_rendering_as_it_was() -> None:
    import jinja2

    marked = CHATML.replace(
        "m['content'] + '<|im_end|>\n' }}", "'' }}{%- generation %}{{ m['content'] + '<|im_end|>\n' }}{% endgeneration -%}"
    )
    assert marked != CHATML
    plain = jinja2.Template(without_generation_marks(marked), keep_trailing_newline=True)
    turns = [{"role": role, "content": content} for role, content in PROBES[1]]
    assert plain.render(messages=turns) == jinja2.Template(CHATML, keep_trailing_newline=True).render(messages=turns)


def test_a_tokenizer_whose_splitting_llama_cpp_has_no_name_for_is_an_obstacle(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    assert base_obstacle(read_base(str(folder), folder)) == ""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, tokenizer["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert splitting_rule(tokenizer) is None
    run = make_run(tmp_path, folder)
    assert "splitting rule" in export(run).notes[0]
    assert not (run.adapters / "Modelfile").exists()


@pytest.mark.parametrize("rule", [*SPLITTING_RULES, "digits"])
def test_the_gguf_alone_gives_the_tokens_of_the_base(tmp_path: Path, rule: str) -> None:
    folder = make_base(tmp_path / "base")
    file = folder / "tokenizer.json"
    first = {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}
    if rule == "digits":
        first = {"type": "Digits", "individual_digits": True}
    content = json.loads(file.read_text())
    last = {**content["pre_tokenizer"], "use_regex": rule == "digits"}
    file.write_text(json.dumps({**content, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [first, last]}}))
    run = make_run(tmp_path, folder)
    export(run, "gguf", verify=False)
    fields = {name: field.contents() for name, field in gguf.GGUFReader(run.adapters / "gswa-base.gguf").fields.items()}
    assert fields["tokenizer.ggml.pre"] == splitting_rule(json.loads(file.read_text()))
    text = "<|im_start|>The 1234 rather odd   inner\n\n theses, it's 3.14\u00a0µm!  <|im_end|>\n"
    assert tokenize(fields, text) == Tokenizer.from_file(str(file)).encode(text).ids


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES.values())))
def test_writer_and_check_know_the_same_layers(architecture: str) -> None:
    names = gguf.get_tensor_name_map(next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), 2)
    fused = ("self_attn.qkv_proj", "mlp.gate_up_proj", "self_attn.o_proj", "mlp.down_proj")
    for layer in fused if architecture == "phi3" else LAYERS:
        name = f"model.layers.1.{layer}.weight"
        assert names.get_name(name, try_suffixes=(".weight",)) == gguf_name(name)


def test_the_builtin_base_has_no_obstacle() -> None:
    base = read_base("gswa-tiny", BUILTIN_FOLDER)
    assert (base.kind, base_obstacle(base)) == ("builtin", "")
    vocabulary = read_vocabulary(BUILTIN_FOLDER, base.config["vocab_size"])
    assert vocabulary is not None
    assert vocabulary.splitting == "gpt-2"


# -- bad input -----------------------------------------------------------------------------------------------------------
def test_a_run_without_adapters_says_so(local_run: RunDir) -> None:
    shutil.rmtree(local_run.adapters)
    with pytest.raises(DataError, match="no adapter here"):
        export(local_run)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["embed_tokens"]}, {"lora_alpha": "much"}])
def test_only_plain_lora_is_exported(local_run: RunDir, settings: dict[str, Any]) -> None:
    make_adapter(local_run.adapters, **settings)
    with pytest.raises(DataError, match=r"adapter_config\.json"):
        export(local_run)


def test_a_torn_adapter_file_says_so(local_run: RunDir) -> None:
    file = local_run.adapters / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match="shorter than its header says"):
        export(local_run)


# -- checks --------------------------------------------------------------------------------------------------------------
def test_a_file_that_fails_its_check_is_not_put_in_place(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    run = make_run(tmp_path, folder)
    base = read_base(str(folder), folder)
    mistaken = base._replace(config={**base.config, "num_key_value_heads": HEADS})  # puts the rows of keys in another order
    with pytest.raises(ExportFault, match="attn_k"):
        export_adapter(run, read_adapter(run.adapters), mistaken, "gguf", None, verify=True)
    assert {file.name for file in run.adapters.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert not list(run.path.glob(".export*"))


def test_an_adapter_of_another_base_is_not_exported(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", "qwen2")
    run = make_run(tmp_path, folder)
    weights = random_weights("qwen2")
    weights["model.layers.0.mlp.up_proj.weight"] = np.zeros((96, 64), np.float32)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ExportFault, match="up_proj"):
        hub_export(run, folder, QWEN)


def test_what_was_not_checked_is_not_called_verified(local_run: RunDir) -> None:
    report = export(local_run, verify=False)
    assert (report.verified, report.checked) == (False, ())
    assert local_run.metadata()["export"]["modelfile"]["verified"] is False


# -- merged --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_merged_weights_are_base_plus_adapter_and_nothing_else_changes(tmp_path: Path, dtype: Any) -> None:
    folder = make_base(tmp_path / "base", dtype=dtype)
    run = make_run(tmp_path, folder)
    report = export(run, "merged")
    before, after = load_file(folder / "model.safetensors"), load_file(run.merged / "model.safetensors")
    trained = load_file(run.adapters / "adapter_model.safetensors")
    assert report.verified
    assert before.keys() == after.keys()
    for name, weight in after.items():
        pair = [trained.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{letter}.weight") for letter in "AB"]
        expected = before[name] + (0 if pair[0] is None else 2.0 * pair[1] @ pair[0])
        assert weight.dtype == dtype
        np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=2e-4)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (run.merged / name).read_bytes() == (folder / name).read_bytes()


def test_a_bf16_base_is_read_without_loss(tmp_path: Path) -> None:
    """numpy has no bf16: its bits are written as integers under bf16's name."""
    folder = make_base(tmp_path / "base")
    upper_halves = {name: (weight.view(np.uint32) >> 16).astype(np.uint16) for name, weight in random_weights().items()}
    save_file(upper_halves, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b'"U16"', b'"BF16"')
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    run = make_run(tmp_path, folder)
    assert export(run, "merged").verified
    export(run, "gguf", verify=False)
    name = "model.layers.0.mlp.up_proj.weight"
    exact = (upper_halves[name].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(tensors(run.adapters / "gswa-base.gguf")["blk.0.ffn_up.weight"], exact)
    assert load_file(run.merged / "model.safetensors")[name].dtype == np.float16


def test_a_quantised_base_cannot_be_merged_into(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", quantization={"bits": 4, "group_size": 64})
    with pytest.raises(DataError, match="quantised"):
        export(make_run(tmp_path, folder), "merged")


# -- model card ----------------------------------------------------------------------------------------------------------
def test_the_card_tells_the_checkpoint_and_the_licence_but_no_path(local_run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "my-base" / "README.md").write_text("---\nlicense: mit\n---\n# A base\n")
    local_run.update(chosen_step=12)
    export(local_run, verify=False)
    card = (local_run.adapters / "README.md").read_text()
    assert "| Licence of the base model | mit |" in card
    assert "| LoRA | rank 4, alpha 8, 14 linear layers, fp32 |" in card
    assert "optimizer step 12" in card
    assert "--max-lora-rank 8 " in card
    assert f"ollama create gswa-gilles -f runs/{local_run.id}/adapters/Modelfile" in card
    assert str(tmp_path) not in card + (local_run.adapters / "Modelfile").read_text()


@pytest.mark.parametrize(("rank", "allowed"), [(1, 1), (8, 8), (9, 16), (33, 64), (512, 512), (513, None)])
def test_vllm_is_told_the_smallest_rank_it_accepts(rank: int, allowed: int | None) -> None:
    assert vllm_rank(rank) == allowed
