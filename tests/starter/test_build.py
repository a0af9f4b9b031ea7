"""The tiny Qwen3-VL behaves like Qwen3-VL-Thinking in what the pipeline relies on."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from examples.starter.build import build_checkpoint, build_config, build_tokenizer, trained_words
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import render_prompt, target_text

pytestmark = pytest.mark.slow

PROMPT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": render_prompt("qwen3", "the cat")}]}]


@pytest.fixture(scope="module")
def processor(starter):
    return AutoProcessor.from_pretrained(starter)


def test_size(starter):
    model = AutoModelForImageTextToText.from_pretrained(starter)
    assert 5.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 6e6
    assert model.dtype == torch.float32


@pytest.mark.parametrize("reasoning", ["", "It is left.", "Two\nlines."])
def test_a_target_continues_the_generation_prompt(processor, reasoning):
    start = processor.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    assert start.endswith("<|im_start|>assistant\n<think>\n")
    target = target_text(reasoning, (1, 2, 3, 4), "the cat")
    whole = processor.apply_chat_template([*PROMPT, {"role": "assistant", "content": target}], tokenize=False)
    assert whole == start + target + "<|im_end|>\n"


def test_the_tokenizer_decodes_any_text_that_it_encodes(processor):
    for text in ["[12, 345]", "Ünïcode 漢字 🙂", "<think>\na\n</think>\n\n```json\n", "  two  spaces"]:
        assert processor.tokenizer.decode(processor.tokenizer.encode(text)) == text


def test_every_digit_is_one_token(processor):
    assert processor.tokenizer.tokenize("1000 1000") == [*"1000", processor.tokenizer.tokenize(" ")[0], *"1000"]


def test_the_same_seed_gives_the_same_weights(starter, tmp_path):
    build_tokenizer.cache_clear()
    trained_words.cache_clear()
    build_checkpoint(tmp_path, seed=0)
    assert (tmp_path / "model.safetensors").read_bytes() == (starter / "model.safetensors").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == (starter / "tokenizer.json").read_bytes()


def test_sizes_can_be_changed_and_typos_are_named(processor):
    config = build_config(processor.tokenizer, {"text_config.num_hidden_layers": 6})
    assert config.text_config.num_hidden_layers == 6
    with pytest.raises(InputError, match=r"--set text_config\.layers: expected a field"):
        build_config(processor.tokenizer, {"text_config.layers": 6})
