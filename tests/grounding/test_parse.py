import re
import time
from itertools import pairwise
from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import PARSERS, answer_text, declines, order_corners, parse_box_1000, parser_name, target_text

BOX = (10, 20, 300, 400)
JSON_BOX = '{"bbox_2d": [10, 20, 300, 400], "label": "dog"}'
WORDS = st.text("abc xyz.'\n", max_size=60)
# Pieces of generated answers: tags, brackets, separators, signs, digits of two scripts.
ARABIC_1 = "\u0661"  # a digit that Python's \d and float() accept
TAGS = ["</think>", "<answer>", "<ANSWER>", "</Answer>", "</answer>", "<box>", "</box>", '"bbox_2d"', "bbox_2d"]
MARKS = [*"[]():,.-+ex\"'\\", ", ", " ", "\n"]
NUMBERS = ["1", "20", "300", "1000", "-5", "2.5", "1e2", "1e999", ARABIC_1]
PIECES = st.sampled_from([*TAGS, *MARKS, *NUMBERS])
TEXTS = st.lists(PIECES, max_size=60).map("".join)


# Strict parser


@pytest.mark.parametrize(
    "text",
    [
        JSON_BOX,
        answer_text(BOX, "dog"),
        f"```json\n[\n\t{JSON_BOX}\n]\n```",
        f"thinking</think>\n\n{JSON_BOX}",
        f"[1, 2, 3, 4] is no, (5, 6, 7, 8) neither</think>{JSON_BOX}",
        f"<answer>[1, 2, 3, 4]</answer></think>{JSON_BOX}",
        f'a</think>{{"bbox_2d": [1, 2, 3, 4]}} b</think>{JSON_BOX}',  # the last </think> counts
        "{'bbox_2d': [10, 20, 300, 400]}",
        "bbox_2d: [10, 20, 300, 400]",
        '{\\"bbox_2d\\": [10, 20, 300, 400]}',  # JSON within a JSON string
        '{"bbox_2d": "[10, 20, 300, 400]"}',
        '{"bbox_2d": ["10", "20", "300", "400"]}',
        "{'bbox_2d': ['10', '20', '300', '400']}",
        '{"bbox_2d"\uff1a[10\uff0c20\uff0c300\uff0c400]}',
        "[10\uff0c20\uff0c 300\u3001400]",
        r"The box is \[ 10, 20, 300, 400 \]",
        r"\[10, 20, 300, 400\]",
        '{"bbox_2d" :\n[ 10 ,20,\n300 , 400 ]}',
        '{"bbox_2d": [[10, 20], [300, 400]]}',
        '{"bbox_2d": [[10, 20, 300, 400]]}',
        '{"bbox_2d": (10, 20, 300, 400)}',
        '{"bbox_2d": [10.0, 2e1, +300, 4.0E+2]}',
        '{"bbox_2d": [300, 400, 10, 20]}',  # swapped corners
        '{"bbox_2d": [300, 20, 10, 400]}',
        '{"bbox_2d": [10, 20, 300, 400], "label": "number 1 2 3 4"}',
        '{"label": "[1, 2, 3, 4]", "bbox_2d": [10, 20, 300, 400]}',
        f'[{JSON_BOX}, {{"bbox_2d": [1, 2, 3, 4]}}]',  # the first of several, as in the released evaluation
        f"<answer>[1, 2, 3, 4]</answer>{JSON_BOX}",  # bbox_2d is preferred to tags
        f"<answer>{JSON_BOX}</answer> [1, 2, 3, 4]",
        "The bbox_2d is <answer>[10, 20, 300, 400]</answer> [1, 2, 3, 4]",
        "<answer>10 20 300 400</answer><answer>[1, 2, 3, 4]</answer>",
        "<box>[1, 2, 3, 4]</box><answer>[10, 20, 300, 400]</answer>",  # <answer> is preferred to <box>
        "<answer>the dog</answer><box>(10,20),(300,400)</box> 1 2 3 4",  # <box> is preferred to bare numbers
        "<answer><box>[10, 20, 300, 400]</box></answer>",
        "<answer>[10, 20, 300, 400]",  # cut off after the box
        "<|box_start|>(10,20),(300,400)<|box_end|>",
        "(10, 20) (300, 400)",
        "[1, 2, 3, 4] no, [10, 20, 300, 400]",
        "[1, 2, 3, 4], [10, 20, 300, 400]",
        "1 2 3 4, no: 10, 20, 300, 400.",
        "10 20 300 400",
        "10 20 300 400 of 1 2 3 4 5",
        "1. [10, 20, 300, 400]",
        "1) [10, 20, 300, 400]",
        "[10, 20, 300, 400] px, found with 3 4 5 6 as distractors",  # brackets are preferred to bare numbers
        "[[[10, 20, 300, 400]]]",
        "[[10, 20, 300, 400], 0.9]",
    ],
)
def test_strict_reads_the_box(text):
    assert parse_box_1000(text) == BOX


