"""SFT rows are tokenised exactly as generation reads and writes them."""

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoConfig, AutoProcessor

from qwen3vl_rl.grounding import render_prompt, target_text
from qwen3vl_rl.models.families.internvl import INTERNVL
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL
from sft.dataset import ThinkingSFTDataset

PROMPT = "<image>" + render_prompt("qwen3", "the red star")


def load_row(processor, folder, answer: str, limits: dict, size=(160, 128), **settings):
    """The one row of a dataset with an image of `size` (width, height)."""
    Image.effect_noise(size, 80).convert("RGB").save(folder / "image.png")
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}]
    row = {"messages": messages, "images": [str(folder / "image.png")]}
    pd.DataFrame([row]).to_parquet(folder / "rows.parquet")
    options = {"apply_chat_template_kwargs": {"processor_kwargs": "${pixels}"}}
    data = {"pad_mode": "no_padding", "max_length": 8192, **options, **settings}
    config = OmegaConf.create({"pixels": limits, "data": data}).data
    return ThinkingSFTDataset(str(folder / "rows.parquet"), processor.tokenizer, config, processor)[0]


def load_processor(checkpoint):
    """As verl loads it."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.config = AutoConfig.from_pretrained(checkpoint)
    return processor


@pytest.fixture(scope="session")
def processor(starter):
    return load_processor(starter)


@pytest.fixture
def load(processor, tmp_path):
    """`load(answer, size)`: the one row of a dataset with an image of `size` (width, height)."""

    def load(answer: str, size=(160, 128), pixels=(784, 50176), **settings):
        limits = {"min_pixels": pixels[0], "max_pixels": pixels[1]}
        return load_row(processor, tmp_path, answer, limits, size, **settings)

    return load


@pytest.mark.parametrize(
    ("reasoning", "size"),
    [
        ("Stars: [1, 2, 3, 4].\nThe red one is it.", (160, 128)),
        ("", (500, 375)),  # sides that no patch divides, and more pixels than the limit
        ("\n", (427, 640)),
        ("it is </think> not over", (33, 20)),
    ],
)
def test_prompt_is_what_generation_sees_and_target_what_it_writes(load, processor, tmp_path, reasoning, size):
    answer = target_text(reasoning, (1, 2, 300, 1000), "the red star")
    row = load(answer, size)
    content = [{"type": "image", "image": Image.open(tmp_path / "image.png")}, {"type": "text", "text": PROMPT[7:]}]
    seen = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"min_pixels": 784, "max_pixels": 50176},
    )
    prompt = seen["input_ids"][0]
    written = processor.tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert row["input_ids"].tolist() == prompt.tolist() + written
    assert row["loss_mask"].tolist() == [0] * len(prompt) + [1] * len(written)
    assert processor.tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n")
    sent = row["multi_modal_inputs"]["pixel_values"]
    assert sent.nbytes * 8 == seen["pixel_values"].nbytes
    assert torch.equal(QWEN3_VL.prompts.restore_pixels(sent, processor.image_processor), seen["pixel_values"])


def test_loss_covers_the_whole_turn_as_in_the_release(load, processor):
    answer = target_text("The red one.", (1, 2, 300, 1000), "the red star")
    ours, row = load(answer), load(answer, loss_span="turn")
    carries_loss = row["input_ids"][row["loss_mask"].bool()]
    assert processor.tokenizer.decode(carries_loss) == f"<think>\n{answer}<|im_end|>\n"
    assert row["input_ids"].tolist() == ours["input_ids"].tolist() + processor.tokenizer.encode("\n")


def test_positions_count_the_image_once_per_axis(load):
    positions = load(target_text("", (1, 2, 3, 4), "x"))["position_ids"]
    assert positions.shape[0] == 4  # text, then time, height and width of the multimodal rotary embedding
    assert positions[0].tolist() == list(range(positions.shape[1]))
    assert positions[1:].max() < positions.shape[1] - 1


@pytest.mark.parametrize("size", [(640, 480), (320, 320)])
def test_images_are_resized_into_the_recipes_limits(load, size):
    _, rows, columns = load("x", size)["multi_modal_inputs"]["image_grid_thw"][0].tolist()
    assert rows * columns * 16 * 16 <= 50176
    assert abs(columns / rows - size[0] / size[1]) < 0.2


@pytest.mark.parametrize("limits", [{}, {"max_patches": 1}])
def test_tiles_are_bytes_on_their_way_to_the_trainer(internvl, tmp_path, limits):
    processor = load_processor(internvl)
    row = load_row(processor, tmp_path, "x", limits, (320, 150))
    content = [{"type": "image", "image": Image.open(tmp_path / "image.png")}]
    seen = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=limits,
    )["pixel_values"]
    sent = row["multi_modal_inputs"]["pixel_values"]
    assert len(seen) == (1 if limits else 3) and sent.nbytes * 4 == seen.nbytes
    assert torch.equal(INTERNVL.prompts.restore_pixels(sent, processor.image_processor), seen)


def test_an_answer_opens_its_reasoning_if_the_template_does_not(internvl, tmp_path):
    processor = load_processor(internvl)
    answer = target_text("The red one.", (1, 2, 300, 1000), "the red star")
    for span, end in (("answer", ""), ("turn", "\n")):
        row = load_row(processor, tmp_path, answer, {"max_patches": 1}, loss_span=span)
        carries_loss = row["input_ids"][row["loss_mask"].bool()]
        assert processor.tokenizer.decode(carries_loss) == f"<think>\n{answer}<|im_end|>\n".removesuffix("\n") + end
        assert processor.tokenizer.decode(row["input_ids"]).count("<think>") == 1
    assert row["position_ids"].tolist() == list(range(len(row["input_ids"])))
    processor.save_pretrained(tmp_path / "saved")
    saved = (tmp_path / "saved" / "processor_config.json").read_text()
    assert '"patch_size": null' not in saved and saved == (internvl / "processor_config.json").read_text()
