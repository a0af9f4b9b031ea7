"""The splits of the RefCOCO family: their names, which are used for validation, and their sizes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from qwen3vl_rl.errors import InputError

# REFER's partitions of each dataset. Papers report the first partition; split names leave it out.
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

# Expressions per split. The sums per dataset are REFER's totals: 142,210, 141,564 and 95,010.
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

# Expressions of other sets, as stated by their projects; Ref-L4's val and test as counted by others.
STATED: Mapping[str, int] = MappingProxyType(
    {"ref_l4_val": 13_420, "ref_l4_test": 31_921, "ref_adv_s": 1_142, "grounding_me": 1_005}
)


def split_name(dataset: str, partition: str, split: str) -> str:
    """The split's name: `refcoco_testA`, or `refcoco_google_test` for a partition that papers do not report.

    Raises InputError for an unknown dataset, partition or split.
    """
    _check_name("dataset", dataset, tuple(PARTITIONS))
    _check_name(f"partition of {dataset}", partition, _PARTITIONS[dataset])
    _check_name("split", split, SPLITS)
    return f"{dataset}_{split}" if partition == PARTITIONS[dataset] else f"{dataset}_{partition}_{split}"


def _check_name(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{what}: expected one of {', '.join(allowed)}, got {value!r}")


def describe_count(split: str, count: int) -> str:
    """One line: the split, its number of expressions and, if known, how it differs from the expected number."""
    expected = EXPRESSIONS.get(split) or STATED.get(split)
    line = f"{split:<24}{count:>10,}"
    if expected is None:
        return line
    return f"{line}  " + (
        "as expected" if count == expected else f"expected {expected:,}: DIFFERS by {count - expected:+,}"
    )
