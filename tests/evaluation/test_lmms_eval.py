"""Our splits as tasks of lmms-eval, and what it logs as answers of ours."""

import json
from pathlib import Path

import pytest
import yaml

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.predictions import read_predictions
from qwen3vl_rl.data.samples import Sample, read_samples, sample_row
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import lmms_task
from qwen3vl_rl.evaluation.lmms_eval import METRIC, Asked, read_samples_file, write_tasks
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.grounding import target_text

TRUTH = (16.0, 16.0, 80.0, 64.0)  # of 160 x 128 px


@pytest.fixture
def data(world, tmp_path) -> tuple[Path, Path]:
    """A split of one object with two sentences and one with none; and the folder of images."""
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


def test_samples_of_lmms_evals_own_tasks_find_their_questions(data, tmp_path):
    grounding = {
        "answer": ["the star", " left star"],
        "pred_boxes": [],
        "pred": [0] * 4,
        "bbox": [*TRUTH],
        "ann_id": "7",
    }
    row = {"doc_id": 0, "target": "…", "filtered_resps": [ANSWER], "input": "Locate"}
    path = logged(tmp_path / "g.jsonl", row | {f"refcoco_grounding_{m}": grounding for m in ("IoU", "ACC@0.5")})
    (found,) = read_samples_file(path, asked(data), "strict")
    assert (found.key, found.iou, found.sent) == ("refcoco_testA/000001", 1.0, 'the star", "left star')

    share = [0.1, 0.125, 0.5, 0.5]
    rec = [{"answer": sent, "pred": [0] * 4, "ann_id": "7", "bbox": share} for sent in ("left star", "the star")]
    rows = [row | {"filtered_resps": ANSWER, "refcoco_IoU": found} for found in rec]
    keys = [one.key for one in read_samples_file(logged(tmp_path / "r.jsonl", *rows), asked(data), "strict")]
    assert keys == ["refcoco_testA/000002", "refcoco_testA/000001"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"refcoco_IoU": {"answer": "no such", "bbox": [0, 0, 1, 1]}, "filtered_resps": "x"}, 'row 1: field "answer"'),
        ({"refcoco_IoU": {"key": "b/1"}, "filtered_resps": "x"}, 'row 1: field "answer".*b/1'),
        ({"bleu": 0.5, "filtered_resps": "x"}, f'row 1: field "{METRIC}": expected a metric'),
        ({"refcoco_IoU": {"key": "refcoco_testA/000001"}}, 'row 1: field "filtered_resps"'),
    ],
)
def test_samples_that_are_none_of_ours_are_named(data, tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        list(read_samples_file(logged(tmp_path / "s.jsonl", row), asked(data), "strict"))


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
    assert lmms_task.accuracy(results) == pytest.approx(2 / 3)
    rows = [{"doc_id": k, "filtered_resps": ANSWER, METRIC: found} for k, found in enumerate(results)]
    found = list(read_samples_file(logged(tmp_path / "o.jsonl", *rows), asked(data), "strict"))
    assert [one.key for one in found] == [f"refcoco_testA/{k:06d}" for k in (1, 2, 3)]


def test_a_failed_request_is_no_answer(data, tmp_path):
    row = {
        "filtered_resps": "[LMMS_EVAL_REQUEST_FAILED after 5 retries] 1 2 3 4",
        METRIC: {"key": "refcoco_testA/000001"},
    }
    (found,) = read_samples_file(logged(tmp_path / "f.jsonl", row), asked(data), "released_eval")
    assert found.error.startswith("[LMMS_EVAL") and found.pred_xyxy_px is None


def test_the_command_writes_predictions(data, tmp_path, monkeypatch):
    from qwen3vl_rl.evaluation import lmms_eval

    file, images = data
    path = logged(tmp_path / "o.jsonl", {"filtered_resps": ANSWER, METRIC: {"key": "refcoco_testA/000001"}})
    common = ["--data", str(file), "--images", str(images), "--out", str(tmp_path / "predictions.jsonl")]
    monkeypatch.setattr("sys.argv", ["lmms_eval", "read", str(path), *common])
    lmms_eval.main()
    assert [row.iou for row in read_predictions(tmp_path / "predictions.jsonl")] == [1.0]
