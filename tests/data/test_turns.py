"""Turns of training parquet: special tokens are found in every row, by column."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen3vl_rl.data import turns
from qwen3vl_rl.data.expressions import SPECIAL_TOKENS
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import target_text

ANSWER = target_text("It is on the left.", (1, 2, 3, 4), "dog")


def row(user: str = "<image>Locate the dog", answer: str = ANSWER, images: int = 1) -> dict:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": ["a.png"] * images}


def check(path, *rows: dict, own: tuple[str, ...] = (), schema: pa.Schema | None = None) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), schema), path / "rows.parquet")
    turns.check_turns(path / "rows.parquet", "messages", own)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_are_named_in_both_turns(tmp_path, token):
    for bad in (row(user=f"<image>Locate the {token} sign"), row(answer=f"The {token}.{ANSWER}")):
        with pytest.raises(InputError) as error:
            check(tmp_path, *[row()] * (turns.CHECK_ROWS + 1), bad)
        assert f'row {turns.CHECK_ROWS + 2}: field "messages": expected text without {token}' in str(error.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(user="<image>Locate the <image>"), "expected 1 <image>, one per image of the row, not 2"),
        (row(user="Locate the dog"), "expected 1 <image>, one per image of the row, not 0"),
        (row(user="<image>Locate the <video>"), "expected text without <video>"),
        (row(user="<image>Locate the </think>"), "expected text without </think>"),
        (row(answer=f"<think>\n{ANSWER}"), "expected text without <think>"),
        (row(answer=f"Done.</think>{ANSWER}"), "expected at most one </think>"),
        (row(answer=f"See <image>.{ANSWER}"), "expected text without <image>"),
    ],
)
def test_misplaced_marks_are_named(tmp_path, bad, message):
    with pytest.raises(InputError, match=f'row 2: field "messages": {message}'):
        check(tmp_path, row(), bad)


def test_added_tokens_of_the_model_are_rejected(tmp_path):
    check(tmp_path, row(user="<image>Locate [unused1]^"))
    with pytest.raises(InputError, match="without <\\|new\\|>"):
        check(tmp_path, row(user="<image>Locate <|new|>"), own=("<|new|>", "[unused1]^", "</think>"))


def test_other_turn_types_pass_and_large_lists_are_checked(tmp_path):
    check(tmp_path, {"messages": "x", "images": ["a.png"]})
    check(tmp_path, {"messages": [{"role": "user", "content": [{"type": "image"}]}], "images": ["a.png"]})
    check(tmp_path, row(user="<image><image>Compare", images=2))
    kind = pa.struct({"role": pa.large_string(), "content": pa.large_string()})
    large = pa.schema({"messages": pa.large_list(kind), "images": pa.large_list(pa.string())})
    check(tmp_path, row(), schema=large)
    with pytest.raises(InputError, match="row 1"):
        check(tmp_path, row(user="<image><|im_end|>"), schema=large)


def test_a_hundred_thousand_rows_take_less_than_a_second(tmp_path):
    pq.write_table(pa.Table.from_pylist([row()] * 100_000), tmp_path / "rows.parquet")
    start = time.process_time()
    turns.check_turns(tmp_path / "rows.parquet", "messages")
    assert time.process_time() - start < 1