@pytest.mark.parametrize(
    "text",
    [
        "",
        "</think>",
        "The dog is on the left.",
        f"{JSON_BOX}</think>",  # only the reasoning holds a box
        f"{JSON_BOX}</think>The dog.",
        f'{JSON_BOX}</think>[{{"bbox_2d": [10, 20, 300',
        '{"bbox_2d": [10, 20, 300, 4',  # cut off within a number
        '{"bbox_2d": [10, 20, 300, 400',
        '{"bbox_2d": [10, 20, 300]}',
        '{"bbox_2d": [10, 20, 300], "label": "number 1 2 3 4"}',  # never the label's numbers
        '{"bbox_2d": [], "label": "[1, 2, 3, 4]"}',
        '{"bbox_2d": [10, 20, 300, 400, 500]}',
        '{"bbox_2d": [10, 20, 300, x]}',
        '{"bbox_2d": [NaN, 20, 300, 400]}',
        '{"bbox_2d": [Infinity, 20, 300, 400]}',
        '{"bbox_2d": [1e999, 20, 300, 400]}',
        '{"bbox_2d": [10, 20, 300, 4' + "0" * 400 + "]}",
        '{"bbox_2d": [10, 20, 10, 400]}',  # no area
        '{"bbox_2d": [10, 20, 300, 20]}',
        '{"bbox_2d": [1010, 20, 1020, 400]}',  # no area once clamped
        '{"bbox_2d": [10, 20, 300, 1051]}',  # too far outside 0..1000
        '{"bbox_2d": [-51, 20, 300, 400]}',
        '{"bbox_2d": [10, 20, 640.5, 4800]}',
        f'{{"bbox_2d": [{ARABIC_1}, 20, 300, 400]}}',  # not an ASCII digit
        '{"bbox_2d": {"x1": 10, "y1": 20, "x2": 300, "y2": 400}}',
        "[10, 20, 300]",
        "[10, 20, 300, 400, 500]",
        "10 20 300 400 500",
        "10 20 300",
        "[10, 20, 300, 400",
        "x1=10, y1=20, x2=300, y2=400",
        "the 10th, 20th, 300th and 400th",
        "10-20-300-400",
        "x1 20 300 400",
        "1.x.10 20 300 400",
        "n-10 20 300 400",
        "10 20 300 4th",
        "10% 20% 300% 400%",
        "1_0 2_0 3_0 4_0",
        "<answer>[10, 20, 300]</answer>",
    ],
)
def test_strict_returns_none_without_a_box(text):
    assert parse_box_1000(text) is None


def test_strict_reads_the_whole_text_if_the_reasoning_is_unclosed():
    assert parse_box_1000("<think>It is at [10, 20, 300, 400]") == BOX


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[-50, -0.5, 1050, 1000.5]", (0, 0, 1000, 1000)),
        ("[990, 20, 1001, 400]", (990, 20, 1000, 400)),
        ("[-0, 20, 300, 400]", (0, 20, 300, 400)),
        ("[10.25, 20.5, .5, 400]", (0.5, 20.5, 10.25, 400)),
    ],
)
def test_strict_clamps_a_slight_overshoot_and_keeps_fractions(written, read):
    assert parse_box_1000(f'{{"bbox_2d": {written}}}') == read


@given(TEXTS, TEXTS)
def test_strict_ignores_the_reasoning(reasoning, answer):
    answer = answer.replace("</think>", "")
    assert parse_box_1000(f"{reasoning}</think>{answer}") == parse_box_1000(f"</think>{answer}")


