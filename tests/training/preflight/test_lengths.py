"""Prompts that verl skips are counted as verl counts them, and reported."""

import re

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor
from verl.utils.dataset.rl_dataset import RLHFDataset

from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.preflight.lengths import check_prompt_lengths

SIZES = [(64, 64), (320, 96), (500, 375), (33, 20)]
SENTS = ["x", "the red star left of " * 12, "星形" * 40, "a b c"]


def write(folder, sizes=SIZES, sents=SENTS):
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(folder / f"{number}.png")
    samples = [
        Sample(str(number), f"{number}.png", *size, sent, (0, 0, 9, 9))
        for number, (size, sent) in enumerate(zip(sizes, sents, strict=True))
    ]
    write_rl_parquet(folder / "rl.parquet", samples, "train", folder)
    return folder / "rl.parquet"


@pytest.fixture
def compose(recipe, starter, tmp_path):
    def make(limit, *more):
        given = [f"actor_rollout_ref.model.path={starter}", f"data.train_files={write(tmp_path)}"]
        return recipe(*given, f"data.max_prompt_length={limit}", *more)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("limit", [40, 60, 90, 120, 10_000])
def test_verl_skips_as_many_rows_as_we_count(compose, starter, limit, capsys, tmp_path):
    config = compose(limit, "data.filter_overlong_prompts_workers=null", f"+data.cache_dir={tmp_path}")
    processor = AutoProcessor.from_pretrained(starter)
    kept = RLHFDataset(config.data.train_files, processor.tokenizer, config.data, processor)
    capsys.readouterr()
    if not len(kept):
        with pytest.raises(InputError, match="every prompt of data"):
            check_prompt_lengths(config, "data.train_files", len(SIZES))
        return
    assert check_prompt_lengths(config, "data.train_files", len(SIZES)) == len(kept)
    said = capsys.readouterr().out
    if len(kept) < len(SIZES):
        assert re.search(rf"rl\.parquet: verl skips {len(SIZES) - len(kept)} rows", said)
    else:
        assert not said


def test_a_long_prompt_is_refused_where_verl_does_not_filter(compose):
    config = compose(60, "data.filter_overlong_prompts=false")
    with pytest.raises(InputError, match=r'row 2: field "prompt": expected a prompt of at most data.max_prompt_length'):
        check_prompt_lengths(config, "data.train_files", len(SIZES))


@pytest.mark.slow
def test_counting_is_fast(recipe, tmp_path):
    rng, rows = np.random.default_rng(0), 100_000
    samples = (
        Sample(str(number), "a.png", *map(int, size), "the person on the left of the table", (0, 0, 9, 9))
        for number, size in enumerate(rng.integers(60, 81, (rows, 2)) * 8)
    )
    write_rl_parquet(tmp_path / "rl.parquet", samples, "train", tmp_path)
    config = recipe(f"data.train_files={tmp_path / 'rl.parquet'}", "data.max_prompt_length=8192")
    assert check_prompt_lengths(config, "data.train_files", rows) == rows
