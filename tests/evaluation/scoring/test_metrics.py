"""Metrics: definitions on cases small enough to count by hand, and intervals against theory."""

import json
import random
from dataclasses import replace

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.scoring.metrics import (
    AVERAGE,
    average_splits,
    compare,
    mcnemar_p,
    summarize,
    summarize_latency,
)


def _run(make_prediction, outcomes, **options):
    return [make_prediction(number, correct, **options) for number, correct in enumerate(outcomes)]


def test_summary_is_identical_for_rows_in_any_order(make_prediction):
    rng = random.Random(0)
    rows = _run(make_prediction, [rng.random() < 0.4 for _ in range(60)])
    rows = [replace(row, iou=rng.random(), image=f"{rng.randrange(20)}.png") for row in rows]
    first = json.dumps(summarize(rows))
    for _ in range(5):
        rng.shuffle(rows)
        assert json.dumps(summarize(rows)) == first


def test_an_iou_of_exactly_one_half_is_wrong(make_prediction):
    rows = _run(make_prediction, [True, True])
    summary = summarize([replace(rows[0], iou=0.5), replace(rows[1], iou=0.5000001)])
    assert summary["splits"]["toy_val"]["acc"] == 0.5
    assert summary["criterion"] == "IoU > 0.5"


def test_the_average_weighs_splits_equally_and_excludes_amodal_ones(make_prediction):
    rows = [
        *_run(make_prediction, [True] * 9, split="toy_testA"),
        make_prediction(0, False, split="toy_val"),
        make_prediction(0, False, split="toy_amodal_val", modal=(100.0, 100.0, 300.0, 250.0)),
    ]
    average = summarize(rows)["average"]
    assert average["of"] == ["toy_val", "toy_testA"]
    assert average["acc"] == 0.5
    assert average["mean_iou"] == 0.5
    assert summarize(rows[-1:])["average"]["of"] == ["toy_amodal_val"]


def test_a_split_with_one_amodal_sample_is_amodal_in_any_order(make_prediction):
    mixed = [make_prediction(number, True, modal=(0.0, 0.0, 9.0, 9.0) if number == 1 else None) for number in range(3)]
    plain = [make_prediction(number, True, split="toy_testA") for number in range(2)]
    for rows in ([*mixed, *plain], [*plain, *mixed[::-1]]):
        assert average_splits(rows) == ["toy_testA"]


def test_amodal_splits_also_score_the_visible_part(make_prediction):
    visible = (100.0, 100.0, 300.0, 190.0)  # IoU 0.45 with the whole object, which the prediction matches
    split = summarize([make_prediction(0, True, modal=visible)])["splits"]["toy_val"]
    assert (split["acc"], split["visible_acc"]) == (1.0, 0.0)
    assert split["visible_mean_iou"] == pytest.approx(0.45)


def test_invalid_truncated_and_failed_answers_are_counted(make_prediction):
    rows = _run(make_prediction, [True] * 4)
    rows[1] = replace(rows[1], pred_xyxy_px=None, iou=0.0, finish_reason="length")
    rows[2] = replace(rows[2], pred_xyxy_px=None, iou=0.0, finish_reason=None, error="HTTP 500", tokens=0)
    split = summarize(rows)["splits"]["toy_val"]
    counted = (split["acc"], split["invalid_rate"], split["truncated_rate"], split["failed_requests"])
    assert counted == (0.5, 0.5, 0.25, 1)
    assert split["mean_tokens"] == pytest.approx(sum(row.tokens for row in rows) / 3)
    assert "toy_val" in summarize_latency(rows, ["toy_val"]) and summarize_latency([rows[2]], ["toy_val"]) == {}


def test_latency_leaves_failed_requests_out(make_prediction):
    rows = _run(make_prediction, [True] * 3)
    rows = [replace(rows[0], latency_s=1), replace(rows[1], latency_s=2), replace(rows[2], error="HTTP 500")]
    latency = summarize_latency(rows, ["toy_val"])["toy_val"]
    assert latency == {"mean_s": 1.5, "p50_s": 1.5, "p95_s": pytest.approx(1.95)}


def test_the_interval_of_independent_samples_is_the_binomial_one(make_prediction):
    rows = _run(make_prediction, [number % 2 == 0 for number in range(400)])
    low, high = summarize(rows)["splits"]["toy_val"]["acc_interval"]
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 400) ** 0.5, rel=0.1)
    assert low < 0.5 < high


