import json
from dataclasses import replace
from hashlib import sha256

from qwen3vl_rl.evaluation.reporting.released_outputs import write_released_outputs


def test_the_files_have_the_released_form(make_prediction, tmp_path):
    rows = [replace(make_prediction(k, correct=k != 1), latency_s=1.4, tokens=50) for k in range(3)]
    absent = replace(make_prediction(3, correct=True), iou=None, xyxy_px=None)
    write_released_outputs(tmp_path, [*reversed(rows), absent], wall_s=2.5)
    folder = tmp_path / "toy_val"
    detail = json.loads((folder / "iou_detail.json").read_text())
    assert list(detail) == ["0", "1", "2"]
    assert detail["0"] == {"v": rows[0].iou, "hash": sha256(rows[0].sent.encode()).hexdigest()}
    mean = sum(row.iou for row in rows) / 3
    assert (folder / "iou.txt").read_text() == f"# IOU scores (N=3)\nmean_iou: {mean:.6f}\npass_rate@0.5: 0.666667\n"
    times = "total_time_sec: 4.000\ntotal_tokens: 150\ncase_number: 3\nwhole_time_sec: 2.500\n"
    assert (folder / "latency.txt").read_text() == times
