import pickle
from math import ceil, exp, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import PARSERS, answer_text, box_1000_to_px, iou, render_prompt, reward_iou
from qwen3vl_rl.reward import REWARDS, Parts, check_settings, compute_score, longest_run

TRUTH = [100, 200, 500, 600]
INFO = {"split": "train", "index": 3, "id": "cup-3", "width": 1000, "height": 1000, "question": "Locate the cup"}
SIZE = 200  # px, of the images that boxes are drawn in
SIDES = st.lists(st.integers(0, SIZE - 1), min_size=2, max_size=2, unique=True).map(sorted)
BOXES = st.builds(lambda xs, ys: (xs[0], ys[0], xs[1], ys[1]), SIDES, SIDES)


def parts(iou=0.0, **changes):
    """Parts of an ordinary answer with `changes`."""
    ordinary = {
        "predicted_px": (0, 0, 10, 10),
        "truth_px": (0, 0, 10, 10),
        "modal_iou": None,
        "length_words": 10,
        "length_tokens": 40,
        "repeats": 1,
        "alpha": 0.5,
        "threshold": 0.5,
        "budget_tokens": 100,
    }
    return Parts(iou=iou, **{**ordinary, **changes})


PARTS = st.builds(
    lambda predicted, truth, **rest: parts(iou(predicted, truth), predicted_px=predicted, truth_px=truth, **rest),
    BOXES,
    BOXES,
    length_words=st.integers(0, 3000),
    length_tokens=st.integers(0, 5000),
    repeats=st.integers(0, 30),
    alpha=st.floats(0, 1),
    threshold=st.floats(0, 1),
    budget_tokens=st.integers(1, 500),
    modal_iou=st.none() | st.floats(0, 1),
)


def score(text, truth=TRUTH, info=INFO, reward_type="mix", alpha=0.5, threshold=0.5, source="grounding", **kwargs):
    return compute_score(source, text, truth, info, reward_type=reward_type, alpha=alpha, threshold=threshold, **kwargs)


def answer(box, reasoning="It is the left cup."):
    return f"{reasoning}\n</think>\n\n{answer_text(box, 'cup')}"


# The formulas


@given(PARTS)
def test_rewards_are_their_formulas(parts):
    i, t, a, k = parts.iou, parts.threshold, parts.alpha, log(16)
    right = 1 if i >= t else 0
    mixed = a * right + (1 - a) * i
    too_long = 0.01 * ceil(max(0, parts.length_words - 512) / 50)
    over = max(1, parts.length_tokens / parts.budget_tokens)
    expected = {
        "mix": mixed,
        "sigmoid": 1 / (1 + exp(-8 * (i - t))),
        "penalty": mixed - too_long - (0.3 if parts.repeats >= 7 else 0),
        "normalized_exp": (1 - exp(-k * i)) / (1 - exp(-k)),
        "giou": a * right + (1 - a) * (1 + giou_of_masks(parts.predicted_px, parts.truth_px)) / 2,
        "diou": a * right + (1 - a) * (1 + diou_of_corners(parts.predicted_px, parts.truth_px)) / 2,
        "efficient": mixed / over,
        "amodal": mixed if (m := parts.modal_iou) is None else (mixed + a * (m >= t) + (1 - a) * m) / 2,
        "eval": right,
    }
    assert {name: reward(parts) for name, reward in REWARDS.items()} == pytest.approx(expected, rel=0, abs=1e-9)


