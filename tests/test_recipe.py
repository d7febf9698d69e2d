"""configs/examples.yaml: what it may say, and what is said where it is wrong."""

from pathlib import Path

import pytest

from gswa.errors import ConfigError
from gswa.recipe import read_recipe


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "examples.yaml"
    path.write_text(text)
    return path


def test_the_defaults_are_those_of_the_file() -> None:
    recipe = read_recipe()
    assert recipe.mix == {"continue": 70, "rewrite": 30, "key_terms": 0}
    assert (recipe.passage_words, recipe.priority_weight, recipe.pairs.make) == ((150, 400), 2.5, "auto")


def test_a_key_that_is_left_out_keeps_its_default(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, "priority_weight: 4\nmix: {continue: 1}\ntemplates: {rewrite: ['Say it: ']}\n"))
    assert (recipe.priority_weight, recipe.context_words) == (4, 80)
    assert recipe.templates.rewrite == ("Say it: ",)
    assert recipe.templates.opening == read_recipe().templates.opening
    assert read_recipe(tmp_path / "missing.yaml") == read_recipe()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mixture: {}", "mixture is no key of it; the keys are mix"),
        ("mix: {continue: 0, rewrite: 0, key_terms: 0}", "mix"),
        ("passage_words: [400, 150]", "400 to 150 words is no range"),
        ("priority_weight: 0", "priority_weight"),
        ("templates: {rewrite: ['Write {title}']}", "cannot be filled in"),
        ("pairs: {url: 'http://127.0.0.1:1/v1'}", "give both, or neither"),
        ("- 1", "a mapping"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as error:
        read_recipe(written(tmp_path, text))
    assert "examples.yaml" in str(error.value)


def test_the_shares_need_not_make_a_whole(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, "mix: {continue: 1, rewrite: 2, key_terms: 1}"))
    assert [recipe.kind_at(chance) for chance in (0.0, 0.24, 0.26, 0.74, 0.76, 0.999)] == [
        "continue", "continue", "rewrite", "rewrite", "key_terms", "key_terms",
    ]  # fmt: skip