@given(TEXTS)
def test_strict_returns_an_ordered_box_with_area_in_range_or_none(text):
    box = parse_box_1000(text)
    assert box is None or (0 <= box[0] < box[2] <= 1000 and 0 <= box[1] < box[3] <= 1000)


# Released parsers, case by case


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>[1, 2, 3, 4]</answer> [5, 6, 7, 8]", (1, 2, 3, 4)),
        ("<answer>[1, 2, 3, 4]</answer><answer>[5, 6, 7, 8]</answer>", (1, 2, 3, 4)),  # first <answer>
        ("<answer>dog</answer> [5, 6, 7, 8]", (5, 6, 7, 8)),  # no box in it: whole text
        ("<answer>[1, 2, 3]</answer> 5 6 7 8", None),  # the last bracket of the whole text has three numbers
        ("<answer>[1, 2, 3, 4]", (1, 2, 3, 4)),
        ("<answer>9 1 2 3 4</answer>", (1, 2, 3, 4)),
        ("[1, 2, 3, 4]</think>The dog.", (1, 2, 3, 4)),  # reads the reasoning
        ("[1, 2, 3, 4] [5, 6, 7, 8]", (5, 6, 7, 8)),  # last group
        ("[[1, 2, 3, 4], 9]", (1, 2, 3, 4)),  # innermost
        ("[1, 2, [5, 6, 7, 8], 3]", (5, 6, 7, 8)),
        ("[1, 2, 3, 4]]]", (1, 2, 3, 4)),
        ("[1, 2, 3, 4] [", (1, 2, 3, 4)),
        ("[1, 2, 3, 4, 5]", (1, 2, 3, 4)),  # first four of the group
        ("[a 1 b 2 c 3 d 4]", (1, 2, 3, 4)),
        ("[1, 2, 3, 4] [5, 6]", None),  # fewer than four: no fallback
        ("[1, 2, 3, 4] []", (1, 2, 3, 4)),  # an empty bracket is not a group
        ("[1, 2, 3, 4] [ ]", None),
        ("[] 1 2 3 4", (1, 2, 3, 4)),
        ("<ANSWER>[1, 2, 3, 4]</Answer> [5, 6, 7, 8]", (1, 2, 3, 4)),
        ("9 1 2 3 4", (1, 2, 3, 4)),  # no bracket: last four
        ("x1=1 y2", None),
        ("1 2 3", None),
        ("[30, 40, 1, 2]", (1, 2, 30, 40)),  # corners in order
        ("[1e2, 3, 4]", (1, 2, 3, 4)),  # exponents are not read
        ("[.5, -1.5, +3, 4.]", (0.5, -1.5, 3, 4)),
        ("[5000, 2, 3, 4]", (3, 2, 5000, 4)),  # not clamped here
        ("[1, 2, 3, 4" + "0" * 400 + "]", None),  # not finite
        ("[5, 5, 5, 5]", (5, 5, 5, 5)),
        (f"[{ARABIC_1}, 2, 3, 4]", (1, 2, 3, 4)),  # \d is any script's digit
        ("", None),
    ],
)
def test_released_reward_parser(text, expected):
    assert parse_box_1000(text, "released_reward") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[9, 9, 9, 9] {"bbox_2d": [1, 2, 3, 4]} {"bbox_2d": [5, 6, 7, 8]}', (1, 2, 3, 4)),  # first bbox_2d
        ('{"bbox_2d": [1, 2]} {"bbox_2d": [5, 6, 7, 8]}', (5, 6, 7, 8)),
        ("bbox_2d: [1, 2, 3] [5, 6, 7, 8] [9, 9, 9, 9]", (5, 6, 7, 8)),  # else first list of four
        ("[1, 2, 3, 4]</think>[5, 6, 7, 8]", (1, 2, 3, 4)),  # reads the reasoning
        ("[1, 2, 3, 4, 5]", (2, 3, 4, 5)),  # else last four numbers
        ("<answer>1 2 3 4</answer> 5", (2, 3, 4, 5)),
        ("1 2 3", None),
        ('{"bbox_2d": [30, 40, 1, 2]}', (30, 40, 1, 2)),  # corners are not swapped
        ('{"bbox_2d": [-5, 2000, 1.5, 4e1]}', (0, 1000, 1.5, 40)),  # clamped, exponents are read
        ("[1e999, -1e999, 3, 4]", (0, 0, 3, 4)),  # what is not finite becomes 0
        ("1 2 3 4e1 5e-1x", (2, 3, 40, 0.5)),
        ("[5, 5, 5, 5]", (5, 5, 5, 5)),
        ("", None),
    ],
)
def test_released_eval_parser(text, expected):
    assert parse_box_1000(text, "released_eval") == expected