def giou_of_masks(a, b) -> float:
    """Counts the pixels of both boxes and of the smallest box around them."""
    masks = np.zeros((2, SIZE, SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, (a, b), strict=True):
        mask[y1:y2, x1:x2] = True
    union = masks.any(axis=0)
    ys, xs = np.nonzero(union)
    hull = (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
    return masks.all(axis=0).sum() / union.sum() - (hull - union.sum()) / hull


def diou_of_corners(a, b) -> float:
    """The formula of the paper, with complex numbers as points."""
    centres = [complex(x1 + x2, y1 + y2) / 2 for x1, y1, x2, y2 in (a, b)]
    corners = [complex(*corner) for box in (a, b) for corner in (box[:2], box[2:])]
    xs, ys = [corner.real for corner in corners], [corner.imag for corner in corners]
    diagonal = abs(complex(max(xs) - min(xs), max(ys) - min(ys)))
    return iou(a, b) - (abs(centres[0] - centres[1]) / diagonal) ** 2


@pytest.mark.parametrize(
    ("name", "iou", "expected"),
    [
        ("mix", 0.5, 0.75),  # an IoU equal to the threshold counts
        ("mix", 0.4, 0.2),
        ("mix", 1.0, 1.0),
        ("sigmoid", 0.5, 0.5),
        ("sigmoid", 1.0, 0.9820137900379085),
        ("penalty", 0.5, 0.75),
        ("normalized_exp", 0.0, 0.0),
        ("normalized_exp", 0.5, 0.8),
        ("normalized_exp", 1.0, 1.0),
        ("efficient", 1.0, 1.0),
        ("eval", 0.5, 1.0),
        ("eval", 0.4999, 0.0),
    ],
)
def test_rewards_by_hand(name, iou, expected):
    assert REWARDS[name](parts(iou)) == pytest.approx(expected, rel=0, abs=1e-9)


def test_giou_grades_boxes_that_miss():
    near, far = parts(predicted_px=(20, 0, 30, 10)), parts(predicted_px=(90, 0, 100, 10))
    assert REWARDS["mix"](near) == REWARDS["mix"](far) == 0
    assert REWARDS["giou"](near) == pytest.approx(0.25 * 2 / 3) and REWARDS["giou"](far) == pytest.approx(0.25 * 0.2)
    assert REWARDS["giou"](parts(1.0)) == 1


def test_diou_grades_boxes_that_miss_by_their_centres():
    near, far = parts(predicted_px=(20, 0, 30, 10)), parts(predicted_px=(90, 0, 100, 10))
    assert REWARDS["diou"](near) == pytest.approx(0.25 * (1 - 400 / 1000))
    assert REWARDS["diou"](far) == pytest.approx(0.25 * (1 - 8100 / 10100))
    assert REWARDS["diou"](parts(1.0)) == 1
    point = (9, 9, 9, 9)
    assert REWARDS["diou"](parts(predicted_px=point, truth_px=point)) == 0.25


def test_a_custom_reward_gets_the_answer_its_reasoning_and_the_sample(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def own(parts):\n"
        "    assert parts.answer.startswith('```json') and 'think' not in parts.answer + parts.reasoning\n"
        "    return len(parts.reasoning) + parts.sample['index'] / 10\n"
    )
    text = "<think>\n" + answer((100, 200, 500, 500), reasoning="left")
    assert score(text, reward_type=f"{file}:own")["score"] == 4.3


@pytest.mark.parametrize(("tokens", "expected"), [(0, 1), (100, 1), (101, 100 / 101), (200, 0.5), (1000, 0.1)])
def test_efficient_shrinks_beyond_the_budget(tokens, expected):
    assert REWARDS["efficient"](parts(1.0, length_tokens=tokens)) == pytest.approx(expected)
    assert REWARDS["efficient"](parts(0.0, length_tokens=tokens)) == 0


@pytest.mark.parametrize(
    ("words", "repeats", "less"),
    [(512, 1, 0), (513, 1, 0.01), (562, 1, 0.01), (563, 1, 0.02), (10, 6, 0), (10, 7, 0.3), (612, 9, 0.32)],
)
def test_penalty_counts_started_fifties_and_seven_in_a_row(words, repeats, less):
    long = parts(1.0, length_words=words, repeats=repeats)
    assert REWARDS["penalty"](long) == pytest.approx(1 - less, rel=0, abs=1e-9)


@given(PARTS, BOXES)
def test_a_better_box_never_scores_less(one, other_px):
    other = one._replace(predicted_px=other_px, iou=iou(other_px, one.truth_px))
    worse, better = sorted((one, other), key=lambda parts: parts.iou)
    graded_apart = {"giou", "diou"}
    for name in REWARDS.keys() - graded_apart:
        assert REWARDS[name](better) >= REWARDS[name](worse)
    for name in graded_apart:
        assert REWARDS[name](one._replace(predicted_px=one.truth_px, iou=1.0)) >= REWARDS[name](one)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=40))
