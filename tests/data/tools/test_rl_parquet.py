"""The RL parquet: how verl reads it, the validation draw, and replacing its image folder."""

import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoProcessor
from verl.utils.dataset.rl_dataset import RLHFDataset

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.expressions import is_visible
from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.parquet import iter_parquet
from qwen3vl_rl.data.refcoco import EVAL_SPLITS, EXPRESSIONS, VAL_SPLITS
from qwen3vl_rl.data.rl_rows import RL_SCHEMA, check_size_and_truth, rl_sample, write_rl_parquet
from qwen3vl_rl.data.samples import Sample, read_samples
from qwen3vl_rl.data.tools import rl_val
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.reward import compute_score
from qwen3vl_rl.training.preflight.rows import first_of_several_answers
from sft.build_dataset import sft_row

QWEN3_VL_PIXELS = {"shortest_edge": 65536, "longest_edge": 16777216}  # the starter checkpoint has smaller limits
SIDE_PX = 32  # px per side of an image token: Qwen3-VL merges 2 x 2 patches of 16 px


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """20 training samples of RefShapes."""
    folder = tmp_path_factory.mktemp("world")
    refshapes.build(folder, train=20, val=1, seed=0)
    return folder


def convert(run, world, out, *more):
    images = ["--samples", world / "refshapes_train.jsonl", "--images", world / "images"]
    return run("rl_parquet", *images, "--split", "train", "--out", out, *more)


def test_prompts_can_have_the_released_format(run, world, tmp_path):
    out, texts = tmp_path / "rl.parquet", {}
    for prompts in ("plain", "released_rl"):
        assert convert(run, world, out, "--prompts", prompts).code == 0
        texts[prompts] = [row["prompt"][0]["content"] for _, row in iter_parquet(out, ["prompt"])]
        assert all(rl_sample(out, *located)[1].startswith("qwen3") for located in iter_parquet(out, RL_SCHEMA.names))
    assert texts["released_rl"] == [text.replace("<image>", "<image>\n") for text in texts["plain"]]


def test_rows_have_the_released_schema(run, world, tmp_path):
    out = tmp_path / "rl.parquet"
    done = convert(run, world, out, "--rows", "12:")
    assert done.code == 0 and done.out.endswith("rl.parquet: 8 rows\n")
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["data_source", "prompt", "images", "ability", "reward_model", "extra_info"]
    row = frame.iloc[0]
    assert row.data_source == row.ability == "grounding"
    assert row.reward_model["style"] == "rule" and len(row.reward_model["ground_truth"]) == 4
    assert set(row.extra_info) == {"split", "index", "id", "height", "width", "question"}
    assert row.extra_info["id"] == "refshapes_train_000012"
    assert row.prompt[0]["content"] == row.extra_info["question"]
    assert row.prompt[0]["role"] == "user" and row.prompt[0]["content"].startswith("<image>Locate the ")
    assert row.images[0].startswith(f"{world}/images/refshapes_train/")


def test_a_missing_image_keeps_the_earlier_file(run, world, tmp_path):
    out = tmp_path / "rl.parquet"
    out.write_text("earlier")
    done = convert(run, world, out, "--images", tmp_path)
    assert done.code == 2 and 'refshapes_train.jsonl: row 1: field "image"' in done.err
    assert out.read_text() == "earlier"
    assert convert(run, world, out, "--images", tmp_path, "--no-check-images").code == 0


@pytest.mark.parametrize("rows", ["2", "::0", "a:b", "-5:"])
def test_bad_row_ranges_are_rejected(run, world, tmp_path, rows):
    done = convert(run, world, tmp_path / "o", f"--rows={rows}")
    assert done.code == 2 and "expected START:END" in done.err


@pytest.mark.slow
def test_an_error_during_encoding_does_not_crash_python(tmp_path):
    code = """
import sys
from pathlib import Path
import pyarrow as pa
from qwen3vl_rl.data.parquet import write_parquet

batch = pa.record_batch({"text": [str(number) * 20 for number in range(300_000)]})

def batches(count):
    yield from [batch] * count
    raise ValueError("a bad row")

for count in (1, 2, 3, 1, 2, 3):
    try:
        write_parquet(Path(sys.argv[1]), batches(count), batch.schema)
    except ValueError as error:
        print(error)
"""
    command = [sys.executable, "-c", code, tmp_path / "a.parquet"]
    done = subprocess.run(command, capture_output=True, text=True)  # in another process, because it may crash
    assert (done.returncode, done.stdout) == (0, "a bad row\n" * 6), done.stderr
    assert not list(tmp_path.iterdir())


def test_an_empty_selection_is_an_error(run, world, tmp_path):
    done = convert(run, world, tmp_path / "o", "--rows", "500:")
    assert done.code == 2 and "at least one sample in rows 500:" in done.err


