"""Rows that `check` accepts are accepted by every later step: writers, preflight, reward and evaluation."""

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from qwen3vl_rl.data.expressions import ALL_MARKS
from qwen3vl_rl.data.parquet import write_rows
from qwen3vl_rl.data.predictions import Question, append, read_predictions, score
from qwen3vl_rl.data.rl_rows import SPLITS, check_size_and_truth, write_rl_parquet
from qwen3vl_rl.data.samples import iter_released_samples, read_samples
from qwen3vl_rl.data.tools.check import Expectations, check_file
from qwen3vl_rl.data.tools.flip import flip_sample
from qwen3vl_rl.data.tools.mirror import CannotMirrorError
from qwen3vl_rl.data.turns import check_turns
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import PROMPTS, TURNS, px_to_1000, render_prompt, target_text
from qwen3vl_rl.reward import compute_score
from qwen3vl_rl.training.preflight.rows import check_file as check_columns
from sft.build_dataset import SFT_SCHEMA, sft_row

pytestmark = pytest.mark.slow

ANYTHING = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 3000), st.floats(), st.text(max_size=3), st.just([]), st.just({})),
    st.lists(st.one_of(st.integers(-20, 1200), st.floats(-1, 1200), st.none(), st.floats()), max_size=6),
)
PARTS = st.sampled_from(
    [*ALL_MARKS, *"\"'\\\n\t{}[]<>.", "</ref>", " amodally", ", output", "\u200b", "\u2028", "\ud83d"]
)
SENTENCES = st.one_of(
    *[st.just("the cup")] * 3, st.lists(st.one_of(PARTS, st.text(max_size=5)), max_size=4).map("".join)
)
SIDES = st.one_of(st.integers(1, 3000), st.integers(199, 201))
REWARD = {"reward_type": "mix", "alpha": 0.5, "threshold": 0.5}


def boxes(width: int, height: int) -> st.SearchStrategy[list[float]]:
    """xyxy boxes, mostly inside an image of this size; the thinnest lose their area in 0..1000."""

    def span(side: int) -> st.SearchStrategy[list[float]]:
        ends = st.one_of(st.integers(-1, side + 1), st.floats(0, side), st.floats(-0.02, side + 0.02))
        return st.lists(ends, min_size=2, max_size=2, unique=True).map(sorted)

    inside = st.tuples(span(width), span(height)).map(lambda spans: [*map(list, zip(*spans, strict=True))])
    ordered = inside.map(lambda corners: corners[0] + corners[1])
    return st.one_of(ordered, ordered, ordered, st.lists(st.floats(-1, 3000), min_size=4, max_size=4))


@st.composite
def rows(draw) -> dict:
    """An evaluation row or a row in the raw format, with an arbitrary value in at most one field."""
    width, height, sent = draw(SIDES), draw(SIDES), draw(SENTENCES)
    row = {"id": "1", "image": "coco/a.png", "width": width, "height": height, "sent": sent}
    if draw(st.booleans()):
        row["bbox"] = draw(boxes(width, height))
    else:
        human = draw(st.one_of(st.just(f"<image>\n<ref>{sent}</ref>"), SENTENCES, prompts(sent)))
        gpt = f"<box>{json.dumps(draw(boxes(1000, 1000))).replace(' ', '')}</box>"
        row["conversations"] = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
        if draw(st.booleans()):
            del row["sent"]
    if draw(st.booleans()):
        row["modal_bbox"] = draw(boxes(width, height))
    if draw(st.integers(0, 3)) == 0:
        row[draw(st.sampled_from(sorted(row)))] = draw(ANYTHING)
    return row


def prompts(sent: str) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(PROMPTS)).map(lambda name: "<image>" + render_prompt(name, sent))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rows")


def passes(path: Path) -> bool:
    try:
        return check_file(path, Expectations(None, None, set()), 1).problems == 0
    except InputError:
        return False


def write(path: Path, row: dict) -> None:
    path.write_bytes((json.dumps(row) + "\n").encode())


@settings(max_examples=300)
@given(rows(), st.sampled_from(sorted(TURNS)), st.sampled_from(SPLITS))
def test_checked_samples_pass_both_stages_and_the_evaluation(folder, row, turn, split):
    path, rl, sft = (folder / name for name in ("rows.jsonl", "rl.parquet", "sft.parquet"))
    write(path, row)
    if not passes(path):
        event("refused")
        return
    event("passed")
    (sample,) = iter_released_samples(path)
    if sample.xyxy_px is None:
        return  # used only by the evaluation
    assert read_samples(path) == [sample]
    box_1000 = px_to_1000(sample.xyxy_px, sample.width, sample.height)

    write_rl_parquet(rl, [sample], split, folder, turn)
    assert passes(rl)
    check_size_and_truth(rl)
    check_turns(rl, "prompt")
    (rl_row,) = pq.read_table(rl).to_pylist()
    answer = target_text("It is there.", box_1000, sample.sent)
    truth, info = rl_row["reward_model"]["ground_truth"], rl_row["extra_info"]
    assert compute_score("grounding", answer, truth, info, **REWARD)["iou"] == pytest.approx(1, abs=0.02)

    write_rows(sft, [sft_row(sample, "It is there.", folder, turn)], SFT_SCHEMA)
    assert passes(sft)
    check_turns(sft, "messages")

    predictions = folder / "predictions.jsonl"
    with predictions.open("w", encoding="utf-8") as file:
        append(file, score(Question("s/000001", "s", sample), answer, parser="strict"))
    assert passes(predictions) and len(read_predictions(predictions)) == 1

    if sample.image.startswith("/"):
        return  # absolute paths cannot be mirrored
    with suppress(CannotMirrorError):
        flipped = flip_sample(path, 1, sample)
        write_rl_parquet(rl, [flipped], split, folder, turn)
        assert passes(rl)


@st.composite
def rl_rows(draw) -> dict:
    """A row of the RL schema, with an arbitrary value in at most one field."""
    prompt = draw(st.one_of(*[prompts(draw(SENTENCES))] * 4, SENTENCES))
    truth = draw(boxes(1000, 1000))
    row = {
        "data_source": "grounding",
        "prompt": [{"role": "user", "content": prompt}],
        "images": ["a.png"],
        "ability": "grounding",
        "reward_model": {"style": "rule", "ground_truth": list(map(float, truth))},
        "extra_info": {"split": "train", "index": 0, "id": "1", "height": draw(SIDES), "width": draw(SIDES)},
    }
    place = draw(st.sampled_from([None, None, None, row, row["prompt"][0], row["reward_model"], row["extra_info"]]))
    if place is not None:
        place[draw(st.sampled_from(sorted(place)))] = draw(ANYTHING)
    return row


@settings(max_examples=300)
@given(rl_rows())
def test_checked_rl_rows_pass_preflight_and_reward(folder, row):
    path = folder / "foreign.parquet"
    (folder / "a.png").touch()
    row["images"] = [str(folder / image) for image in row["images"]] if row["images"] == ["a.png"] else row["images"]
    try:
        pq.write_table(pa.Table.from_pylist([row]), path)
    except (pa.ArrowException, UnicodeEncodeError):
        return
    if not passes(path):
        event("refused")
        return
    event("passed")
    check_size_and_truth(path)
    check_turns(path, "prompt")
    (read,) = pq.read_table(path).to_pylist()
    if read["images"] == [str(folder / "a.png")]:
        check_columns(path)
    found = compute_score("grounding", "none", read["reward_model"]["ground_truth"], read["extra_info"], **REWARD)
    assert found["score"] == 0