def test_longest_run_equals_a_count_by_hand(words):
    longest = run = 0
    for index, word in enumerate(words):
        run = run + 1 if index and words[index - 1] == word else 1
        longest = max(longest, run)
    assert longest_run(words) == longest


# The entry point


def test_score_comes_with_its_parts():
    text = answer((100, 200, 500, 500), reasoning="no no no, the left cup")
    assert score(text) == {
        "score": 0.875,
        "acc": 1.0,
        "iou": 0.75,
        "format": 1.0,
        "length_words": len(text.split()),
        "repeats": 2.0,
    }
    assert all(type(value) is float for value in score(text).values())  # verl logs and dumps them as JSON


@given(st.tuples(*[st.integers(0, 999)] * 2), st.integers(1, 300), st.sampled_from(sorted(REWARDS)))
def test_score_is_the_named_reward_of_the_iou_in_pixels(corner, side, name):
    box = (*corner, min(corner[0] + side, 1000), min(corner[1] + side, 1000))
    info = {**INFO, "width": 333, "height": 77, "length_tokens": 7}
    i = reward_iou(box, TRUTH, 333, 77)
    result = score(answer(box), info=info, reward_type=name, alpha=0.3, threshold=0.6)
    assert result["iou"] == i and result["acc"] == (i >= 0.6)
    boxes = {"predicted_px": box_1000_to_px(box, 333, 77), "truth_px": box_1000_to_px(TRUTH, 333, 77)}
    lengths = {"length_words": result["length_words"], "length_tokens": 7, "repeats": result["repeats"]}
    expected = REWARDS[name](parts(i, alpha=0.3, threshold=0.6, **boxes, **lengths))
    assert result["score"] == pytest.approx(expected, rel=0, abs=1e-9)


def test_penalty_reads_length_and_repetition_from_the_whole_answer():
    assert score(answer(TRUTH), reward_type="penalty")["score"] == 1
    assert score(answer(TRUTH, "so " * 6), reward_type="penalty")["score"] == 1
    assert score(answer(TRUTH, "so " * 7), reward_type="penalty")["score"] == pytest.approx(0.7)
    words_of_answer = len(answer(TRUTH, "").split())
    assert score(answer(TRUTH, "a b " * 256), reward_type="penalty")["score"] == pytest.approx(
        1 - 0.01 * ceil(words_of_answer / 50)
    )


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_the_test_split_is_scored_with_eval(name):
    info = {**INFO, "split": "test"}
    assert score(answer((100, 200, 500, 500)), info=info, reward_type=name)["score"] == 1
    assert score(answer((100, 200, 500, 300)), info=info, reward_type=name)["score"] == 0


@pytest.mark.parametrize("name", sorted(REWARDS))
@pytest.mark.parametrize("text", ["", "The cup.", "[1, 2]", "[100, 200, 500, 600] </think> no box", "so " * 900])
def test_no_box_scores_0_under_every_reward(name, text):
    result = score(text, reward_type=name)
    assert (result["score"], result["acc"], result["iou"], result["format"]) == (0, 0, 0, 0)
    assert score(text, reward_type=name, threshold=0.0)["score"] == 0  # even if any IoU suffices


@pytest.mark.parametrize("name", sorted(REWARDS))
@pytest.mark.parametrize(
    "truth",
    [
        *(None, 7, "1234", b"1234", "[1, 2, 3, 4]"),
        *([], [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2, 3, 4]], ["a", 2, 3, 4], [1, 2, 3, None]),
        *([float("nan"), 2, 3, 4], [1, 2, float("inf"), 4], [10**400, 2, 3, 4]),
    ],
)
def test_malformed_truth_scores_0(name, truth):
    result = score(answer(TRUTH), truth=truth, reward_type=name)
    assert (result["score"], result["acc"], result["iou"], result["format"]) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    "truth", [tuple(TRUTH), np.array(TRUTH), np.array(TRUTH, np.float32), [float(value) for value in TRUTH]]
)
def test_truth_may_be_any_sequence_of_four_numbers(truth):
    assert score(answer(TRUTH), truth=truth)["score"] == 1


