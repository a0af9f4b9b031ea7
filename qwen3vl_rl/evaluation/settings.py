"""What decides a prediction beside model and sample: decoding and parser, with the recipe's values as default."""

from dataclasses import asdict, dataclass
from importlib.resources import files

import yaml

from qwen3vl_rl.grounding import PARSERS, InputError


@dataclass(frozen=True, slots=True)
class Settings:
    """`recipe.yaml` gives the values and their source; `max_tokens` counts reasoning and answer together."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_tokens: int
    parser: str

    def sampling(self) -> dict:
        """The fields of a chat completion request."""
        return {name: value for name, value in asdict(self).items() if name != "parser"}


def load_settings(**changes) -> Settings:
    """The recipe with `changes`, of which None means unchanged. Raises InputError for a value that cannot be."""
    recipe = yaml.safe_load(files("qwen3vl_rl.evaluation").joinpath("recipe.yaml").read_text(encoding="utf-8"))
    settings = Settings(**recipe | {name: value for name, value in changes.items() if value is not None})
    if settings.max_tokens < 1:
        raise InputError(f"max_tokens: expected at least 1, got {settings.max_tokens}")
    if settings.parser not in PARSERS:
        raise InputError(f'parser: expected one of {", ".join(PARSERS)}, got "{settings.parser}"')
    return settings
