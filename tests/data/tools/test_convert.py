"""Converting published layouts to samples."""

import io
import json
import pickle
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qwen3vl_rl.data.layouts.record import Record, coco_box_px
from qwen3vl_rl.data.layouts.refer import load_pickle
from qwen3vl_rl.data.refcoco import EXPRESSIONS, describe_count, split_name
from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample, read_samples, sample_row
from qwen3vl_rl.data.tools.convert import write_splits
from qwen3vl_rl.errors import InputError

CUP_PX = (489.71, 265.92, 640.0, 406.34)


def test_refer_becomes_one_file_per_split(run, refer_root, tmp_path):
    done = run("convert", "refer", "--root", refer_root, "--parts", "refcoco:unc", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert files == ["eval/refcoco_testA.jsonl", "eval/refcoco_val.jsonl", "refcoco_train.jsonl"]
    first, second = read_samples(tmp_path / "out/refcoco_train.jsonl")
    assert first == Sample(
        "refcoco_train_1_0", "coco/train2014/COCO_train2014_000000000007.jpg", 640, 480, "left cup", CUP_PX
    )
    assert second.sent == "cup on the left" and second.id == "refcoco_train_1_1"
    assert read_samples(tmp_path / "out/eval/refcoco_val.jsonl")[0].xyxy_px == (10, 20, 40, 60)


def test_counts_are_reported_per_split(run, refer_root, tmp_path):
    done = run("convert", "refer", "--root", refer_root, "--parts", "refcoco:unc", "--out", tmp_path / "out")
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert lines["refcoco_train"].endswith("2  expected 120,624: DIFFERS by -120,622")
    assert lines["refcoco_testA"].endswith("1  expected 5,657: DIFFERS by -5,656")
    assert describe_count("refcoco_val", EXPRESSIONS["refcoco_val"]).endswith("10,834  as expected")
    assert describe_count("refcoco_google_val", 3).endswith(" 3")


def test_known_counts_add_up_to_the_totals_that_refer_publishes():
    totals = Counter()
    for split, count in EXPRESSIONS.items():
        totals[split.partition("_")[0]] += count
    assert totals == {"refcoco": 142_210, "refcoco+": 141_564, "refcocog": 95_010}


def test_split_names():
    assert split_name("refcocog", "umd", "test") == "refcocog_test"
    assert split_name("refcocog", "google", "val") == "refcocog_google_val"
    with pytest.raises(InputError, match="split: expected one of"):
        split_name("refcoco", "unc", "../../etc")
    with pytest.raises(InputError, match=r"partition of refcoco\+: expected one of unc, got 'google'"):
        split_name("refcoco+", "google", "val")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("refcoco", "partition of refcoco"),
        ("refclef:unc", "dataset"),
        ("refcoco:x", "partition of refcoco"),
        ("refcocog:unc", "partition of refcocog"),
    ],
)
def test_unknown_parts_are_named(run, refer_root, tmp_path, part, name):
    done = run("convert", "refer", "--root", refer_root, "--parts", part, "--out", tmp_path)
    assert done.code == 2 and done.err.startswith(f"error: {name}: expected one of")


def test_tfds_json_and_jsonl_agree(run, tmp_path):
    info = {"file_name": "a.jpg", "width": 100, "height": 200}
    ref = {
        "dataset": "refcoco+",
        "dataset_partition": "unc",
        "split": "testB",
        "ref_id": 5,
        "image_id": 9,
        "ann": {"bbox": [10, 20, 30, 40]},
        "sentences": [{"sent": "a dog", "raw": "A dog!", "sent_id": 1}],
    }
    row = {"dataset": "refcoco+", "split_by": "unc", "split": "testB", "ref_id": 5, **info}
    row |= {"bbox_xywh": [10, 20, 30, 40], "sentences": ["a dog"]}
    (tmp_path / "refcoco.json").write_text(json.dumps({"ref": [ref], "coco_anns": {"9": {"info": info, "anns": []}}}))
    (tmp_path / "refs.jsonl").write_text(json.dumps(row) + "\n")
    found = []
    for name in ("refcoco.json", "refs.jsonl"):
        assert run("convert", "tfds", "--files", tmp_path / name, "--out", tmp_path / name[-5:]).code == 0
        found.append((tmp_path / name[-5:] / "eval/refcoco+_testB.jsonl").read_text())
    assert found[0] == found[1]
    assert json.loads(found[0])["bbox"] == [10, 20, 40, 60]


