"""Every defect of a checkpoint is found, each with a checkpoint that has only this defect."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from qwen3vl_rl.evaluation.diagnosis.checkpoint import HEAD, look, published_size
from qwen3vl_rl.models.families import SIZES
from qwen3vl_rl.models.fp8 import quantize_fp8

pytestmark = pytest.mark.slow

UNLIKE_QWENS = {"context", "pixels"}  # expected findings: the starter is smaller than Qwen3-VL


@pytest.fixture
def broken(starter, tmp_path) -> Path:
    """A copy of the starter that a test may break."""
    return Path(shutil.copytree(starter, tmp_path / "checkpoint"))


def attention(checkpoint: Path) -> dict[str, str]:
    """The findings that need attention, without those of `UNLIKE_QWENS`."""
    return {one.name: one.found for one in look(checkpoint) if not (one.is_fine or one.name in UNLIKE_QWENS)}


def change_json(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_weights(checkpoint: Path, change: Callable[[dict], None]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


def test_an_intact_checkpoint_needs_attention_only_for_its_size(starter):
    findings = list(look(starter))
    assert attention(starter) == {}
    assert {one.name for one in findings if not one.is_fine} == UNLIKE_QWENS
    assert all(one.means and one.change for one in findings if not one.is_fine)


def test_scales_of_a_quantized_checkpoint_belong_to_its_model(starter, tmp_path):
    quantize_fp8(starter, tmp_path / "fp8")
    assert attention(tmp_path / "fp8") == {}


def test_a_published_size_is_known_by_its_shape_alone():
    assert [published_size(shape) for _, shape in SIZES.values()] == [name.upper() for name in SIZES]
    assert published_size(replace(SIZES["8b"][1], num_hidden_layers=1)) == "no published size"


def test_another_architecture_is_named_and_nothing_else_looked_at(broken):
    change_json(broken / "config.json", lambda c: c.update(architectures=["Qwen2_5_VLForConditionalGeneration"]))
    assert attention(broken) == {"architecture": "Qwen2_5_VLForConditionalGeneration"}
    assert len(list(look(broken))) == 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.pop("model.visual.merger.norm.weight"), "model.visual.merger.norm.weight is missing"),
        (lambda t: t.update(extra=t["model.visual.merger.norm.weight"].clone()), "extra is not part of this model"),
        (
            lambda t: t.update({"model.visual.merger.norm.weight": t["model.visual.merger.norm.weight"][:-1].clone()}),
            "model.visual.merger.norm.weight has shape [191], expected [192]",
        ),
    ],
)
def test_tensors_are_compared_with_the_configuration(broken, change, found):
    change_weights(broken, change)
    assert attention(broken) == {"weights": found}


def test_an_untied_model_needs_its_own_head(broken):
    def untie(config: dict) -> None:
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False

    change_json(broken / "config.json", untie)
    assert attention(broken) == {"weights": "lm_head.weight is missing"}


def test_the_published_8b_has_one_key_for_untied_embeddings(broken):
    """Its text_config and the class in transformers lack the key."""

    def say_once(config: dict) -> None:
        config["tie_word_embeddings"] = False
        del config["text_config"]["tie_word_embeddings"]

    change_json(broken / "config.json", say_once)
    change_weights(broken, lambda t: t.update({HEAD: t["model.language_model.embed_tokens.weight"].clone()}))
    assert attention(broken) == {}


def test_keys_that_disagree_on_tied_embeddings_are_named(broken):
    change_json(broken / "config.json", lambda config: config["text_config"].update(tie_word_embeddings=False))
    found = attention(broken)["tied embeddings"]
    assert found == "tie_word_embeddings=true, text_config.tie_word_embeddings=false"


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("assistant\\n<think>\\n", "assistant\\n", "opens no <think>"),
        ("{%- for message in messages", "{{- 'You are a helpful assistant.' -}}{%- for message in messages", "helpful"),
        (
            "<|vision_start|><|image_pad|>",
            "<|image_pad|>",
            "at '<|im_start|>user\\n<|image_pad|>",
        ),
    ],
)
def test_the_template_is_compared_with_qwens(broken, old, new, found):
    path = broken / "chat_template.jinja"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert list(attention(broken)) == ["chat template"] and found in attention(broken)["chat template"]


def test_numbers_of_special_tokens_are_those_of_the_tokenizer(broken):
    change_json(broken / "config.json", lambda config: config.update(image_token_id=3))
    assert attention(broken)["special tokens"].startswith("image_token_id=3, but <|image_pad|> is ")


def test_the_end_of_a_turn_is_checked(broken):
    change_json(broken / "tokenizer_config.json", lambda config: config.update(eos_token="<|endoftext|>"))
    assert "eos_token is <|endoftext|>" in attention(broken)["special tokens"]


def test_digits_are_single_tokens(broken):
    def merge(tokenizer: dict) -> None:
        """Give the tokenizer a token for 10."""
        tokenizer["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["10"] = vocabulary.pop(next(reversed(vocabulary)))
        tokenizer["model"]["merges"] = [["1", "0"]]

    change_json(broken / "tokenizer.json", merge)
    assert attention(broken)["digits"] == "1000 is 3 tokens, expected 4"


def test_patches_of_model_and_processor_agree(broken):
    def widen(processor: dict) -> None:
        processor["image_processor"]["patch_size"] = 14

    change_json(broken / "processor_config.json", widen)
    assert attention(broken) == {"patches": "14 px, merged 2 x 2; config.json says 16 px, merged 2 x 2"}


def test_pictures_are_scaled_as_qwens(broken):
    change_json(broken / "processor_config.json", lambda c: c["image_processor"].update(image_mean=[0.48, 0.46, 0.41]))
    found = {one.name: one.found for one in look(broken)}["pixels"]
    assert found.startswith("mean [0.48, 0.46, 0.41]")


def test_answers_end_with_the_turn(broken):
    change_json(broken / "generation_config.json", lambda config: config.update(eos_token_id=0))
    assert attention(broken) == {}  # the tokenizer's eos_token still stops it
    change_json(broken / "tokenizer_config.json", lambda config: config.update(eos_token="<|endoftext|>"))
    assert attention(broken)["generation config"] == "stops at ['!', '<|endoftext|>']"
    (broken / "generation_config.json").unlink()
    assert attention(broken)["generation config"] == "stops at ['<|endoftext|>']"


def test_a_checkpoint_without_a_processor_is_named(broken):
    for name in ("processor_config.json", "tokenizer.json"):
        (broken / name).unlink()
    assert list(attention(broken)) == ["processor"]
