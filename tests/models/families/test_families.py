"""Every family answers all questions, and is found by the configuration of a checkpoint."""

import inspect
import subprocess
import sys

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.families import FAMILIES, family_of, find_family, read_family, read_shape
from qwen3vl_rl.models.families.interface import Family, Parts, Prompts
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL

WITHOUT_TORCH = """
import sys
from qwen3vl_rl.models.families import FAMILIES, read_family, read_shape
print({"torch", "transformers", "verl"} & set(sys.modules))
"""


def test_files_are_read_without_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_is_complete(family):
    assert [name for name in Family.__annotations__ if not hasattr(family, name)] == []
    for module, interface in ((family.parts, Parts), (family.prompts, Prompts)):
        for name, asked in inspect.getmembers(interface, inspect.isfunction):
            if name.startswith("_"):
                continue
            wanted = list(inspect.signature(asked).parameters)[1:]
            given = inspect.signature(getattr(module, name)).parameters.values()
            assert [own.name for own in given][: len(wanted)] == wanted, name
            assert all(own.default is not own.empty for own in list(given)[len(wanted) :]), name


def test_the_sizes_of_all_families_have_different_names():
    names = [size for family in FAMILIES.values() for size in family.sizes]
    assert len(names) == len(set(names))


def test_a_checkpoint_is_read(starter):
    assert read_family(starter) is family_of(str(starter)) is QWEN3_VL
    assert read_shape(starter).num_hidden_layers == 4


def test_a_model_on_the_hub_is_taken_for_a_qwen3_vl():
    assert family_of("Qwen/Qwen3-VL-8B-Thinking") is QWEN3_VL


def test_another_family_is_refused():
    with pytest.raises(InputError, match=r"^model_type: expected qwen3_vl or internvl, found llava$"):
        find_family({"model_type": "llava"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json: expected the configuration of a model"),
        ("[]", r"config\.json: model_type: expected qwen3_vl or internvl, found None"),
        ('{"model_type": "qwen2_5_vl"}', r"config\.json: model_type: expected qwen3_vl or internvl, found qwen2_5_vl"),
        ('{"model_type": "qwen3_vl"}', r"config\.json: expected the configuration of a Qwen3-VL model .*vision_config"),
    ],
    ids=["cut", "list", "another", "incomplete"],
)
def test_a_configuration_that_is_not_a_models_is_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=message):
        read_shape(tmp_path)
