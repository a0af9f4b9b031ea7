"""Our splits become tasks of lmms-eval, and the samples that it logs become our predictions."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.predictions import Prediction, read_predictions
from qwen3vl_rl.data.samples import Sample, read_samples, sample_row
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import lmms_task
from qwen3vl_rl.evaluation.lmms_eval import METRIC, Asked, read_samples_file, split_of, write_tasks
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.grounding import target_text

TRUTH = (16.0, 16.0, 80.0, 64.0)  # of 160 x 128 px


@pytest.fixture
def data(world, tmp_path) -> tuple[Path, Path]:
    """A split with one object that has two sentences and one expression without a referent; the folder of images."""
    image = read_samples(world / "eval" / "refshapes_val.jsonl")[0].image
    samples = [
        Sample("a", image, 160, 128, "the star", TRUTH),
        Sample("b", image, 160, 128, "left star", TRUTH),
        Sample("c", image, 160, 128, "the dog", None),
    ]
    write_jsonl(tmp_path / "refcoco_testA.jsonl", map(sample_row, samples))
    return tmp_path / "refcoco_testA.jsonl", world / "images"


def asked(data: tuple[Path, Path]) -> Asked:
    file, images = data
    return Asked(read_questions([file], images), read_questions([file], images, joined=True))


def logged(path: Path, *rows: dict) -> Path:
    write_jsonl(path, rows)
    return path


ANSWER = target_text("", (100, 125, 500, 500), "the star")


def read(path: Path, data: tuple[Path, Path], parser: str = "strict") -> tuple[list[Prediction], Counter]:
    unknown: Counter[str] = Counter()
    return list(read_samples_file(path, asked(data), parser, unknown)), unknown


def test_samples_of_lmms_evals_own_tasks_find_their_questions(data, tmp_path):
    sents, passed = ["the star", " left star"], [TRUTH[0] - 0.4, *TRUTH[1:]]  # our converter clips boxes at the edges
    grounding = {"answer": sents, "pred_boxes": [], "pred": [0] * 4, "bbox": passed, "ann_id": "7"}
    row = {"doc_id": 0, "target": "…", "filtered_resps": [ANSWER], "input": "Locate"}
    metrics = {f"refcoco_grounding_{name}": grounding for name in ("IoU", "ACC@0.5")}
    (found,), _ = read(logged(tmp_path / "1_samples_refcoco_grounding_testA.jsonl", row | metrics), data)
    assert (found.key, found.iou, found.sent) == ("refcoco_testA/000001", 1.0, 'the star", "left star')

    share = [0.1000004, 0.125, 0.5, 0.5]  # float32
    rec = [{"answer": sent, "pred": [0] * 4, "ann_id": "7", "bbox": share} for sent in ("left star", "the star", "it")]
    rows = [row | {"filtered_resps": ANSWER, "refcoco_IoU": found} for found in rec]
    path = logged(tmp_path / "1_samples_refcoco_bbox_rec_testA.jsonl", *rows)
    predictions, unknown = read(path, data)
    assert [one.key for one in predictions] == ["refcoco_testA/000002", "refcoco_testA/000001"]
    assert unknown == {path.name: 1}


@pytest.mark.parametrize(
    ("task", "split"),
    [
        ("refcoco_plus_grounding_testB", "refcoco+_testB"),
        ("refcoco+_bbox_rec_val", "refcoco+_val"),
        ("refcocog_grounding_test", "refcocog_test"),
        ("refcocog_bbox_rec_val", "refcocog_val"),
        ("refcoco_bbox_testA", None),  # a captioning task
    ],
)
def test_the_name_of_a_file_gives_its_split(task, split):
    assert split_of(Path(f"20261130_090247_samples_{task}.jsonl")) == split


def test_answers_of_another_split_are_not_ours(data, tmp_path):
    found = {"answer": "the star", "bbox": [0.1, 0.125, 0.5, 0.5]}
    path = logged(tmp_path / "1_samples_refcoco+_bbox_rec_testA.jsonl", {"refcoco_IoU": found, "filtered_resps": "x"})
    assert read(path, data) == ([], {path.name: 1})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"bleu": 0.5, "filtered_resps": "x"}, f'row 1: field "{METRIC}": expected a metric'),
        ({"refcoco_IoU": {"key": "refcoco_testA/000001"}}, 'row 1: field "filtered_resps"'),
        ({"refcoco_IoU": {"answer": 5, "bbox": "x"}, "filtered_resps": "x"}, 'row 1: field "bbox"'),
    ],
)
def test_bad_samples_are_named(data, tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        read(logged(tmp_path / "1_samples_refcoco_bbox_rec_testA.jsonl", row), data)


def test_a_file_of_an_unknown_task_is_refused(data, tmp_path):
    row = {"refcoco_IoU": {"answer": "x", "bbox": [0, 0, 1, 1]}, "filtered_resps": "x"}
    with pytest.raises(InputError, match=r'row 1: field "answer": expected a file of refcoco'):
        read(logged(tmp_path / "s.jsonl", row), data)


def test_our_tasks_ask_score_and_log_as_our_evaluation(data, tmp_path):
    file, images = data
    assert write_tasks(read_questions([file], images), images, tmp_path / "tasks") == ["egm_refcoco_testA"]
    yaml.SafeLoader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = yaml.safe_load((tmp_path / "tasks" / "egm_refcoco_testA.yaml").read_text())
    assert task["metric_list"][0]["aggregation"] == "qwen3vl_rl.evaluation.lmms_task.accuracy"
    docs = [json.loads(line) for line in (tmp_path / "tasks" / task["dataset_kwargs"]["data_files"]["test"]).open()]
    assert lmms_task.doc_to_text(docs[0]) == "Locate the star, output its bbox coordinates using JSON format"
    assert lmms_task.doc_to_visual(docs[0])[0].size == (160, 128)
    results = [lmms_task.process_results(docs[k], [text])[METRIC] for k, text in ((0, ANSWER), (1, "none"), (2, "[]"))]
    assert lmms_task.accuracy(results) == 0.5  # without the row that has no referent
    rows = [{"doc_id": k, "filtered_resps": ANSWER, METRIC: found} for k, found in enumerate(results)]
    found, _ = read(logged(tmp_path / "o.jsonl", *rows), data)
    assert [one.key for one in found] == [f"refcoco_testA/{k:06d}" for k in (1, 2, 3)]


def test_a_failed_request_is_no_answer(data, tmp_path):
    row = {
        "filtered_resps": "[LMMS_EVAL_REQUEST_FAILED after 5 retries] 1 2 3 4",
        METRIC: {"key": "refcoco_testA/000001"},
    }
    (found,), _ = read(logged(tmp_path / "f.jsonl", row), data, "released_eval")
    assert found.error.startswith("[LMMS_EVAL") and found.pred_xyxy_px is None


def test_the_command_writes_predictions(data, tmp_path, monkeypatch):
    from qwen3vl_rl.evaluation import lmms_eval

    file, images = data
    path = logged(tmp_path / "o.jsonl", {"filtered_resps": ANSWER, METRIC: {"key": "refcoco_testA/000001"}})
    common = ["--data", str(file), "--images", str(images), "--out", str(tmp_path / "predictions.jsonl")]
    monkeypatch.setattr("sys.argv", ["lmms_eval", "read", str(path), *common])
    lmms_eval.main()
    assert [row.iou for row in read_predictions(tmp_path / "predictions.jsonl")] == [1.0]