def test_lmms_rows_take_their_size_from_the_image_bytes(run, tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (640, 480)).save(data, "JPEG")
    row = {
        "question_id": "1",
        "image": {"bytes": data.getvalue(), "path": "a.jpg"},
        "answer": ["the cup", "left cup"],
        "bbox": [489.71, 265.92, 150.29, 140.42],
        "file_name": "COCO_train2014_000000581857_16.jpg",
    }
    table = pa.Table.from_pylist([row])
    bbox = table.column("bbox").cast(pa.list_(pa.float32()))  # as the hub stores it
    pq.write_table(table.set_column(3, "bbox", bbox), tmp_path / "testA-00000-of-00001.parquet")
    files = ["--files", tmp_path / "testA-00000-of-00001.parquet"]
    assert run("convert", "lmms", "--dataset", "refcoco", *files, "--out", tmp_path).code == 0
    samples = read_samples(tmp_path / "eval/refcoco_testA.jsonl")
    assert [sample.sent for sample in samples] == ["the cup", "left cup"]
    assert samples[0].image == "coco/train2014/COCO_train2014_000000581857.jpg"
    assert (samples[0].width, samples[0].height) == (640, 480) and samples[0].xyxy_px == CUP_PX


def test_referit_boxes_include_their_last_pixel(run, tmp_path):
    (tmp_path / "referit_bbox.json").write_text('{"38_1": [0, 0, 479, 132]}')
    (tmp_path / "referit_imsize.json").write_text('{"38.jpg": [480, 360]}')
    for split, content in (("train", {"38_1": ["sky "]}), ("val", {}), ("test", {})):
        (tmp_path / f"referit_query_{split}.json").write_text(json.dumps(content))
    assert run("convert", "referit", "--folder", tmp_path, "--out", tmp_path).code == 0
    (sample,) = read_samples(tmp_path / "referit_train.jsonl")
    assert sample == Sample("referit_38_1_0", "saiapr_tc-12/38.jpg", 480, 360, "sky", (0, 0, 480, 133))


def test_rl_parquet_becomes_samples_again(run, tmp_path):
    sample = Sample("x", "a.jpg", 640, 480, "the man amodally speaking", (100.0, 120.0, 320.0, 240.0))
    write_rl_parquet(tmp_path / "train.parquet", [sample], "train", tmp_path)
    assert run("convert", "released", "--files", tmp_path / "train.parquet", "--out", tmp_path).code == 0
    (found,) = read_samples(tmp_path / "train.jsonl")
    assert (found.sent, found.width, found.height) == (sample.sent, 640, 480)
    assert found.image == str(tmp_path / "a.jpg")
    assert found.xyxy_px == pytest.approx(sample.xyxy_px, abs=0.5 * 640 / 1000)


def test_amodal_rl_rows_cannot_become_samples(run, tmp_path):
    sample = Sample("x", "a.jpg", 640, 480, "the man", (0.0, 0.0, 320.0, 240.0), (0.0, 0.0, 100.0, 240.0))
    write_rl_parquet(tmp_path / "train.parquet", [sample], "train", tmp_path)
    done = run("convert", "released", "--files", tmp_path / "train.parquet", "--out", tmp_path)
    assert done.code == 2 and 'row 1: field "prompt"' in done.err


