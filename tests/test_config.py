import json

import pytest

from gswa.config import Layer, RunConfig, RunRequest, Settings, parse_memory, read_config_file, resolve
from gswa.errors import ConfigError


def test_the_stronger_layer_wins_and_an_unset_flag_never_overrides():
    settled = resolve(Layer("file", {"batch_size": 2, "seed": 7}), Layer("command line", {"batch_size": 4, "seed": None}))
    assert (settled.config.batch_size, settled.config.seed) == (4, 7)
    assert (settled.origin["batch_size"], settled.origin["seed"]) == ("command line", "file")


def test_every_setting_has_an_origin_and_a_description():
    settled = resolve()
    assert set(settled.origin) == set(RunConfig.model_fields) == set(Settings.model_fields)
    assert all(field.description for field in RunConfig.model_fields.values())


def test_all_faults_come_in_one_error_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        resolve(Layer("my.yaml", {"batch_siz": 2, "lora_rank": 0, "learning_rate": "fast"}))
    text = str(caught.value)
    assert "did you mean batch_size" in text
    assert "lora_rank" in text
    assert "learning_rate" in text


def test_iters_beside_epochs_is_an_error_in_one_layer_and_a_choice_across_two():
    with pytest.raises(ConfigError, match="iters and epochs"):
        resolve(Layer("file", {"iters": 5, "epochs": 2}))
    config = resolve(Layer("file", {"epochs": 2}), Layer("command line", {"iters": 5})).config
    assert (config.iters, config.epochs) == (5, None)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4), (4, 2), (8, 1), (16, 1)])
def test_accumulation_fills_up_what_the_batch_leaves_of_eight(batch, accumulation):
    assert resolve(Layer("flag", {"batch_size": batch})).config.gradient_accumulation == accumulation


def test_a_number_in_scientific_notation_is_a_number(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-5\n")
    assert resolve(read_config_file(file)).config.learning_rate == 1e-5


def test_a_settled_configuration_is_read_back_to_the_same_one(tmp_path):
    settled = resolve(Layer("flag", {"iters": 5, "lora_rank": 3}))
    file = tmp_path / "run_config.json"
    file.write_text(json.dumps({"schema": 1, "settled": settled.config.model_dump(mode="json")}))
    assert resolve(read_config_file(file)).config == settled.config


def test_a_config_of_a_newer_schema_is_refused(tmp_path):
    file = tmp_path / "run_config.json"
    file.write_text(json.dumps({"schema": 99, "settled": {}}))
    with pytest.raises(ConfigError, match="newer"):
        read_config_file(file)


@pytest.mark.parametrize("content", ["- a list", "a: [", "\x00"])
def test_a_config_that_is_no_mapping_names_the_file(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_config_file(file)


def test_replace_validates():
    with pytest.raises(ValueError, match="batch_size"):
        RunConfig().replace(batch_size=0)


@pytest.mark.parametrize(("text", "gigabytes"), [("8GB", 8), ("8 GiB", 8), ("512MB", 0.5), ("8", 8), ("1.5g", 1.5)])
def test_sizes_are_powers_of_two(text, gigabytes):
    assert parse_memory(text) == gigabytes


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "0", "lots", "nan"])
def test_what_is_no_size_is_an_error(text):
    with pytest.raises(ConfigError, match="memory-limit"):
        parse_memory(text)


def test_a_request_crosses_to_json_and_back():
    request = RunRequest(name="x", settings=Settings(iters=3))
    assert RunRequest.model_validate_json(request.model_dump_json()) == request