# Naive versions of the released parsers, with the released patterns. They are fast enough for short texts only.
NUMBER = r"[-+]?\d*\.?\d+"
EVAL_NUMBER = rf"{NUMBER}(?:[eE][-+]?\d+)?"
EVAL_LIST = rf"\[\s*({EVAL_NUMBER})\s*,\s*({EVAL_NUMBER})\s*,\s*({EVAL_NUMBER})\s*,\s*({EVAL_NUMBER})\s*\]"


def naive_reward(text):
    def box_in(part):
        groups = re.findall(r"\[([^\[\]]+)\]", part)
        numbers = re.findall(NUMBER, groups[-1])[:4] if groups else re.findall(NUMBER, part)[-4:]
        values = tuple(map(float, numbers))
        return order_corners(values) if len(values) == 4 and all(map(isfinite, values)) else None

    answer = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE)
    return (answer and box_in(answer[1])) or box_in(text)


def naive_eval(text):
    match = re.search(rf'"bbox_2d"\s*:\s*{EVAL_LIST}', text) or re.search(EVAL_LIST, text)
    numbers = match.groups() if match else re.findall(EVAL_NUMBER, text)[-4:]
    values = [value if isfinite(value := float(number)) else 0 for number in numbers]
    return tuple(min(max(value, 0), 1000) for value in values) if len(values) == 4 else None


@pytest.mark.slow
@settings(max_examples=600)
@given(TEXTS)
def test_released_parsers_match_naive_versions(text):
    assert parse_box_1000(text, "released_reward") == naive_reward(text)
    assert parse_box_1000(text, "released_eval") == naive_eval(text)


@pytest.mark.slow
@settings(max_examples=600)
@given(st.text("[],.+-e12 ", max_size=24).map(lambda body: f"[1,2,3,{body}]"))
def test_released_parsers_match_naive_versions_on_numbers(text):
    assert parse_box_1000(text, "released_reward") == naive_reward(text)
    assert parse_box_1000(text, "released_eval") == naive_eval(text)


# All parsers


@given(WORDS, st.tuples(*[st.integers(0, 1000)] * 4), WORDS, st.sampled_from(["json", "list", "answer", "box"]))
def test_all_parsers_read_the_same_box_from_a_well_formed_answer(reasoning, numbers, label, layout):
    x1, y1, x2, y2 = order_corners(numbers)
    box = (x1, y1, x2 + (x1 == x2), y2 + (y1 == y2))
    written = f"[{', '.join(map(str, box))}]"
    answers = {"json": answer_text(box, label), "list": written}
    answer = answers.get(layout, f"<{layout}>{written}</{layout}>")
    expected = tuple(min(value, 1000) for value in box) if max(box) > 1000 else box
    if expected[0] < expected[2] and expected[1] < expected[3]:
        for parser in PARSERS:
            assert parse_box_1000(f"{reasoning}</think>\n\n{answer}", parser) == expected


@given(st.one_of(TEXTS, st.text()), st.sampled_from(sorted(PARSERS)))
def test_no_parser_raises_and_each_returns_four_finite_numbers_or_none(text, parser):
    box = parse_box_1000(text, parser)
    assert box is None or (len(box) == 4 and all(isfinite(value) for value in box))


def test_the_earlier_name_of_the_strict_parser_is_accepted():
    assert parser_name("house") == "strict" and {parser_name(name) for name in PARSERS} == set(PARSERS)
    text = "[1, 2, 3, 4] </think> [10, 20, 30, 40]"
    assert parse_box_1000(text, "house") == parse_box_1000(text, "strict") == (10, 20, 30, 40)


def test_unknown_parser_lists_the_known_ones():
    with pytest.raises(InputError, match=r"expected one of strict, released_reward, released_eval, got \"mine\""):
        parse_box_1000("", "mine")


