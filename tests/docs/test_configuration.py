"""docs/configuration.md holds every setting of our YAML files, and is current."""

import pytest
import yaml

from docs.configuration import EVALUATION, GROUPS, LEFT_OUT, PAGE, STAGE_1, STAGE_2, page, read_settings

FILES = sorted([*STAGE_1.rglob("*.yaml"), *STAGE_2.rglob("*.yaml"), EVALUATION])


def leaves(tree, path=()):
    """The dotted keys of all values of a YAML file that are no mappings."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield ".".join((*path, key))


def test_the_page_is_current():
    assert PAGE.read_text() == page(), "run: python -m docs.configuration"


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_setting_of_a_file_is_read(path):
    head, settings = read_settings(path.read_text())
    read = {setting.key for setting in settings}
    tree = {key: value for key, value in (yaml.safe_load(path.read_text()) or {}).items() if key not in LEFT_OUT}
    for key in leaves(tree):
        assert any(key == one or key.startswith(f"{one}.") for one in read), f"{key} is missing"
    if path.parent.name in GROUPS and not path.name.startswith("_"):
        assert head, f"{path}: expected a comment at its top that says what the choice does"


def test_values_and_comments_are_told_apart_as_yaml_does():
    _, settings = read_settings('# head\n\n# of no key\n\na: "x #1" # c\nb: [1,\n    2] # two\nc:\n  - 3\nd: 4 # last')
    assert [(one.key, one.value, one.meaning) for one in settings] == [
        ("a", '"x #1"', "c"), ("b", "[1, 2]", "two"), ("c", "- 3", ""), ("d", "4", "last"),
    ]  # fmt: skip


def test_every_group_is_on_the_page():
    folders = {folder.name for stage in (STAGE_1, STAGE_2) for folder in stage.iterdir() if folder.is_dir()}
    assert folders == set(GROUPS)


def test_comments_above_and_behind_a_key_are_joined_and_values_are_kept():
    head, settings = read_settings(
        "# @package _global_\n# What the file\n# does.\ndefaults:\n  - other # no\n\n"
        "a:\n  # above\n  b: &x # behind\n    c: [1, 2] # px\n  d: a # b\ne: 'x'\n"
    )
    assert head == "What the file does."
    assert [(one.key, one.value, one.meaning) for one in settings] == [
        ("a.b", "", "above behind"), ("a.b.c", "[1, 2]", "px"), ("a.d", "a", "b"), ("e", "'x'", ""),
    ]  # fmt: skip