def test_samples_of_one_image_widen_the_interval_as_one_observation(make_prediction):
    """40 images with 10 equal outcomes each give the interval of 40 samples."""
    rows = [make_prediction(i, (i // 10) % 2 == 0, image=f"{i // 10}.png") for i in range(400)]
    low, high = summarize(rows)["splits"]["toy_val"]["acc_interval"]
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 40) ** 0.5, rel=0.1)


def test_one_image_gives_no_interval(make_prediction):
    rows = _run(make_prediction, [True, False], image="same.png")
    assert summarize(rows)["splits"]["toy_val"]["acc_interval"] is None


def test_paired_difference_is_the_difference_and_narrower_than_unpaired_ones(make_prediction):
    rng = random.Random(1)
    before = [rng.random() < 0.5 for _ in range(300)]
    after = [correct or rng.random() < 0.2 for correct in before]
    a, b = _run(make_prediction, before), _run(make_prediction, after)
    difference = compare(a, b)[AVERAGE].difference
    first, second = summarize(a)["average"], summarize(b)["average"]
    assert difference.value == pytest.approx(second["acc"] - first["acc"])
    assert 0 < difference.interval[0] < difference.value < difference.interval[1]
    width = difference.interval[1] - difference.interval[0]
    assert width < first["acc_interval"][1] - first["acc_interval"][0]
    turned = compare(b, a)[AVERAGE].difference
    assert (turned.value, turned.interval) == (
        -difference.value,
        pytest.approx([-v for v in difference.interval[::-1]]),
    )


def test_a_run_does_not_differ_from_itself(make_prediction):
    rows = _run(make_prediction, [True, False, True])
    assert compare(rows, rows)[AVERAGE].difference.interval == (0.0, 0.0)


def test_runs_over_other_samples_are_not_compared(make_prediction):
    rows = _run(make_prediction, [True, False, True])
    for others in (rows[:2], [replace(rows[0], sent="another"), *rows[1:]]):
        with pytest.raises(InputError, match="same samples"):
            compare(rows, others)


def test_no_predictions_are_an_error():
    with pytest.raises(InputError, match="at least one prediction"):
        summarize([])


def test_a_comparison_counts_gains_and_losses(make_prediction):
    before = _run(make_prediction, [True, True, False, False, False, True])
    after = _run(make_prediction, [True, False, True, True, True, True])
    comparison = compare(before, after)[AVERAGE]
    assert (comparison.gained, comparison.lost) == (3, 1)
    assert comparison.p == mcnemar_p(3, 1) == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (8, 2, 0.109375), (2, 8, 0.109375), (10, 0, 2 / 1024)]
)
def test_mcnemar_is_the_exact_binomial_test(gained, lost, p):
    assert mcnemar_p(gained, lost) == pytest.approx(p, rel=1e-12)


@pytest.mark.slow
def test_mcnemar_holds_for_thousands_of_changes():
    assert 0 < mcnemar_p(3100, 2900) < 0.02 and mcnemar_p(6000, 0) == 0.0


def test_other_thresholds_and_the_inclusive_one(make_prediction):
    rows = [
        replace(row, iou=iou)
        for row, iou in zip(_run(make_prediction, [True] * 5), (0.3, 0.5, 0.7, 0.9, 1), strict=True)
    ]
    split = summarize(rows)["splits"]["toy_val"]
    shares = {name: split[name] for name in ("acc_30", "acc", "acc_inclusive", "acc_70", "acc_90")}
    assert shares == {"acc_30": 0.8, "acc": 0.6, "acc_inclusive": 0.8, "acc_70": 0.4, "acc_90": 0.2}


def test_expressions_without_referent_are_counted_separately(make_prediction):
    rows = _run(make_prediction, [True, True, False, False])
    absent = [replace(row, xyxy_px=None, iou=None) for row in rows[1:]]
    absent[0] = replace(absent[0], pred_xyxy_px=None)  # declined
    absent[1] = replace(absent[1], pred_xyxy_px=None, error="HTTP 500")  # a failed request does not decline
    split = summarize([rows[0], *absent])["splits"]["toy_val"]
    assert (split["samples"], split["acc"], split["failed_requests"]) == (1, 1.0, 1)
    third = pytest.approx(1 / 3)
    assert split["no_referent"] == {"samples": 3, "declined_rate": third, "false_box_rate": third}
    with pytest.raises(InputError, match="toy_val: expected at least one sample with a box"):
        summarize(absent)


def test_amodal_splits_are_scored_by_how_much_is_hidden(make_prediction):
    half, all_of_it = (100.0, 100.0, 300.0, 200.0), (100.0, 100.0, 300.0, 300.0)
    rows = [make_prediction(0, True, modal=half), make_prediction(1, False, modal=all_of_it)]
    bands = summarize(rows)["splits"]["toy_val"]["occlusion"]
    assert {band: (numbers["samples"], numbers["acc"]) for band, numbers in bands.items()} == {
        "up to 10 % hidden": (1, 0.0),
        "above 40 %": (1, 1.0),
    }


def test_groups_hold_each_sample_under_its_kinds(make_prediction):
    rows = [
        replace(row, sent=sent)
        for row, sent in zip(
            _run(make_prediction, [True, False, True]), ("red cup", "left red cup", "cup"), strict=True
        )
    ]
    expression = summarize(rows)["groups"]["expression"]
    assert {group: (numbers["samples"], numbers["acc"]) for group, numbers in expression.items()} == {
        "attribute": (2, 0.5),
        "location": (1, 0.0),
        "plain": (1, 1.0),
    }