def test_sample_rows_are_read_back_unchanged(tmp_path):
    record = Record("amodal_val", "a", "i.jpg", 10, 10, (0.1, 0.2, 3.3, 4.4), ("x", "ÿ ü"), (1.0, 1.0, 2.0, 2.0))
    write_splits(tmp_path, [record])
    assert read_samples(tmp_path / "eval/amodal_val.jsonl") == list(record.samples())
    assert "modal_bbox" in sample_row(next(record.samples()))


def test_an_error_changes_no_file(tmp_path):
    record = Record("a_val", "a", "i.jpg", 10, 10, (0.0, 0.0, 3.0, 4.0), ("x",))
    write_splits(tmp_path, [record])
    before = (tmp_path / "eval/a_val.jsonl").read_bytes()

    def broken():
        yield Record("a_val", "b", "i.jpg", 10, 10, (0.0, 0.0, 3.0, 4.0), ("y",))
        yield Record("b_val", "b", "i.jpg", 10, 10, (0.0, 0.0, 3.0, 4.0), ("y",))
        raise InputError("later")

    with pytest.raises(InputError, match="later"):
        write_splits(tmp_path, broken())
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["a_val.jsonl"]
    assert (tmp_path / "eval/a_val.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("xywh_px", "xyxy_px"),
    [
        ((0, 0, 640, 480), (0, 0, 640, 480)),
        ((-0.4, 0, 10, 10), (0, 0, 9.6, 10)),
        ((600, 0, 40.9, 10), (600, 0, 640, 10)),
    ],
)
def test_coco_boxes_are_clipped_by_a_pixel_at_most(tmp_path, xywh_px, xyxy_px):
    assert coco_box_px(tmp_path, 1, "bbox", xywh_px, 640, 480) == xyxy_px
    with pytest.raises(InputError, match="inside the 640x480 image"):
        coco_box_px(tmp_path, 1, "bbox", (600, 0, 41.5, 10), 640, 480)


class Touch:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path, protocol):
    trace = tmp_path / "ran"
    (tmp_path / "refs.p").write_bytes(pickle.dumps([Touch(trace)], protocol=protocol))
    with pytest.raises(InputError, match=r"refs\.p: expected a pickle of plain data .*it would import"):
        load_pickle(tmp_path / "refs.p")
    assert not trace.exists()
    assert pickle.loads((tmp_path / "refs.p").read_bytes())[0].close() is None and trace.exists()  # it would run


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"\x80\x02]q\x00(",
        b"cos\nsystem\n(S'true'\ntR.",
        b"(i__builtin__\neval\n.",
        b"\x80\x02\x82\x01.",
        b"P7\n.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02" + b"(" * 10 + b"R.",
    ],
)
def test_broken_pickles_are_named(tmp_path, payload):
    (tmp_path / "refs.p").write_bytes(payload)
    with pytest.raises(InputError, match=r"refs\.p: expected a pickle of plain data"):
        load_pickle(tmp_path / "refs.p")


def test_pickles_of_python_2_are_read(tmp_path):
    (tmp_path / "refs.p").write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xe9'\np3\nsa.")
    assert load_pickle(tmp_path / "refs.p") == [{"sent": "café"}]


def test_skip_bad_leaves_out_and_counts_bad_references(run, refer_root, tmp_path):
    refs = pickle.loads((refer_root / "refcoco" / "refs(unc).p").read_bytes())
    refs[1]["ann_id"] = 99
    (refer_root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs))
    command = ["convert", "refer", "--root", refer_root, "--parts", "refcoco:unc", "--out", tmp_path / "out"]
    stopped = run(*command)
    assert stopped.code == 2 and 'row 2: field "ann_id"' in stopped.err
    done = run(*command, "--skip-bad")
    assert done.code == 0, done.err
    assert "left out 1: bad records (--skip-bad)" in done.out
    assert 'row 2: field "ann_id": expected the id of an annotation' in done.out  # the first bad record is printed
    assert (tmp_path / "out" / "train.jsonl").parent.is_dir() and "refcoco_train" in done.out