@st.composite
def samples(draw):
    """Any sample: a box of at least a hundredth of each side or no referent, and any expression."""
    width, height = draw(st.integers(200, 5000)), draw(st.integers(200, 5000))
    x1, x2 = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2, unique=True)))
    box = (x1 * width / 100, y1 * height / 100, x2 * width / 100, y2 * height / 100)
    sent = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(is_visible))
    truth, modal = draw(st.sampled_from([(box, None), (box, box), (None, None)]))
    return Sample("x", "a.png", width, height, sent.replace("<", "("), truth, modal)


@given(st.lists(samples(), min_size=1, max_size=4))
def test_samples_come_back_within_rounding(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("rl") / "rl.parquet"
    assert write_rl_parquet(path, written, "train", path.parent) == len(written)
    for (number, row), sample in zip(iter_parquet(path, RL_SCHEMA.names), written, strict=True):
        found, prompt_name = rl_sample(path, number, row)
        assert (found.sent, found.width, found.height) == (sample.sent, sample.width, sample.height)
        assert prompt_name == sample.prompt_name
        assert row["extra_info"]["index"] == number - 1
        assert (found.xyxy_px is None) == (sample.xyxy_px is None) == (row["data_source"] == "no_referent")
        if sample.xyxy_px is None:
            continue
        for got, want, side in zip(found.xyxy_px, sample.xyxy_px, (sample.width, sample.height) * 2, strict=True):
            assert abs(got - want) <= 0.5 * side / 1000 + 1e-9
    check_size_and_truth(path)


def test_rows_without_a_referent_need_the_option(run, tmp_path):
    refshapes.build(tmp_path, train=20, val=5, seed=0, no_referent=0.5)
    out = tmp_path / "rl.parquet"
    done = convert(run, tmp_path, out)
    assert done.code == 2 and 'field "bbox": expected a box, xyxy in px (--no-referent accepts null)' in done.err
    assert convert(run, tmp_path, out, "--no-referent").code == 0
    rows = [row for _, row in iter_parquet(out, RL_SCHEMA.names)]
    absent = [row for row in rows if row["reward_model"]["ground_truth"] is None]
    assert len(rows) == 20 + len(absent) > 20
    done = run("check", out, tmp_path / "refshapes_train.jsonl", tmp_path / "eval" / "refshapes_val.jsonl")
    assert done.code == 0, done.out
    assert first_of_several_answers(out) == 1 + rows.index(absent[0])


def test_rows_without_a_referent_have_no_visible_box(run, world, tmp_path):
    row = {"id": "a", "image": "a.png", "width": 160, "height": 128, "sent": "the star", "bbox": None}
    write_jsonl(tmp_path / "rows.jsonl", [row | {"modal_bbox": [10, 10, 50, 50]}])
    options = ["--images", world / "images", "--no-check-images", "--no-referent", "--split", "train"]
    done = run("rl_parquet", "--samples", tmp_path / "rows.jsonl", *options, "--out", tmp_path / "rl.parquet")
    assert done.code == 2 and 'field "modal_bbox": expected null, because bbox is null' in done.err


def test_both_boxes_rows_are_recognised_as_amodal(run, world, tmp_path):
    assert convert(run, world, tmp_path / "rl.parquet", "--prompts", "both_boxes").code == 0
    assert first_of_several_answers(tmp_path / "rl.parquet")
    done = run("convert", "released", "--files", tmp_path / "rl.parquet", "--out", tmp_path / "converted")
    assert done.code == 2 and "expected no amodal sample" in done.err


def test_amodal_samples_can_ask_for_both_boxes(run, world, tmp_path):
    """The stage-1 target of the same sample gets the full reward."""
    out, samples = tmp_path / "rl.parquet", read_samples(world / "refshapes_train.jsonl")
    assert convert(run, world, out, "--prompts", "both_boxes").code == 0
    rows, amodal = [row for _, row in iter_parquet(out, RL_SCHEMA.names)], 0
    for number, (sample, row) in enumerate(zip(samples, rows, strict=True), start=1):
        answer = sft_row(sample, "I see it.", tmp_path, "both_boxes")["messages"][1]["content"]
        info, truth = row["extra_info"], row["reward_model"]["ground_truth"]
        settings = {"reward_type": "amodal", "alpha": 0.5, "threshold": 0.5}
        result = compute_score(row["data_source"], answer, truth, info, **settings)
        assert result["score"] == 1
        is_amodal = sample.modal_xyxy_px is not None
        assert ("the part of it in sight" in row["prompt"][0]["content"]) == is_amodal == ("modal_iou" in result)
        assert rl_sample(out, number, row)[1] == ("qwen3_both" if is_amodal else "qwen3")
        amodal += is_amodal
    assert 0 < amodal < len(rows)


def test_a_missing_true_box_is_an_error(tmp_path):
    table = pa.Table.from_pylist([{"extra_info": {"width": 100, "height": 100}, "reward_model": {"style": "rule"}}])
    pq.write_table(table, tmp_path / "rl.parquet")
    with pytest.raises(InputError, match=r"row 1: field \"reward_model.ground_truth\": expected four numbers"):
        check_size_and_truth(tmp_path / "rl.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("size_px", [(640, 416), (256, 256), (320, 480)])
def test_verl_reads_rows_and_finds_the_image_tokens(starter, tmp_path, monkeypatch, size_px):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    width, height = size_px
    Image.new("RGB", size_px).save(tmp_path / "a.png")
    sample = Sample("x", "a.png", width, height, "the cat", (0.0, 0.0, width / 2, height))
    write_rl_parquet(tmp_path / "rl.parquet", [sample], "train", tmp_path)
    processor = AutoProcessor.from_pretrained(starter)
    processor.image_processor.size = QWEN3_VL_PIXELS
    # Filter in this process, because a fork of a process that has run torch may hang.
    config = {"max_prompt_length": 1024, "image_patch_size": 16, "filter_overlong_prompts_workers": None}
    dataset = RLHFDataset(str(tmp_path / "rl.parquet"), processor.tokenizer, OmegaConf.create(config), processor)
    assert len(dataset) == 1
    row = dataset[0]
    assert row["reward_model"]["ground_truth"] == [0, 0, 500, 1000] and row["data_source"] == "grounding"
    messages = row["raw_prompt"]
    assert [part["type"] for part in messages[0]["content"]] == ["image", "text"]
    images, _, _ = dataset._process_multi_modal_info(messages, 16, config)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = processor(text=[text], images=images)["input_ids"][0]
    assert list(ids).count(processor.image_token_id) == (width // SIDE_PX) * (height // SIDE_PX)


@pytest.fixture
def val_dir(tmp_path):
    """The eight evaluation files, 40 rows each, and one image."""
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    for split in EVAL_SPLITS:
        rows = [
            {"id": f"{split}_{k}", "image": "a.png", "sent": f"s{k}", "bbox": [0, 0, 9, 9], "width": 100, "height": 100}
            for k in range(40)
        ]
        write_jsonl(tmp_path / "eval" / f"{split}.jsonl", rows)
    return tmp_path / "eval"


def test_the_released_draw_on_files_of_the_published_sizes():
    counts = [EXPRESSIONS[split] for split in rl_val.RELEASED_ORDER]
    rng = np.random.default_rng(42)  # the release permutes each file, then all drawn rows
    drawn = [(file, row) for file, count in enumerate(counts) for row in rng.permutation(count)[: int(0.1 * count)]]
    drawn = [drawn[index] for index in rng.permutation(len(drawn))]
    assert rl_val.draw_released(counts) == drawn
    assert len(drawn) == len(set(drawn)) == sum(count // 10 for count in counts) == 5741
    assert drawn[:4] == [(5, 2546), (1, 2562), (0, 604), (4, 10375)]
    assert sorted(rl_val.RELEASED_ORDER) == sorted(EVAL_SPLITS)
    assert sorted(file for file, _ in rl_val.draw_released([1, 5])) == [0, 1]  # at least one row per file


def test_released_choice_writes_the_released_rows(run, val_dir, tmp_path):
    arguments = ["--val-dir", val_dir, "--images", tmp_path, "--out", tmp_path / "val.parquet"]
    done = run("rl_val", *arguments, "--choice", "released")
    assert done.code == 0, done.err
    files = [read_samples(val_dir / f"{split}.jsonl") for split in rl_val.RELEASED_ORDER]
    drawn = [files[file][row] for file, row in rl_val.draw_released([*map(len, files)])]
    rows = pq.read_table(tmp_path / "val.parquet").to_pylist()
    assert len(rows) == len(drawn) == 32
    for index, (row, sample) in enumerate(zip(rows, drawn, strict=True)):
        size = (sample.width, sample.height)
        assert row["prompt"][0]["content"].startswith("<image>\nLocate ")
        info = {"split": "test", "index": index, "height": size[1], "width": size[0], "question": sample.sent}
        assert row["extra_info"] == info
        truth = [v / side * 1000 for v, side in zip(sample.xyxy_px, size * 2, strict=True)]
        assert row["reward_model"] == {"style": "rule", "ground_truth": truth}
        assert (row["image"], row["sent"], row["bbox"]) == (sample.image, sample.sent, list(sample.xyxy_px))
    checked = run("check", tmp_path / "val.parquet")
    assert checked.code == 0, checked.out


@pytest.mark.parametrize(("choice", "splits"), [("clean", VAL_SPLITS)])
def test_validation_takes_a_tenth_of_each_file(run, val_dir, tmp_path, choice, splits):
    arguments = ["--val-dir", val_dir, "--images", tmp_path, "--out", tmp_path / "val.parquet"]
    done = run("rl_val", *arguments, *([] if choice == "clean" else ["--choice", choice]))
    assert done.code == 0, done.err
    infos = [row["extra_info"] for _, row in iter_parquet(tmp_path / "val.parquet", RL_SCHEMA.names)]
    assert {info["split"] for info in infos} == {"test"}
    drawn = [info["id"].rpartition("_")[0] for info in infos]
    assert drawn == [split for split in splits for _ in range(4)]
    before = (tmp_path / "val.parquet").read_bytes()
    run("rl_val", *arguments, *([] if choice == "clean" else ["--choice", choice]))
    assert (tmp_path / "val.parquet").read_bytes() == before


def test_validation_needs_all_files_and_images(run, val_dir, tmp_path):
    arguments = ["--val-dir", val_dir, "--out", tmp_path / "val.parquet"]
    done = run("rl_val", *arguments, "--images", val_dir)
    assert done.code == 2 and 'field "image": expected a file below' in done.err
    (val_dir / "refcocog_val.jsonl").unlink()
    done = run("rl_val", *arguments, "--images", tmp_path)
    assert done.code == 2 and "refcocog_val.jsonl: expected a jsonl file, found none" in done.err
    assert not (tmp_path / "val.parquet").exists()


@pytest.fixture
def released(tmp_path):
    """A parquet like the released one: relative paths, an additional column, several row groups."""
    path = tmp_path / "train.parquet"
    table = pa.table({"images": [[f"coco/train2014/{k}.jpg"] for k in range(30)], "index": range(30)})
    pq.write_table(table.replace_schema_metadata({"made": "elsewhere"}), path, row_group_size=7)
    return path


def test_only_image_paths_are_replaced(run, released, tmp_path):
    (tmp_path / "data").mkdir()
    assert run("replace_img_dir", released, "--to", tmp_path / "data").code == 0
    frame = pd.read_parquet(released)
    assert frame.images[29][0] == f"{tmp_path}/data/coco/train2014/29.jpg" and list(frame["index"]) == list(range(30))
    assert pq.read_schema(released).metadata == {b"made": b"elsewhere"}
    assert run("replace_img_dir", released, "--to", "/new", "--from", tmp_path / "data").code == 0
    assert pd.read_parquet(released).images[3][0] == "/new/coco/train2014/3.jpg"


def test_a_path_outside_the_old_folder_changes_nothing(run, released):
    run("replace_img_dir", released, "--to", "/new")
    before = released.read_bytes()
    done = run("replace_img_dir", released, "--to", "/newer", "--from", "/old")
    assert (
        done.code == 2
        and 'train.parquet: row 1: field "images": expected a relative path, or one below /old' in done.err
    )
    assert released.read_bytes() == before


def test_the_coco_folder_is_found_anywhere_in_a_path(run, tmp_path):
    given = ["coco/train2014/1.jpg", "/home/x/coco/coco_flip/train2014/2.jpg", "./data/coco/train2014/3.jpg"]
    pq.write_table(pa.table({"images": [[path] for path in given]}), tmp_path / "p.parquet")
    for new in ("/coco/data", "/new"):  # the second run replaces the paths of the first
        done = run("replace_img_dir", tmp_path / "p.parquet", "--to", new)
        assert done.code == 0, done.err
        moved = [path for (path,) in pd.read_parquet(tmp_path / "p.parquet").images]
        named = ("coco/train2014/1.jpg", "coco_flip/train2014/2.jpg", "coco/train2014/3.jpg")
        assert moved == [f"{new}/{path}" for path in named]


def test_an_absolute_path_without_coco_is_named(run, tmp_path):
    pq.write_table(pa.table({"images": [["coco/1.jpg"], ["/mine/4.jpg"]]}), tmp_path / "p.parquet")
    done = run("replace_img_dir", tmp_path / "p.parquet", "--to", "/new")
    assert done.code == 2 and "row 2" in done.err and "--from OLD replaces others" in done.err


def test_list_columns_of_pandas_and_datasets_are_accepted(run, tmp_path):
    pd.DataFrame({"images": [["a.jpg"], ["b.jpg"]]}).to_parquet(tmp_path / "p.parquet")
    datasets.Dataset.from_dict({"images": [["a.jpg"]]}).to_parquet(tmp_path / "d.parquet")
    for name in ("p", "d"):
        done = run("replace_img_dir", tmp_path / f"{name}.parquet", "--to", "/new")
        assert done.code == 0, done.err
        assert pd.read_parquet(tmp_path / f"{name}.parquet").images[0][0] == "/new/a.jpg"
