"""How examples are made of passages: the mix of kinds, their wordings, weights. Read from configs/examples.yaml."""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from gswa.errors import ConfigError
from gswa.records import Record

PACKAGED = Path(__file__).parent / "configs" / "examples.yaml"  # in an installed package; a checkout has it at its root
Kind = Literal["continue", "rewrite", "key_terms"]
KINDS: tuple[Kind, ...] = ("continue", "rewrite", "key_terms")


class Templates(Record):
    """The wordings of each request. `{place}` stands for section and paper, `{terms}` for the key terms."""

    continue_: tuple[str, ...] = Field(alias="continue", min_length=1)
    opening: tuple[str, ...] = Field(min_length=1)
    rewrite: tuple[str, ...] = Field(min_length=1)
    key_terms: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_filled_in(self) -> Self:
        for kind, wordings in (("continue", self.continue_), *((k, getattr(self, k)) for k in ("opening", "rewrite", "key_terms"))):
            for wording in wordings:
                try:
                    wording.format(place="", **({"terms": ""} if kind == "key_terms" else {}))
                except (KeyError, IndexError, ValueError) as error:
                    raise ValueError(f"{kind}: {wording!r} cannot be filled in ({error}); it may hold {{place}}") from error
        return self


class Pairs(Record):
    """Who writes the plain side of a rewriting example, and when."""

    make: Literal["auto", "always", "never"]
    url: str
    model: str

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.url) != bool(self.model):
            raise ValueError("url and model name the server together: give both, or neither")
        return self


class Recipe(Record):
    """Shares by kind, words of passage and context, weights, wordings."""

    mix: dict[Kind, float]
    passage_words: tuple[int, int]
    context_words: int = Field(ge=0)
    priority_weight: float = Field(gt=0)
    held_out: float = Field(gt=0, lt=0.5)
    pairs: Pairs
    templates: Templates

    @model_validator(mode="after")
    def _sound(self) -> Self:
        least, most = self.passage_words
        if not 0 < least <= most:
            raise ValueError(f"passage_words: {least} to {most} words is no range")
        if any(share < 0 for share in self.mix.values()) or not sum(self.mix.values()) > 0:
            raise ValueError("mix: shares are numbers from 0, and one of them is more")
        return self

    def kind_at(self, chance: float) -> Kind:
        """The kind whose part of the mix a number from 0 to 1 falls into; the shares need not make a whole."""
        rest = chance * sum(self.mix.values())
        for kind in KINDS:
            rest -= self.mix.get(kind, 0.0)
            if rest < 0:
                return kind
        return "continue"


def read_recipe(path: Path | None = None) -> Recipe:
    """The defaults, with what the file says in their place. Raises ConfigError that names file, key and fault."""
    defaults = _read(_default_file())
    given = _read(path) if path is not None and path.is_file() else {}
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]} is no key of it; the keys are {', '.join(defaults)}")
    try:
        return Recipe.model_validate({key: _over(value, given.get(key)) for key, value in defaults.items()})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{path}: {place + ': ' if place else ''}{fault['msg'].removeprefix('Value error, ')}") from error


def _over(default: Any, given: Any) -> Any:
    """What is given in place of the default; of a mapping, key by key."""
    return {**default, **given} if isinstance(default, dict) and isinstance(given, dict) else default if given is None else given


def _default_file() -> Path:
    checkout = Path(__file__).parents[1] / "configs" / "examples.yaml"
    return checkout if checkout.is_file() else PACKAGED


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: a mapping of settings was expected, such as 'context_words: 80'")
    return content or {}
