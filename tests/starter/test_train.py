"""The starter's own loop feeds the model what transformers would: same tokens, same logits."""

import itertools

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from examples.starter.train import ANY_GROUP, IGNORE, Collator, Geometry, load, starter_examples, train
from qwen3vl_rl.data.refshapes import OBJECTS, ORDERS


@pytest.fixture(scope="module")
def batch_and_parts(starter):
    model, processor = load(starter, "cpu")
    torch.nn.init.normal_(model.model.visual.merger.linear_fc2.weight, std=0.5)  # so that the image matters
    examples, collate = list(itertools.islice(starter_examples("test", ramp=1), 6)), Collator(processor)
    return model, processor, examples, collate(collate.encode(examples))


def test_logits_equal_transformers_own_path(batch_and_parts, starter):
    model, processor, examples, batch = batch_and_parts
    geometry, length = Geometry(model, processor, "cpu"), batch["input_ids"].shape[1]
    with torch.no_grad():
        logits = model(
            input_ids=batch["input_ids"],
            position_ids=geometry.text_positions(batch["input_ids"], 512)[:, :, :length].expand(3, len(examples), -1),
            pixel_values=geometry.pixel_values(batch["index"], batch["palette"]),
            **geometry.vision_inputs(len(examples)),
        ).logits
    plain = AutoModelForImageTextToText.from_pretrained(starter)
    plain.load_state_dict(model.state_dict())
    for row, example in enumerate(examples):
        content = [{"type": "image"}, {"type": "text", "text": example.prompt}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs = processor(text=[text], images=[Image.fromarray(example.scene.render())], return_tensors="pt")
        prompt = inputs["input_ids"].shape[1]
        assert batch["input_ids"][row, :prompt].tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            torch.testing.assert_close(logits[row, :prompt], plain(**inputs).logits[0], atol=1e-4, rtol=1e-4)


def test_labels_are_the_target_and_its_end(batch_and_parts):
    _, processor, examples, batch = batch_and_parts
    for row, example in enumerate(examples):
        target = batch["labels"][row][batch["labels"][row] != IGNORE]
        assert processor.tokenizer.decode(target) == example.target + "<|im_end|>"


def test_the_curriculum_grows_and_keeps_answers_direct():
    examples = list(itertools.islice(starter_examples("test", ramp=300), 900))
    detect = [len(e.scene.shapes) for e in examples if "every object" in e.prompt]
    assert set(detect[:60]) == {1} and max(detect[300:]) == OBJECTS[1]
    answers = [e for e in examples if "every object" not in e.prompt]
    assert len(answers) > 80
    assert all(e.target.startswith("\n</think>") for e in answers), "the starter must not reason to a referent"
    assert not any(order.superlative in e.prompt for e in answers for order in ORDERS)


def test_a_group_of_ones_own_choice_is_named_in_the_reasoning():
    chosen = [e for e in itertools.islice(starter_examples("test", ramp=0), 200) if ANY_GROUP in e.prompt]
    assert len(chosen) > 50
    assert all(", first: [" in e.target.split("</think>")[0] for e in chosen)


def test_a_few_steps_reduce_the_loss(starter):
    model, processor = load(starter, "cpu")
    examples = list(itertools.islice(starter_examples("few", ramp=10**9), 8))
    endless = lambda seed: itertools.cycle(examples)  # noqa: E731
    settings = dict(batch_size=8, lr=2e-3, seed=0, workers=0)
    first = train(model, processor, endless, steps=1, **settings)["loss"]
    train(model, processor, endless, steps=25, **settings)
    assert train(model, processor, endless, steps=1, **settings)["loss"] < 0.7 * first
