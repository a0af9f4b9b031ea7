"""The families of models that can be trained. `interface.py` says what a family must answer."""

import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.checkpoint_files import CONFIG, read_config
from qwen3vl_rl.models.families.interface import Family
from qwen3vl_rl.models.families.internvl import INTERNVL
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL
from qwen3vl_rl.models.shapes import Shape

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (QWEN3_VL, INTERNVL)}

SIZES: Mapping[str, tuple[Family, Shape]] = {  # the published ones
    name: (family, shape) for family in FAMILIES.values() for name, shape in family.sizes.items()
}


def find_family(config: Mapping) -> Family:
    """The family of a model with this Hugging Face configuration. Raises InputError if it is not one of `FAMILIES`."""
    found = config.get("model_type")
    if found not in FAMILIES:
        raise InputError(f"model_type: expected {' or '.join(FAMILIES)}, found {found}")
    return FAMILIES[found]


def read_family(folder: Path) -> Family:
    """The family of the checkpoint in `folder`. Raises InputError naming its config.json."""
    return _family_in(folder, read_config(folder))


def read_shape(folder: Path) -> Shape:
    """The shape of the checkpoint in `folder`. Raises InputError naming its config.json."""
    config = read_config(folder)
    family = _family_in(folder, config)
    try:
        return family.shape(config)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CONFIG}: expected the configuration of a {family.name} model ({error!r})"
        ) from None


def _family_in(folder: Path, config: Mapping) -> Family:
    try:
        return find_family(config)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from None


def family_of(model: str) -> Family:
    """The family of a checkpoint; a name on the Hugging Face hub that is not known here is taken for a Qwen3-VL."""
    return known_family(model) or QWEN3_VL


def known_family(model: str) -> Family | None:
    """The family of the checkpoint in the folder `model`, or of a name on the hub that has been downloaded, if any.

    Raises InputError if the checkpoint is of no known family.
    """
    folder = Path(model).expanduser()
    if (folder / CONFIG).is_file():
        return read_family(folder)
    found = try_to_load_from_cache(model, CONFIG) if re.fullmatch(r"[\w.-]+/[\w.-]+", model) else None
    return read_family(Path(found).parent) if isinstance(found, str) else None