def test_sizes_may_be_numpy_integers():
    info = {**INFO, "width": np.int64(640), "height": np.int32(480)}
    assert score(answer(TRUTH), info=info)["score"] == 1


def test_strict_parser_ignores_the_reasoning_and_the_released_one_reads_the_last_list():
    text = f"{answer(TRUTH)} or [0, 0, 10, 10]"
    assert score(text)["score"] == 1
    assert score(text, parser="released_reward")["score"] == 0
    assert score("It is at [100, 200, 500, 600]</think>there", parser="released_reward")["score"] == 1
    assert score(answer((0, 0, 1600, 1600)), parser="released_reward")["format"] == 1
    assert score(answer((0, 0, 1600, 1600)))["format"] == 0


@given(st.text())
def test_no_text_raises(text):
    for parser in PARSERS:
        assert 0 <= score(text, parser=parser)["score"] <= 1


# Bad input


@pytest.mark.parametrize("field", ["width", "height"])
@pytest.mark.parametrize("value", [None, 0, -5, "wide", float("nan")])
def test_missing_size_names_sample_and_field(field, value):
    with pytest.raises(InputError, match=rf'sample cup-3: extra_info field "{field}": expected .* in pixels, got'):
        score(answer(TRUTH), info={**INFO, field: value})
    with pytest.raises(InputError, match=rf'field "{field}"'):  # also without a box
        score("", info={key: INFO[key] for key in INFO if key != field})


def test_missing_extra_info_names_the_width():
    with pytest.raises(InputError, match='field "width"'):
        score(answer(TRUTH), info=None)


@pytest.mark.parametrize("split", ["train", "test"])
def test_unknown_reward_lists_the_known_ones(split):
    known = "mix, sigmoid, penalty, normalized_exp, giou, diou, efficient, amodal, eval"
    with pytest.raises(InputError, match=f'reward_type: expected one of {known} or FILE.py:NAME, got "best"'):
        score(answer(TRUTH), info={**INFO, "split": split}, reward_type="best")


def test_unknown_parser_lists_the_known_ones():
    with pytest.raises(InputError, match='parser: expected one of strict, released_reward, released_eval, got "mine"'):
        score(answer(TRUTH), parser="mine")


@pytest.mark.parametrize("missing", ["reward_type", "alpha", "threshold"])
def test_reward_type_alpha_and_threshold_are_required_even_for_the_test_split(missing):
    settings = {"reward_type": "eval", "alpha": 0.5, "threshold": 0.5}
    del settings[missing]
    with pytest.raises(TypeError, match=missing):
        compute_score("grounding", answer(TRUTH), TRUTH, {**INFO, "split": "test"}, **settings)


# Expressions for which nothing fits


@pytest.mark.parametrize("reward_type", ["mix", "efficient", "amodal"])
def test_an_answer_that_says_so_is_right_where_nothing_fits(reward_type):
    texts = "There is none.\n</think>\n\n" + answer_text(None, "cup"), answer(TRUTH), "no"
    says_so, boxes, says_nothing = (
        score(text, truth=None, source="no_referent", reward_type=reward_type) for text in texts
    )
    assert (says_so["score"], says_so["acc"], says_so["declined"], says_so["format"]) == (1, 1, 1, 0)
    assert boxes["score"] == boxes["acc"] == boxes["declined"] == says_nothing["score"] == 0
    assert boxes["format"] == 1
    assert "iou" not in says_so


def test_declining_is_wrong_where_something_fits():
    assert score(answer_text(None, "cup"))["score"] == 0


# Amodal samples

MODAL = [100, 200, 300, 600]
BOTH = {**INFO, "modal_xyxy_1000": MODAL}


def test_an_amodal_sample_is_scored_on_the_box_that_is_its_truth():
    result = score(answer(TRUTH), reward_type="amodal")
    assert result["score"] == 1 and "modal_iou" not in result


@pytest.mark.parametrize(("visible", "expected"), [(MODAL, 1.0), ((100, 200, 300, 400), 0.875), ((0, 0, 50, 50), 0.5)])
def test_both_boxes_count_if_the_prompt_asks_for_both(visible, expected):
    text = f"{answer(TRUTH)}\n{answer_text(visible, 'visible part')}"
    result = score(text, info=BOTH, reward_type="amodal")
    assert result["score"] == pytest.approx(expected)
    assert result["modal_iou"] == reward_iou(visible, MODAL, 1000, 1000)
    assert score(text, info=BOTH)["score"] == 1  # other rewards use only the first box


