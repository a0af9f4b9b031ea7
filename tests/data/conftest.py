"""A fixture that runs command lines in this process, because processes are slow to start, and a small REFER tree."""

import importlib
import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwen3vl_rl.errors import cli


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Done]:
    """`run("check", path, "--images", folder)` runs `python -m qwen3vl_rl.data.tools.check …`."""

    def command(module: str, *arguments) -> Done:
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        capsys.readouterr()
        try:
            cli(importlib.import_module(f"qwen3vl_rl.data.tools.{module}").main)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return Done(code, *capsys.readouterr())

    return command


IMAGES = [
    {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 640, "height": 480},
    {"id": 8, "file_name": "COCO_train2014_000000000008.jpg", "width": 100, "height": 200},
]
ANNOTATIONS = [
    {"id": 70, "image_id": 7, "bbox": [489.71, 265.92, 150.29, 140.42]},  # 489.71 + 150.29 is slightly more than 640
    {"id": 80, "image_id": 8, "bbox": [10, 20, 30, 40]},
]


def reference(ref_id: int, ann_id: int, split: str, *sents: str) -> dict:
    """One entry of `refs(unc).p`."""
    sentences = [
        {"sent": sent, "raw": sent.upper(), "sent_id": k, "tokens": sent.split()} for k, sent in enumerate(sents)
    ]
    return {"ref_id": ref_id, "ann_id": ann_id, "image_id": ann_id // 10, "split": split, "sentences": sentences}


@pytest.fixture
def refer_root(tmp_path) -> Path:
    """A REFER data folder with only RefCOCO (unc): two sentences for training, one each for val and testA."""
    folder = tmp_path / "refer" / "refcoco"
    folder.mkdir(parents=True)
    refs = [
        reference(1, 70, "train", "left cup", "cup on the left"),
        reference(2, 80, "val", "small bowl"),
        reference(3, 80, "testA", "man"),
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "instances.json").write_text(json.dumps({"images": IMAGES, "annotations": ANNOTATIONS}))
    return folder.parent
