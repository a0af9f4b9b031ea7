"""Settings that affect predictions: prompt, image size, decoding, parser. `recipe.yaml` holds the defaults."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from zlib import crc32

import yaml

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import COORDINATES, PROMPTS, RELATIVE_1000, parser_name

# `released` is the parser of the released evaluation. The released reward uses another one.
PARSERS = MappingProxyType({"strict": "strict", "released": "released_eval"})
SENTENCES = ("each", "joined")
ROLLOUT_SAMPLING = {"temperature": 0.7, "top_p": 0.9, "top_k": 50}  # stage 2 of the EGM recipe
UNTOUCHED = {"min_p": 0.0}  # sent because engines take missing fields from the checkpoint's generation_config.json
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Settings:
    """`recipe.yaml` explains each field. Raises InputError for an invalid value."""

    prompt: str
    amodal_prompt: str
    coordinates: str
    sentences: str
    min_pixels: int | None
    max_pixels: int | None
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_tokens: int
    reasoning_tokens: int | None
    answers: int
    seed: int
    parser: str

    def __post_init__(self) -> None:
        _expect_choice("prompt", self.prompt, PROMPTS)
        _expect_choice("amodal_prompt", self.amodal_prompt, PROMPTS)
        _expect_choice("coordinates", self.coordinates, COORDINATES)
        _expect_choice("parser", self.parser, PARSERS)
        _expect_choice("sentences", self.sentences, SENTENCES)
        if self.coordinates != RELATIVE_1000 and self.parser != "released":
            raise InputError(f"coordinates: {self.coordinates} needs parser: released")
        for name in ("min_pixels", "max_pixels"):
            _expect_number(name, getattr(self, name), int, "at least 1, or null", lambda v: v >= 1, optional=True)
        _expect_number(
            "reasoning_tokens", self.reasoning_tokens, int, "at least 0, or null", lambda v: v >= 0, optional=True
        )
        _expect_number("max_tokens", self.max_tokens, int, "at least 1", lambda v: v >= 1)
        _expect_number("answers", self.answers, int, "at least 1", lambda v: v >= 1)
        _expect_number("seed", self.seed, int, "at least 0", lambda v: v >= 0)
        _expect_number("top_k", self.top_k, int, "at least 1, or -1 for all", lambda v: v >= 1 or v == -1)
        _expect_number("temperature", self.temperature, float, "at least 0", lambda v: v >= 0)
        _expect_number("top_p", self.top_p, float, "more than 0 and at most 1", lambda v: 0 < v <= 1)
        _expect_number("repetition_penalty", self.repetition_penalty, float, "more than 0", lambda v: v > 0)
        if (self.min_pixels is None) != (self.max_pixels is None):  # the processor ignores one without the other
            raise InputError("min_pixels, max_pixels: expected both or neither")
        if self.answers > 1 and self.temperature == 0:
            raise InputError(f"answers: {self.answers} answers per question need a temperature above 0")
        if self.reasoning_tokens and self.reasoning_tokens >= self.max_tokens:
            raise InputError(f"reasoning_tokens: expected less than max_tokens ({self.max_tokens})")

    def sampling(self, key: str) -> dict[str, float]:
        """The sampling fields of a chat completion request.

        The seed depends on the sample's `key`, so that a resumed run draws the same tokens as an uninterrupted one.
        """
        fields = {name: getattr(self, name) for name in _SAMPLING} | UNTOUCHED
        return fields | ({"seed": crc32(f"{self.seed} {key}".encode())} if self.temperature else {})


def load_settings(file: Path | None = None, asks: Mapping | None = None, **changes) -> Settings:
    """The recipe, overridden by what a protocol `asks`, then by the fields in `file`, then by `changes`.

    A change of None has no effect. Raises InputError for an unknown field or an invalid value.
    """
    recipe = files("qwen3vl_rl.evaluation.serving").joinpath("recipe.yaml").read_text(encoding="utf-8")
    given = {name: value for name, value in changes.items() if value is not None}
    recipe = yaml.safe_load(recipe) | dict(asks or {})
    if file:
        recipe |= _read(file)
        try:
            Settings(**_current(recipe))
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
    return Settings(**_current(recipe | given))


def variants(settings: Settings, budgets: Iterable[int], answers: Iterable[int]) -> dict[str, Settings]:
    """Name -> settings of each variant. If `settings` is greedy, several answers are sampled as rollouts are."""
    sampling = {} if settings.temperature else ROLLOUT_SAMPLING
    return {
        "free": settings,
        **{f"budget-{budget}": replace(settings, reasoning_tokens=budget) for budget in budgets},
        **{f"answers-{count}": replace(settings, answers=count, **sampling) for count in answers},
    }


def _current(values: Mapping) -> dict:
    """The values, with an earlier name of the parser replaced by its current one."""
    return {**values, "parser": parser_name(values["parser"])}


def _read(file: Path) -> dict:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: expected a YAML file ({' '.join(str(error).split())})") from None
    names = [field.name for field in fields(Settings)]
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: expected fields and values, such as `max_tokens: 512`")
    if unknown := sorted(map(str, content.keys() - set(names))):
        raise InputError(f'{file}: expected fields of {", ".join(names)}, got "{unknown[0]}"')
    return dict(content)


def _expect_choice(name: str, value: object, choices) -> None:
    if not isinstance(value, str) or value not in choices:
        raise InputError(f'{name}: expected one of {", ".join(choices)}, got "{value}"')


def _expect_number(name: str, value: object, kind: type, expected: str, holds, optional: bool = False) -> None:
    is_kind = isinstance(value, int) or (kind is float and isinstance(value, float))
    if not (value is None and optional) and (isinstance(value, bool) or not is_kind or not holds(value)):
        raise InputError(f"{name}: expected {expected}, got {value}")