@pytest.mark.parametrize(
    "text", ["", "no box", answer(TRUTH), answer(TRUTH, 'bbox_2d [1, 2, 3, 4], "bbox_2d": [1, 2, 3, 4]')]
)
def test_a_missing_visible_box_counts_0(text):
    assert score(text, info=BOTH, reward_type="amodal")["modal_iou"] == 0


# A reward of your own

MINE = """
from qwen3vl_rl.reward import Parts, mix

def shorter(parts: Parts) -> float:
    return mix(parts) - 0.001 * parts.length_words

constant = 7
"""


def test_a_function_in_any_file_may_be_the_reward(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    result = score(answer(TRUTH), reward_type=f"{tmp_path}/mine.py:shorter")
    assert result["score"] == pytest.approx(1 - 0.001 * result["length_words"])
    test = score(answer(TRUTH), info={**INFO, "split": "test"}, reward_type=f"{tmp_path}/mine.py:shorter")
    assert test["score"] == 1
    with pytest.raises(InputError, match='expected a function "longer" in'):
        score("", reward_type=f"{tmp_path}/mine.py:longer")
    with pytest.raises(InputError, match='expected a function "constant" in'):
        score("", reward_type=f"{tmp_path}/mine.py:constant")


def test_the_example_shorter_rewards_short_right_answers():
    name = f"{Path(__file__).parents[1]}/examples/rewards/shorter.py:shorter"
    right, wrong = (score(answer(box, ""), reward_type=name) for box in (TRUTH, (0, 0, 10, 10)))
    assert right["score"] == pytest.approx(1 + 0.1 * (50 - right["length_words"]) / 50)
    assert wrong["score"] == 0
    assert score(answer(TRUTH, "so " * 60), reward_type=name)["score"] == 1


def test_the_example_named_rewards_the_words_of_the_question():
    name = f"{Path(__file__).parents[1]}/examples/rewards/named.py:named"
    info = INFO | {"question": f"<image>{render_prompt('qwen3', 'the large red mug')}"}
    told, silent = (
        score(answer(TRUTH, text), info=info, reward_type=name)["score"]
        for text in ("A large mug, and a red one.", "On the left.")
    )
    assert (told, silent) == (pytest.approx(1.1), 1)


# Nasty answers

LONG = 1_000_000
NASTY = {
    "huge numbers": "[" + "9" * 5000 + ", 1e999, -1e999, 3]",
    "not finite": '[{"bbox_2d": [nan, inf, -inf, NaN]}]',
    "unicode digits": '[{"bbox_2d": [\u0661\u0660\u0660, \uff12\uff10, \u096b\u0966, \U0001d7d4]}]',
    "surrogate": "\ud800 [1, 2, 3, 4]",
    "null bytes": "\0" * 1000 + "[1, 2, 3, 4]",
    "answer tags": "<answer>" * (LONG // 8),
    "closing tags": "</think>" * (LONG // 8),
    "digits": "1" * LONG,
    "numbers": "1 " * (LONG // 2),
    "numbers and commas": "1," * (LONG // 2),
    "open brackets": "[" * LONG,
    "nested brackets": "[" * (LONG // 2) + "]" * (LONG // 2),
    "almost boxes": "[1, 2, 3, " * (LONG // 10),
    "keys": '"bbox_2d": [' * (LONG // 12),
    "signs": "+-" * (LONG // 2),
    "dots": "." * LONG,
    "spaces": "[" + " " * LONG + "1, 2, 3, 4]",
    "exponents": "1e" * (LONG // 2),
    "one word": "so " * (LONG // 3),
}


@pytest.mark.parametrize("parser", sorted(PARSERS))
@pytest.mark.parametrize("name", sorted(NASTY))
def test_nasty_answers_are_scored_in_linear_time(name, parser):
    """A quadratic parser would take hours and exceed pytest's time limit."""
    result = score(NASTY[name], reward_type="penalty", parser=parser)
    assert result["score"] <= 1 and result["score"] == result["score"]


@given(st.text(alphabet="[](){}<>/\"',:.+-eE0123456789 \nbox_2dthinkanswer", max_size=200), BOXES)
@example(text="1,4:0:0", truth=(0, 0, 1, 1))  # swapped corners, which `released_eval` keeps
def test_no_text_of_brackets_and_digits_raises(text, truth):
    for name in REWARDS:
        for parser in PARSERS:
            assert score(text, truth=truth, reward_type=name, parser=parser)["score"] <= 1


# Through verl


@pytest.mark.parametrize("name", [*REWARDS, "mine.py:shorter"])
def test_verl_loads_and_calls_every_reward_from_its_config(name, tmp_path):
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn

    (tmp_path / "mine.py").write_text(MINE)
    name = f"{tmp_path}/{name}" if ":" in name else name
    kwargs = {"reward_type": name, "alpha": 0.5, "threshold": 0.5, "parser": "strict", "budget_tokens": 20}
    function = {"path": "pkg://qwen3vl_rl.reward", "name": "compute_score", "reward_kwargs": kwargs}
    reward_fn = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": function}}))
    text, info = answer((100, 200, 500, 500)), {**INFO, "length_tokens": 40}
    result = reward_fn(
        data_source="grounding",
        solution_str=text,
        ground_truth=np.array(TRUTH),
        extra_info={**info, "num_turns": None, "rollout_reward_scores": {}},
        reward_router_address=None,
        reward_model_tokenizer=None,
    )
    assert result == score(text, info=info, **kwargs) and result["iou"] == 0.75
    assert pickle.loads(pickle.dumps(result)) == result


@pytest.mark.parametrize(
    ("body", "answer"),
    [("1 / parts.iou", None), ("float('nan') if parts.iou < 1 else 1.0", "overlaps the truth in part")],
)
def test_a_function_that_fails_for_wrong_answers_is_noticed_before_the_start(tmp_path, body, answer):
    (tmp_path / "mine.py").write_text(f"def mine(parts):\n    return {body}\n")
    settings = {"alpha": 0.5, "threshold": 0.5, "parser": "strict", "budget_tokens": 100}
    with pytest.raises(InputError if answer else ZeroDivisionError, match=answer):
        check_settings(f"{tmp_path}/mine.py:mine", **settings)


def test_a_function_that_raises_is_named_in_a_fatal_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def mine(parts):\n    raise KeyError('x')\n")
    with pytest.raises(KeyError):
        compute_score(
            "grounding", '"bbox_2d": [1, 2, 3, 4]', [1, 2, 3, 4], {"width": 9, "height": 9},
            reward_type=f"{tmp_path}/mine.py:mine", alpha=0.5, threshold=0.5,
        )  # fmt: skip
    assert "FatalError: reward" in (said := capsys.readouterr().err) and "KeyError: 'x'" in said


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "-float('inf')"])
def test_a_score_that_is_not_finite_ends_the_run_and_is_named(tmp_path, capsys, value):
    (tmp_path / "mine.py").write_text(f"def mine(parts):\n    return {value}\n")
    answer = 'It is here.</think>"bbox_2d": [1, 2, 3, 4]'
    with pytest.raises(InputError, match="expected a finite number, got"):
        compute_score(
            "grounding", answer, [1, 2, 3, 4], {"width": 9, "height": 9, "id": None, "index": 17},
            reward_type=f"{tmp_path}/mine.py:mine", alpha=0.5, threshold=0.5,
        )  # fmt: skip
    said = capsys.readouterr().err
    assert said.startswith(f"FatalError: reward {tmp_path}/mine.py:mine raised InputError")
    assert "sample 17, answer 'It is here." in said and said.count("\n") == 1


def test_a_swapped_truth_scores_0_only_with_the_released_parser():
    answer, info = "[100, 200, 300, 400]", {"width": 1000, "height": 1000}
    settings = {"reward_type": "mix", "alpha": 0.5, "threshold": 0.5}
    for parser, score in (("strict", 1.0), ("released_reward", 0.0)):
        assert compute_score("x", answer, [300, 400, 100, 200], info, parser=parser, **settings)["score"] == score
