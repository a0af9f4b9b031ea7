"""Many kinds of broken input: each gives a one-line error naming file, row and field, and leaves no files behind."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample

from .conftest import ANNOTATIONS, IMAGES, reference

GOOD = {"id": "1", "image": "a.png", "sent": "cat", "bbox": [0, 0, 5, 5], "width": 20, "height": 10}
TURNS = [{"from": "human", "value": "<ref>cat</ref>"}, {"from": "gpt", "value": "<box>[0,0,500,500]</box>"}]
REGION = {"name": "cup", "segmentation": [0, 0, 9, 0, 9, 9], "occlude_rate": 0.5, "isStuff": 0}
SCENE = {"image_id": 1, "url": "x/COCO_val2014_000000000001.jpg", "regions": [REGION]}


def line(**changes) -> bytes:
    return json.dumps(GOOD | changes).encode()


# By name: the second line of a sample file, and a pattern of its error message
LINES = {
    "truncated json": (line()[:-9], r'field "\(line\)": expected one JSON object'),
    "empty line": (b"", r'field "\(line\)": expected one JSON object'),
    "no object": (b"[1, 2]", r'field "\(line\)": expected one JSON object'),
    "two objects": (line() + line(), r'field "\(line\)": expected one JSON object'),
    "not UTF-8": (b'{"sent": "caf\xe9"}', r'field "\(line\)": expected UTF-8 text'),
    "half a surrogate pair": (line().replace(b"cat", b"\\ud83d"), r'field "\(line\)": expected text without lone'),
    "nesting without end": (b"[" * 100_000, r'field "\(line\)": expected one JSON object'),
    "binary": (bytes(range(256)).replace(b"\n", b""), r'field "\(line\)": expected'),
    "integer of 5000 digits": (line().replace(b"20", b"9" * 5000), r'field "\(line\)": expected one JSON object'),
    "NaN": (line(bbox=[0, 0, float("nan"), 5]), 'field "bbox": expected a box inside the 20x10 image, xyxy in px'),
    "infinity": (line(bbox=[0, 0, float("inf"), 5]), 'field "bbox"'),
    "box of texts": (line(bbox=["0", "0", "5", "5"]), 'field "bbox"'),
    "box of three": (line(bbox=[0, 0, 5]), 'field "bbox"'),
    "box as an object": (line(bbox={"x1": 0}), 'field "bbox"'),
    "no box": (json.dumps({k: v for k, v in GOOD.items() if k != "bbox"}).encode(), 'field "bbox"'),
    "box null": (line(bbox=None), 'field "bbox"'),
    "negative box": (line(bbox=[-1, 0, 5, 5]), 'field "bbox"'),
    "box without area": (line(bbox=[5, 0, 5, 5]), 'field "bbox"'),
    "xywh where corners are meant": (line(bbox=[9, 5, 4, 4]), 'field "bbox"'),
    "0..1000 where px are meant": (line(bbox=[100, 200, 300, 400]), 'field "bbox"'),
    "box of booleans": (line(bbox=[False, False, True, True]), 'field "bbox"'),
    "visible box outside": (line(modal_bbox=[0, 0, 21, 5]), 'field "modal_bbox"'),
    "width as text": (line(width="20"), 'field "width": expected the image\'s width in px'),
    "width with a fraction": (line(width=20.0), 'field "width"'),
    "height zero": (line(height=0), 'field "height"'),
    "height negative": (line(height=-10), 'field "height"'),
    "no expression": (line(sent=None), 'field "sent": expected a referring expression'),
    "blank expression": (line(sent=" \n"), 'field "sent": expected a referring expression'),
    "expression as list": (line(sent=["cat"]), 'field "sent"'),
    "image mark in the expression": (
        line(sent="the <image> cat"),
        'field "sent": expected an expression without <image>',
    ),
    "place of an image in the expression": (
        line(sent="the <|image_pad|> sign"),
        r'field "sent": expected an expression without <\|image_pad\|>',
    ),
    "end of a turn in the expression": (line(sent="sign <|im_end|>"), r'field "sent": expected .* <\|im_end\|>'),
    "end of reasoning in the expression": (line(sent="cat </think>"), 'field "sent": expected .* </think>'),
    "id as a list": (line(id=[1]), 'field "id": expected a string or an integer'),
    "image as a number": (line(image=7), 'field "image": expected a path'),
    "image missing": (line(image="none.png"), 'field "image": expected a file below'),
    "image that no file can be": (line(image="a\0b.png"), 'field "image": expected a readable image'),
    "image is a folder": (line(image="."), 'field "image": expected a readable image'),
    "image of 0 bytes": (line(image="empty.png"), 'field "image": expected a readable image'),
    "image is text": (line(image="text.png"), 'field "image": expected a readable image'),
    "image of another size": (line(width=10, height=20), 'field "width": expected the image\'s size 20x10, got .10x20'),
    "conversation as text": (line(conversations="hello"), 'field "conversations": expected one gpt turn'),
    "conversation without box": (line(conversations=TURNS[:1]), 'field "conversations": expected one gpt turn'),
    "conversation with two answers": (line(conversations=TURNS + TURNS[1:]), 'field "conversations"'),
    "conversation with a broken box": (
        line(conversations=[TURNS[0], {"from": "gpt", "value": "<box>[1,2,,4]</box>"}]),
        'field "conversations": expected one <box>',
    ),
    "conversation with two boxes": (
        line(conversations=[TURNS[0], {"from": "gpt", "value": TURNS[1]["value"] * 2}]),
        'field "conversations": expected one <box>.* not 2 of them',
    ),
    "conversation with a box in 0..1": (
        line(conversations=[TURNS[0], {"from": "gpt", "value": "<box>[0.05, 0.033, 0.3, 0.2]</box>"}]),
        'field "conversations": expected xyxy in 0..1000; this looks normalised to 0..1',
    ),
    "box in 0..1": (line(bbox=[0.05, 0.033, 0.3, 0.2]), 'field "bbox": expected xyxy in px; this looks normalised'),
    "box that rounds to nothing": (
        line(bbox=[5, 0, 5.001, 5]),
        'field "bbox": expected a box that has an area after rounding',
    ),
}


@pytest.mark.parametrize(("content", "message"), LINES.values(), ids=LINES)
def test_broken_sample_lines_are_named(run, tmp_path, content, message):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    samples, out = tmp_path / "samples.jsonl", tmp_path / "rl.parquet"
    samples.write_bytes(line() + b"\n" + content + b"\n" + line() + b"\n")
    arguments = ["--samples", samples, "--images", tmp_path, "--split", "train", "--out", out]
    fails_cleanly(run("rl_parquet", *arguments), out, rf"samples\.jsonl: row 2: {message}")
    done = run("check", samples, "--images", tmp_path)  # finds the same problem and checks the remaining rows
    if content not in (line(bbox=None),):  # valid in evaluation files: no referent
        assert done.code == 1 and "row 2" in done.out and ": 3 rows" in done.out


def pickled(refs) -> Callable[[Path], list]:
    def build(folder: Path) -> list:
        (folder / "refcoco").mkdir()
        (folder / "refcoco" / "refs(unc).p").write_bytes(refs if isinstance(refs, bytes) else pickle.dumps(refs))
        (folder / "refcoco" / "instances.json").write_text(json.dumps({"images": IMAGES, "annotations": ANNOTATIONS}))
        return ["convert", "refer", "--root", folder, "--parts", "refcoco:unc"]

    return build


def instances(content: str) -> Callable[[Path], list]:
    def build(folder: Path) -> list:
        command = pickled([reference(1, 70, "train", "cup")])(folder)
        (folder / "refcoco" / "instances.json").write_text(content)
        return command

    return build


def cocoa(content) -> Callable[[Path], list]:
    def build(folder: Path) -> list:
        (folder / "cocoa.json").write_text(json.dumps(content))
        return ["convert", "cocoa", "--files", folder / "cocoa.json", "--name", "cocoa_val", "--outside", "clip"]

    return build


def masked(**changes) -> dict:
    visible = {"size": [20, 30], "counts": [0, 1, 599]}
    return SCENE | {"regions": [REGION | {"visible_mask": visible} | changes]}


def parquet(content: bytes | pa.Table) -> Callable[[Path], list]:
    def build(folder: Path) -> list:
        path = folder / "rl.parquet"
        path.write_bytes(content) if isinstance(content, bytes) else pq.write_table(content, path)
        return ["convert", "released", "--files", path]

    return build


def cut_parquet(folder: Path) -> list:
    path = folder / "rl.parquet"
    write_rl_parquet(path, [Sample("x", "a.png", 9, 9, "cat", (0.0, 0.0, 5.0, 5.0))] * 50, "train", folder)
    path.write_bytes(path.read_bytes()[:-20])
    return ["convert", "released", "--files", path]


REF = reference(1, 70, "train", "cup")
FILES = {
    "pickle cut off": (pickled(pickle.dumps([REF])[:-20]), r"refs\(unc\)\.p: expected a pickle of plain data"),
    "pickle that imports": (pickled(b"cos\nsystem\n."), r"refs\(unc\)\.p: .*it would import os\.system"),
    "pickle of something else": (pickled({"a": 1}), r"refs\(unc\)\.p: expected a list of references, got dict"),
    "reference without split": (
        pickled([{k: v for k, v in REF.items() if k != "split"}]),
        r'refs\(unc\)\.p: row 1: field "split"',
    ),
    "unknown split": (pickled([REF | {"split": "../x"}]), r"refs\(unc\)\.p: row 1: split: expected one of train"),
    "unknown image": (
        pickled([REF | {"image_id": 99}]),
        'row 1: field "image_id": expected the id of an image in instances.json',
    ),
    "unhashable annotation": (pickled([REF | {"ann_id": [70]}]), 'row 1: field "ann_id"'),
    "sentences as text": (
        pickled([REF | {"sentences": "cup"}]),
        'row 1: field "sentences": expected a list of objects',
    ),
    "sentences as number": (pickled([REF | {"sentences": 3}]), 'row 1: field "sentences"'),
    "no sentence": (pickled([REF | {"sentences": []}]), 'row 1: field "sentences": expected a list of expressions'),
    "sentence with half a surrogate pair": (
        pickled([reference(1, 70, "train", "\ud83d")]),
        'row 1: field "sentences": expected text without lone surrogates',
    ),
    "reference is a number": (pickled([7]), 'row 1: field "image_id": expected an object'),
    "instances cut off": (instances('{"images": ['), r"instances\.json: expected JSON"),
    "instances without annotations": (instances('{"images": []}'), r'instances\.json: field "annotations"'),
    "instances with a negative box": (
        instances(json.dumps({"images": IMAGES, "annotations": [{"id": 70, "bbox": [0, 0, -5, 5]}]})),
        'row 1: field "bbox": expected a box inside the 640x480 image, xyxy in px',
    ),
    "instances with a box outside": (
        instances(json.dumps({"images": IMAGES, "annotations": [{"id": 70, "bbox": [600, 0, 50, 5]}]})),
        'row 1: field "bbox": expected a box inside the 640x480 image, xywh in px',
    ),
    "polygon of two points": (cocoa(masked(segmentation=[0, 0, 5, 5])), r'field "regions\[0\]\.segmentation"'),
    "polygon with NaN": (cocoa(masked(segmentation=[0, 0, 5, None, 9, 9])), r'field "regions\[0\]\.segmentation"'),
    "mask of another size": (
        cocoa(
            SCENE
            | {
                "regions": [REGION | {"visible_mask": {"size": [20, 30], "counts": "11"}}] * 1
                + [REGION | {"visible_mask": {"size": [30, 20], "counts": "11"}}]
            }
        ),
        r'field "regions\[1\]\.visible_mask": expected an RLE mask of size \[20, 30\]',
    ),
    "mask of negative runs": (cocoa(masked(visible_mask={"size": [20, 30], "counts": [0, -1]})), "visible_mask"),
    "occlusion above one": (cocoa(masked(occlude_rate=1.5)), r'field "regions\[0\]\.occlude_rate": expected a rate'),
    "scene without regions": (cocoa({"image_id": 1}), r'cocoa\.json: row 1: field "regions"'),
    "annotations as text": (cocoa({"annotations": "none", "images": []}), 'field "annotations": expected a list'),
    "images as a number": (cocoa({"annotations": [SCENE], "images": 5}), 'field "images": expected a list'),
    "scene of a list of images": (
        cocoa(SCENE | {"image_id": [1]}),
        'row 1: field "image_id": expected a positive integer',
    ),
    "scene without a size": (cocoa(SCENE), r'cocoa\.json: row 1: field "regions": expected a visible_mask with'),
    "mask of one side": (cocoa(masked(visible_mask={"size": [20], "counts": "a"})), r"\[height, width\], got \[20\]"),
    "mask without sides": (cocoa(masked(visible_mask={"size": 5, "counts": "a"})), r"\[height, width\], got 5"),
    "url of no file": (cocoa(masked() | {"url": "https://example.org/"}), 'field "url": expected a non-empty string'),
    "parquet that is none": (parquet(b"PAR1 but not really"), r"rl\.parquet: expected a parquet file"),
    "parquet cut off": (cut_parquet, r"rl\.parquet: expected a parquet file"),
    "parquet without a column": (
        parquet(pa.table({"images": [["a.png"]]})),
        'row 1: field "data_source": expected this',
    ),
    "parquet of 0 bytes": (parquet(b""), r"rl\.parquet: expected a parquet file"),
}


@pytest.mark.parametrize(("build", "message"), FILES.values(), ids=FILES)
def test_broken_annotation_files_are_named(run, tmp_path, build, message):
    out = tmp_path / "out"
    command = build(tmp_path)
    fails_cleanly(run(*command, "--out", out), out / "train.jsonl", message)
    assert not [path for path in out.rglob("*") if path.is_file() and path.name != "train.jsonl"]


def test_duplicate_ids_are_named(run, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(line() + b"\n" + line(sent="dog") + b"\n")
    done = run("check", tmp_path / "a.jsonl")
    assert done.code == 1 and 'a.jsonl: row 2: field "id": expected an id that no earlier row has' in done.out


@pytest.mark.parametrize(
    ("name", "message"), [("a.csv", "named \\*.jsonl or"), ("a.jsonl", "found none"), ("a.parquet", "a parquet")]
)
def test_unknown_file_formats_are_rejected(run, tmp_path, name, message):
    if name != "a.jsonl":
        (tmp_path / name).write_text("a,b\n")
    fails_cleanly(run("check", tmp_path / name), tmp_path / "nothing", rf"{name}: expected .*{message}")


def test_unwritable_outputs_are_named(run, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(line() + b"\n")
    arguments = ["--samples", tmp_path / "a.jsonl", "--images", tmp_path, "--no-check-images", "--split", "train"]
    for out in (tmp_path, tmp_path / "a.jsonl" / "rl.parquet"):
        done = run("rl_parquet", *arguments, "--out", out)
        assert done.code == 2 and "expected a file that can be written" in done.err and done.err.count("\n") == 1


def fails_cleanly(done, out: Path, message: str) -> None:
    assert done.code == 2, done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert re.search(message, done.err), done.err
    assert not out.exists() and not list(out.parent.rglob("*.part"))
