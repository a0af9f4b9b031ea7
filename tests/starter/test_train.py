"""The starter's training loop gives the model the same tokens as transformers, and computes the same logits."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from examples.starter import train as starter_train
from examples.starter.batches import IGNORE, Collator
from examples.starter.build import build_checkpoint
from examples.starter.muon import orthogonalize
from examples.starter.step import fixed_images
from examples.starter.tasks import ANY_OBJECT, OTHER_OBJECT, starter_examples
from examples.starter.train import load, parts_of, score, take_vision, train
from qwen3vl_rl.data.refshapes import ORDERS, PLAIN
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import parse_box_1000

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[2] / "examples/starter/checkpoint"


@pytest.fixture(scope="module", params=["starter", "internvl"])
def batch_and_parts(request):
    model, processor = load(request.getfixturevalue(request.param), "cpu")
    (merger, *_) = parts_of(model).mergers(model)
    (*_, last) = (part for part in merger.modules() if isinstance(part, torch.nn.Linear))
    torch.nn.init.normal_(last.weight, std=0.5)  # so that the image matters
    examples, collate = list(itertools.islice(starter_examples("test", ramp=1), 6)), Collator(processor)
    return model, processor, examples, collate(collate.encode(examples))


def test_logits_equal_those_of_transformers(batch_and_parts):
    model, processor, examples, batch = batch_and_parts
    fixed = fixed_images(model, processor, Collator(processor).before)
    with torch.no_grad():
        logits = fixed.logits(batch)
    plain = AutoModelForImageTextToText.from_config(model.config).eval()
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
            expected = plain(**inputs).logits[0, fixed.end :]
        found = logits[row, : prompt - fixed.end]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)  # resized pictures are equal up to rounding


def test_labels_are_the_target_and_its_end(batch_and_parts):
    model, processor, examples, batch = batch_and_parts
    opening = "" if model.config.model_type == "qwen3_vl" else "<think>\n"
    for row, example in enumerate(examples):
        target = batch["labels"][row][batch["labels"][row] != IGNORE]
        assert processor.tokenizer.decode(target) == opening + example.target + "<|im_end|>"


def test_the_curriculum_grows_and_keeps_answers_direct():
    examples = list(itertools.islice(starter_examples("test", ramp=300), 900))
    detect = [len(e.scene.shapes) for e in examples if "every object" in e.prompt]
    assert set(detect[:50]) == {1} and max(detect[300:]) == PLAIN.objects[1]
    answers = [e for e in examples if e.target.startswith("\n</think>") and "every object" not in e.prompt]
    assert len(answers) > 80
    others = [e for e in examples if not e.target.startswith("\n</think>")]
    assert all("every object" in e.prompt or "Again" in e.target for e in others), "no reasoning to a referent"
    assert not any(order.superlative in e.prompt for e in answers for order in ORDERS)


def test_narration_ends_at_the_object_that_is_answered():
    examples = list(itertools.islice(starter_examples("test", ramp=0), 600))
    narrations = [e for e in examples if "Again" in e.target]
    free = [e for e in narrations if ANY_OBJECT in e.prompt or OTHER_OBJECT in e.prompt]
    guided = [e for e in narrations if re.search(r"\bone [a-z ]+ (from|with the|counted from)", e.prompt)]
    assert len(free) > 80 and len(guided) > 80 and len(free) + len(guided) == len(narrations)
    for example in narrations:
        reasoning, answer = example.target.split("</think>")
        assert ", first: [" in reasoning
        assert parse_box_1000(reasoning[reasoning.rindex("Again") :]) == parse_box_1000(answer)
    for example in guided:
        group = re.search(r"\bone ([a-z ]+?) (from|with the|counted from)", example.prompt)[1]
        assert f"{group}s " in example.target.lower(), "the list must be of the group asked for"


def test_orthogonalize_keeps_directions_and_equalizes_singular_values():
    matrices = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalize(matrices).float()
    sizes = torch.linalg.svdvals(found)
    assert sizes.min() > 0.6 and sizes.max() < 1.3  # Jordan's coefficients bring them only near 1
    alignment = torch.einsum("nri,nrc,nic->ni", u, found, v)
    torch.testing.assert_close(alignment, sizes, atol=0.35, rtol=0)
    torch.testing.assert_close(orthogonalize(matrices.mT), orthogonalize(matrices).mT)


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.parametrize("checkpoint", ["starter", "internvl"])
def test_a_few_steps_reduce_the_loss(checkpoint, request):
    model, processor = load(request.getfixturevalue(checkpoint), "cpu")
    examples = list(itertools.islice(starter_examples("few", ramp=10**9), 8))
    endless = lambda seed: itertools.cycle(examples)  # noqa: E731
    settings = dict(batch_size=8, lr=0.01, seed=0, workers=0)
    first = train(model, processor, endless, steps=1, **settings)["loss"]
    train(model, processor, endless, steps=25, **settings)
    assert train(model, processor, endless, steps=1, **settings)["loss"] < 0.7 * first


@pytest.mark.long
@pytest.mark.engine
def test_a_batch_in_parts_is_the_same_step(starter):
    examples = list(itertools.islice(starter_examples("few", ramp=0), 8))
    endless = lambda seed: itertools.cycle(examples)  # noqa: E731
    weights = []
    for parts in (1, 3):
        model, processor = load(starter, "cpu")
        run = train(model, processor, endless, steps=1, batch_size=8, lr=0.01, seed=0, workers=0, parts=parts)
        weights.append((run["loss"], model.model.language_model.layers[0].mlp.up_proj.weight))
    assert weights[0][0] == pytest.approx(weights[1][0], abs=1e-4)
    torch.testing.assert_close(weights[0][1], weights[1][1], atol=2e-3, rtol=0)  # Muon's steps have a size of 0.01


def test_another_language_model_takes_the_vision_tower(starter, tmp_path):
    build_checkpoint(tmp_path, 1, {"text_config.hidden_size": 128, "vision_config.out_hidden_size": 128})
    model, _ = load(tmp_path, "cpu")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    take_vision(model, starter)
    taken, kept = load(starter, "cpu")[0].model.visual.state_dict(), []
    for name, weight in model.state_dict().items():
        _, in_vision, part = name.partition("visual.")
        if in_vision and weight.shape == taken[part].shape:
            torch.testing.assert_close(weight, taken[part])
        else:
            torch.testing.assert_close(weight, before[name])
            kept += [part] * bool(in_vision)
    assert kept and all("linear_fc2" in part and "merger" in part for part in kept)


def test_another_kind_of_tower_is_rejected(starter, tmp_path):
    build_checkpoint(tmp_path, 1, {"vision_config.depth": 3})
    with pytest.raises(
        InputError, match=r"--vision .*: expected a vision tower of the model's shape, it differs in blocks.3"
    ):
        take_vision(load(starter, "cpu")[0], str(tmp_path))


def test_a_start_excludes_another_vision_tower(monkeypatch, starter, tmp_path):
    with pytest.raises(InputError, match="--vision: expected no --start, which comes with a vision tower"):
        run_main(monkeypatch, tmp_path, "--start", str(starter), "--vision", str(starter))


@pytest.mark.parametrize("family", ["internvl", "qwen3_vl"])
def test_a_start_is_of_a_family_already(monkeypatch, starter, tmp_path, family):
    with pytest.raises(InputError, match=f"--family {family}: expected no --start, whose checkpoint is of a family"):
        run_main(monkeypatch, tmp_path, "--start", str(starter), "--family", family)


def run_main(monkeypatch, out: Path, *arguments: str) -> None:
    small = ["--steps", "5", "--batch-size", "4", "--workers", "0", "--score", "0"]
    monkeypatch.setattr("sys.argv", ["train", "--out", str(out), *small, *arguments])
    starter_train.main()


@pytest.mark.engine
def test_an_interrupted_training_resumes(monkeypatch, tmp_path):
    """A kill after two steps; the next run trains the other three on new samples."""
    seeds, write = [], starter_train.write_progress

    def examples(seed: str, **options):
        seeds.append((seed, options["begun"]))
        return starter_examples(seed, **options)

    def write_and_die(path: Path, progress: dict) -> None:
        write(path, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(starter_train, "SAVE_EVERY", 2)
    monkeypatch.setattr(starter_train, "starter_examples", examples)
    monkeypatch.setattr(starter_train, "write_progress", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        run_main(monkeypatch, tmp_path / "out")
    before = torch.load(tmp_path / "out" / "progress.pt", weights_only=True)
    assert before["step"] == 2

    taken = []
    monkeypatch.setattr(starter_train, "schedule", lambda step, _: taken.append(step) or 0.0)  # keeps the weights
    monkeypatch.setattr(starter_train, "write_progress", write)
    run_main(monkeypatch, tmp_path / "out")
    assert taken == [2, 3, 4] and seeds == [("starter-0-0", 0), ("starter-0-2-0", 4)]
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["training"]["samples"] == 20
    assert not (tmp_path / "out" / "progress.pt").exists()
    model, _ = load(tmp_path / "out", "cpu")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before["model"][name].bfloat16().float()), name
    run_main(monkeypatch, tmp_path / "out")  # nothing is left to do
    assert taken == [2, 3, 4]


def test_another_run_in_the_folder_is_rejected(monkeypatch, tmp_path):
    arguments = {"steps": 7, "mix": "starter"}
    starter_train.write_progress(tmp_path / "progress.pt", {"step": 1, "arguments": arguments})
    assert starter_train.read_progress(tmp_path / "progress.pt", arguments, "cpu")["step"] == 1
    with pytest.raises(InputError, match=r"progress.pt: holds a run with .*'steps': 7"):
        run_main(monkeypatch, tmp_path)


@pytest.mark.long
@pytest.mark.engine
def test_another_start_is_another_run(capsys, monkeypatch, starter, tmp_path):
    run_main(monkeypatch, tmp_path, "--start", str(starter))
    run_main(monkeypatch, tmp_path, "--start", str(starter))
    assert "already trained with these arguments" in capsys.readouterr().out
    arguments = json.loads((tmp_path / "scores.json").read_text())["arguments"]
    assert arguments["start"] == str(starter)

    known = {name: value for name, value in arguments.items() if name not in ("workers", "score")}
    starter_train.write_progress(tmp_path / "progress.pt", {"step": 1, "arguments": known})
    with pytest.raises(InputError, match=r"progress.pt: holds a run with .*'start': "):
        run_main(monkeypatch, tmp_path, "--start", str(CHECKPOINT))


@pytest.mark.long
@pytest.mark.engine
def test_the_committed_starter_sees_and_leaves_reasoning_to_training():
    model, processor = load(CHECKPOINT, "cpu")
    scores = score(model, processor, 24, PLAIN, max_new_tokens=60)
    assert scores["refshapes_testA"]["acc_0.5"] > 80  # attributes and superlatives: one look suffices
    assert scores["refshapes_testB"]["acc_0.5"] < 50
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 12e6
