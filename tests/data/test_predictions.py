"""The predictions file survives a kill at any moment, and its errors name row and field."""

import json

import pytest

from qwen3vl_rl.data.predictions import Question, append, read_predictions, resume, score, unanswered, vote
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import iou


def _write(path, predictions):
    with path.open("a", encoding="utf-8") as file:
        for prediction in predictions:
            append(file, prediction)


def test_rows_come_back_as_written_and_sorted_by_key(tmp_path, make_prediction):
    rows = [make_prediction(2, True), make_prediction(0, False), make_prediction(1, True, modal=(100, 100, 200, 300))]
    _write(tmp_path / "p.jsonl", rows)
    assert read_predictions(tmp_path / "p.jsonl") == sorted(rows, key=lambda row: row.key)


@pytest.mark.slow
def test_a_file_cut_at_any_byte_resumes_to_every_sample_exactly_once(tmp_path, make_prediction):
    rows = [make_prediction(number, number % 2 == 0) for number in range(3)]
    questions = [
        Question(r.key, r.split, Sample(r.key, r.image, r.width, r.height, r.sent, r.xyxy_px, None)) for r in rows
    ]
    path = tmp_path / "p.jsonl"
    _write(path, rows)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        done = resume(path)
        assert len(done) == whole[:cut].count(b"\n")
        kept = path.read_bytes()
        assert whole.startswith(kept) and kept.count(b"\n") == len(done)
        todo = {question.key for question in unanswered(questions, done)}
        _write(path, [row for row in rows if row.key in todo])
        assert path.read_bytes() == whole


def test_a_missing_file_has_no_predictions(tmp_path):
    assert resume(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [lines[0], lines[1][:30], lines[2]], "row 2"),
        (lambda lines: [*lines, lines[0]], 'row 4: field "key": expected each key only once'),
        (lambda lines: [lines[0].replace('"iou"', '"iuo"')], 'row 1: field "iou"'),
        (
            lambda lines: [json.dumps(json.loads(lines[0]) | {"key": 7})],
            'row 1: field "key": expected SPLIT/ROW, got 7',
        ),
        (lambda lines: [json.dumps(json.loads(lines[0]) | {"iou": "x"})], 'row 1: field "iou": expected a number'),
    ],
    ids=["broken row in the middle", "repeated row", "wrong field", "key of a number", "text for a number"],
)
def test_a_damaged_file_is_named_with_its_row(tmp_path, make_prediction, damage, message):
    path = tmp_path / "p.jsonl"
    _write(path, [make_prediction(number, True) for number in range(3)])
    damaged = "\n".join(damage(path.read_text().splitlines())) + "\n"
    path.write_text(damaged)
    with pytest.raises(InputError, match=r"p\.jsonl") as error:
        resume(path)
    assert message in str(error.value)
    assert path.read_text() == damaged


def test_score_compares_with_the_whole_and_the_visible_box():
    sample = Sample("a", "a.png", 1000, 1000, "the star", (0.0, 0.0, 400.0, 400.0), (0.0, 0.0, 400.0, 200.0))
    prediction = score(Question("s/1", "s", sample), "</think>\n[0, 0, 400, 200]", parser="strict")
    assert prediction.pred_xyxy_px == (0, 0, 400, 200)
    assert (prediction.iou, prediction.modal_iou) == (0.5, 1.0)


def test_an_answer_without_a_box_scores_zero(make_prediction):
    row = make_prediction(0, True)
    sample = Sample("a", "a.png", row.width, row.height, row.sent, row.xyxy_px, row.xyxy_px)
    prediction = score(Question("s/1", "s", sample), "no idea", parser="strict")
    assert (prediction.pred_xyxy_px, prediction.iou, prediction.modal_iou) == (None, 0.0, 0.0)


def test_an_expression_without_referent_has_no_iou():
    sample = Sample("a", "a.png", 1000, 1000, "the star", None)
    prediction = score(Question("s/1", "s", sample), "</think>\n[0, 0, 400, 200]", parser="strict")
    assert (prediction.pred_xyxy_px, prediction.iou, prediction.modal_iou) == ((0, 0, 400, 200), None, None)


def test_vote_selects_the_medoid():
    answers = ["[0, 0, 100, 100]", "[600, 600, 900, 900]", "no idea", "[620, 600, 900, 900]", "[640, 600, 900, 900]"]
    assert vote(answers, "strict") == 3
    assert vote(["no idea", "none"], "strict") == 0
    assert vote(["no idea", "[0, 0, 9, 9]"], "strict") == 1


# In the release's code, `scale` clamps to 0..1000 first; `keep` compares the numbers unchanged; `inverse` rounds them
# to px of the image, then to 0..1000, and widens an axis whose ends become equal.
@pytest.mark.parametrize(
    ("coordinates", "answer", "pred_xyxy_px"),
    [
        ("relative_1000", "[500, 500, 1200, 700]", (1000, 500, 1999, 700)),
        ("px", "[500, 500, 1200.5, 700]", (500, 500, 1200.5, 700)),
        ("px", "[1e400, 500, 1200, 700]", None),
        ("px", "none", None),
        ("px_rounded_1000", "[1200.4, 700, 500, 500]", (500, 500, 1200, 700)),
        ("px_rounded_1000", "[501, -20, 1201, 700]", (500, 0, 1200, 700)),  # 250.5 and 600.5 are rounded to even
        ("px_rounded_1000", "[5000, 500, 5000, 700]", (2000, 500, 2000, 700)),  # 1000 cannot be widened
        ("px_rounded_1000", "[600, 500, 600, 700]", (600, 500, 602, 700)),
    ],
)
def test_answers_in_px_are_read_as_the_release_does(coordinates, answer, pred_xyxy_px):
    sample = Sample("a", "a.png", 2000, 1000, "a cup", (500.0, 500.0, 1200.0, 700.0))
    row = score(Question("s/000001", "s", sample), answer, parser="released_eval", coordinates=coordinates)
    assert row.pred_xyxy_px == pred_xyxy_px
    assert row.iou == (iou(pred_xyxy_px, sample.xyxy_px) if pred_xyxy_px else 0)


def test_votes_in_px_are_not_clamped_to_1000():
    texts = ["[1100, 0, 1500, 100]", "[1600, 0, 2000, 100]", "[1590, 0, 2000, 100]"]
    assert vote(texts, "released_eval", "px") == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", None),
        ("width", None),
        ("height", 0),
        ("xyxy_px", [1, 2, 3]),
        ("pred_xyxy_px", "none"),
        ("iou", None),
        ("split", None),
        ("image", 7),
        ("finish_reason", 1),
    ],
)
def test_wrong_field_types_are_named(tmp_path, make_prediction, field, value):
    _write(tmp_path / "p.jsonl", [make_prediction(0, True)])
    row = json.loads((tmp_path / "p.jsonl").read_text())
    (tmp_path / "p.jsonl").write_text(json.dumps(row | {field: value}) + "\n")
    with pytest.raises(InputError, match=f'row 1: field "{field}": expected'):
        read_predictions(tmp_path / "p.jsonl")