# Texts (begin, repeated unit, end) for which a careless pattern needs quadratic time. The length grows 8-fold, then
# 16-fold, and the time may grow at most three times as much. Quadratic time already fails at the first step (64-fold),
# before the long text would hang.
BAIT = [
    ("", "<answer>", ""),
    ("", "</answer>", ""),
    ("", "<answer></answer>", ""),
    ("", "<ANSWER>", ""),
    ("", '["1",', ""),
    ("", r"\[ 1, 1, 1, 1 \\", ""),
    ("", "</think>", ""),
    ("", "<box>", ""),
    ("", "[", ""),
    ("", "]", ""),
    ("", "[]", ""),
    ("", "(", ""),
    ("", "[ ", ""),
    ("[", " ", ""),
    ("", "1", ""),
    ("", "1", "a"),
    ("1e", "1", "a"),
    ("1.", "1", "a"),
    ("[", "1", ""),
    ("[1,2,3,", "1", ""),
    ("[0.", "0", "]"),
    ("[1e", "9", ",1,1,1]"),
    ("", "1 ", ""),
    ("[", "1 ", ""),
    ("[", "1,", "]"),
    ("", "[1,", ""),
    ("", "[1,2,3,4]", ""),
    ("", "[1,2,3,4", ""),
    ("", "(1,2),", ""),
    ("1", " ", "1"),
    ("[1", " ", ""),
    ("[1,1", " ", ",1,1"),
    ("", "1" + " " * 999, ""),
    ("", "[" + " " * 999, ""),
    ("", "-", ""),
    ("", "+.", ""),
    ("", "[-+.", ""),
    ("", ".1", ""),
    ("", "1.", ""),
    ("", "1e", ""),
    ("", "1e1", ""),
    ("", "-1e-", ""),
    ("", "bbox_2d", ""),
    ("", '"bbox_2d":', ""),
    ("", '"bbox_2d": [', ""),
    ("", '"bbox_2d": [1, 2, 3, ', ""),
    ('"bbox_2d": [', "1", ""),
    ('"bbox_2d"', " ", ""),
    ('"bbox_2d":', "'", ""),
    ('"bbox_2d":', "[", ""),
    ("", "bbox_2d" + " " * 999, ""),
    ("", "a", ""),
    ("", ARABIC_1, ""),
    ("", "a1 ", ""),
]


def seconds(parser, begin, unit, end, length):
    text = begin + unit * (length // len(unit)) + end
    start = time.process_time()
    parse_box_1000(text, parser)
    return time.process_time() - start


def assert_linear(parser, bait, *lengths):
    """Fail if CPU time grows more than three times as much as the length, from each length to the next.

    Other processes only add time, so the fastest of many tries counts.
    """
    fastest = [float("inf")] * len(lengths)
    for _ in range(30):
        fastest = [min(best, seconds(parser, *bait, length)) for best, length in zip(fastest, lengths, strict=True)]
        pairs = pairwise(zip(lengths, fastest, strict=True))
        if all(longer_s <= 3 * longer / short * short_s + 0.02 for (short, short_s), (longer, longer_s) in pairs):
            return
    pytest.fail(f"lengths {lengths} take {fastest} seconds")


@pytest.mark.parametrize("parser", sorted(PARSERS))
@pytest.mark.parametrize("bait", BAIT, ids=lambda bait: "".join(bait)[:24].replace(" ", "_"))
def test_time_is_linear_on_a_megabyte_of_bait(parser, bait):
    assert_linear(parser, bait, 8_000, 64_000, 1_000_000)


@settings(max_examples=60)
@given(PIECES, st.lists(PIECES, min_size=1, max_size=5).map("".join), PIECES, st.sampled_from(sorted(PARSERS)))
def test_time_is_linear_on_repeated_pieces(begin, unit, end, parser):
    assert_linear(parser, (begin, unit, end), 10_000, 100_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (target_text("There is none.", None, "dog"), True),
        (" [ ] ", True),
        ("<answer>```[]```</answer>", True),
        ("[]\n</think>\n\nnothing", False),  # the reasoning alone
        (target_text("None of [] is one.", BOX, "dog"), False),
        ("", False),
        ("There is no dog.", False),
        ("matches = []; found the dog at the left", False),
        ("[] [10, 20, 300, 400]", False),
        ('[{"bbox_2d": [0, 0, 0, 0], "label": "[]"}]', False),
        ("I write [] and go on and on", False),
    ],
)
def test_only_an_empty_list_declines(text, expected):
    assert declines(text) is expected
