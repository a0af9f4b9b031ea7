"""What is known of the RefCOCO family's splits: their names, which are for validation, and how large they are."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from qwen3vl_rl.errors import InputError

# How REFER partitions each dataset. Papers report the first partition; its files carry no partition in their name.
_PARTITIONS = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
PARTITIONS: Mapping[str, str] = MappingProxyType({dataset: names[0] for dataset, names in _PARTITIONS.items()})
SPLITS = ("train", "val", "test", "testA", "testB")

VAL_SPLITS = ("refcoco_val", "refcoco+_val", "refcocog_val")
EVAL_SPLITS = (
    "refcoco_val",
    "refcoco_testA",
    "refcoco_testB",
    "refcoco+_val",
    "refcoco+_testA",
    "refcoco+_testB",
    "refcocog_val",
    "refcocog_test",
)

# Expressions of each split. With the training splits the sums are 142,210, 141,564 and 95,010, REFER's totals.
EXPRESSIONS: Mapping[str, int] = MappingProxyType(
    {
        "refcoco_train": 120_624,
        "refcoco_val": 10_834,
        "refcoco_testA": 5_657,
        "refcoco_testB": 5_095,
        "refcoco+_train": 120_191,
        "refcoco+_val": 10_758,
        "refcoco+_testA": 5_726,
        "refcoco+_testB": 4_889,
        "refcocog_train": 80_512,
        "refcocog_val": 4_896,
        "refcocog_test": 9_602,
    }
)

# Of other sets, as their projects state them; of Ref-L4's parts as others have counted.
STATED: Mapping[str, int] = MappingProxyType(
    {"ref_l4_val": 13_420, "ref_l4_test": 31_921, "ref_adv_s": 1_142, "grounding_me": 1_005}
)


def split_name(dataset: str, partition: str, split: str) -> str:
    """`refcoco_testA`; for a partition that papers do not report `refcoco_google_test`. Raises InputError."""
    _check_name("dataset", dataset, tuple(PARTITIONS))
    _check_name(f"partition of {dataset}", partition, _PARTITIONS[dataset])
    _check_name("split", split, SPLITS)
    return f"{dataset}_{split}" if partition == PARTITIONS[dataset] else f"{dataset}_{partition}_{split}"


def _check_name(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{what}: expected one of {', '.join(allowed)}, got {value!r}")


def describe_count(split: str, count: int) -> str:
    """One line: the split, its expressions, and how they compare with the known number where there is one."""
    expected = EXPRESSIONS.get(split) or STATED.get(split)
    line = f"{split:<24}{count:>10,}"
    if expected is None:
        return line
    return f"{line}  " + (
        "as expected" if count == expected else f"expected {expected:,}: DIFFERS by {count - expected:+,}"
    )
