"""The world keeps its promises: one referent each, true boxes, determinism. The resolver here reads the sentence and
the scene, not the generator's choices."""

import hashlib
import itertools
import json
import random
import re

import numpy as np
import pytest

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.refshapes import COLOURS, HEIGHT, ORDINALS, PLAIN, SHAPES, SIDES_PX, WIDTH, WORLDS
from qwen3vl_rl.data.samples import check_images, read_samples
from qwen3vl_rl.grounding import iou, parse_box_1000, px_to_1000, target_text

COMPOSITION = re.compile(r"of the (.+)s (left of|right of|above|below) the (.+), the (\w+) from the (\w+)")


def matching(scene, words):
    """Objects that fit `small red circle` and the like."""
    words = set(words) - {"shape"}
    return [i for i, s in enumerate(scene.shapes) if words <= {s.size, s.colour, s.shape}]


def resolve(scene, sent):
    """All objects that `sent` may mean."""
    sent = COMPOSITION.sub(r"the \4 \1 from the \5 \2 the \3", sent)
    words = sent.removeprefix("the ").split()
    x = [(s.visible_px[0] + s.visible_px[2]) / 2 for s in scene.shapes]
    y = [(s.visible_px[1] + s.visible_px[3]) / 2 for s in scene.shapes]
    sides = {"left of": (x, -1), "right of": (x, 1), "above": (y, -1), "below": (y, 1)}
    there = range(len(scene.shapes))  # what stands on the side that the words end with, if they do
    if found := [name for name in sides if f" {name} the " in sent]:
        rest, anchor = " ".join(words).split(f" {found[0]} the ")
        (at,), words, (key, sign) = matching(scene, anchor.split()), rest.split(), sides[found[0]]
        there = [i for i in there if sign * (key[i] - key[at]) > 0]
    if words[0] in ORDINALS and "from" in words:
        members = [i for i in matching(scene, words[1 : words.index("from")]) if i in there]
        key = {"left": x, "right": [-v for v in x], "top": y, "bottom": [-v for v in y]}[words[-1]]
        return [sorted(members, key=key.__getitem__)[ORDINALS.index(words[0])]]
    keys = {
        "leftmost": x,
        "rightmost": [-v for v in x],
        "topmost": y,
        "bottommost": [-v for v in y],
        "largest": [-s.side_px for s in scene.shapes],
        "smallest": [s.side_px for s in scene.shapes],
    }
    if words[0] in keys:
        members = matching(scene, words[1:])
        best = min(keys[words[0]][i] for i in members)
        return [i for i in members if keys[words[0]][i] == best]
    return [i for i in matching(scene, words) if i in there]


@pytest.fixture(scope="module", params=WORLDS)
def world(request):
    return WORLDS[request.param]


@pytest.fixture(scope="module")
def drawn(world):
    return list(itertools.islice(refshapes.referrals("test", world.kinds, 0.2, world), 2000))


def test_every_expression_has_exactly_its_target_as_referent(drawn):
    for referral in drawn:
        assert resolve(referral.scene, referral.query.sent) == [referral.query.target], referral.query.sent


def test_compositions_need_their_relation_and_their_traces_count_what_stands_there():
    crowded = WORLDS["crowded"]
    for referral in itertools.islice(refshapes.referrals("test", ("composition",), 0.0, crowded), 300):
        category, name, anchor, ordinal, side = COMPOSITION.fullmatch(referral.query.sent).groups()
        of_all = f"the {ordinal} {category} from the {side}"
        assert resolve(referral.scene, of_all) != [referral.query.target]
        (counted,) = re.findall(rf"The ones {name} it, (.*)\. I need the (\w+): ", referral.query.reasoning)
        there = [ordinal.removeprefix("the ") for ordinal in counted[0].split(", ")]
        assert there[ORDINALS.index(ordinal)] == counted[1]
        everyone = [resolve(referral.scene, f"the {o} {category} from the {side}")[0] for o in there]
        beside = set(resolve(referral.scene, f"the {category} {name} the {anchor}"))
        assert set(everyone) == beside and len(everyone) == len(beside)


def test_kinds_come_in_equal_parts_and_a_fifth_is_amodal(drawn, world):
    for kind in world.kinds:
        assert 0.8 < sum(r.query.kind == kind for r in drawn) / 2000 * len(world.kinds) < 1.2
    assert {len(r.scene.shapes) for r in drawn} == set(range(world.objects[0], world.objects[1] + 1))
    assert 300 < sum(r.amodal for r in drawn) < 500
    assert all(refshapes.is_occluded(r.target) for r in drawn if r.amodal)


def test_visible_boxes_are_the_pixels_that_show(drawn):
    for referral in drawn[:300]:
        for i, shape in enumerate(referral.scene.shapes):
            rows, columns = np.nonzero(referral.scene.index == i + 1)
            assert shape.visible_px == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            x1, y1, x2, y2 = shape.amodal_px
            assert 0 <= x1 < x2 <= WIDTH and 0 <= y1 < y2 <= HEIGHT
            assert shape.hidden_by is not None or shape.visible_px == shape.amodal_px
            assert iou(shape.visible_px, shape.amodal_px) > 0


def test_rendered_colours_are_the_named_ones(drawn):
    scene = drawn[0].scene
    image = scene.render()
    for i, shape in enumerate(scene.shapes):
        assert {tuple(int(v) for v in pixel) for pixel in image[scene.index == i + 1]} == {COLOURS[shape.colour]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side_px", [bound for bounds in SIDES_PX.values() for bound in bounds])
def test_stencils_fill_their_extent(shape, side_px):
    mask = refshapes.stencil(shape, side_px)
    assert mask.any(0).all() and mask.any(1).all()
    assert 0.9 * side_px - 1 <= max(mask.shape) <= side_px


def test_the_trace_ends_in_the_target_and_parses_to_the_answer(drawn):
    for referral in drawn[:300]:
        box = px_to_1000(referral.xyxy_px, WIDTH, HEIGHT)
        assert parse_box_1000(target_text(referral.reasoning, box, referral.query.sent)) == box
        visible = list(px_to_1000(referral.target.visible_px, WIDTH, HEIGHT))
        assert f": {visible}." in referral.reasoning


def test_traces_of_attributes_list_what_has_all_of_them(drawn):
    for referral in drawn:
        if referral.query.kind == "attribute":
            category = referral.query.sent.removeprefix("the ")
            assert referral.query.reasoning.startswith(f"{category.capitalize()}s from left to right, first: [")
            assert referral.query.reasoning.count("[") == 2


def test_samples_stay_those_of_published_results():
    drawn = itertools.islice(refshapes.referrals("refshapes_val-0", PLAIN.kinds, 0.2), 500)
    asked = repr([(r.query.sent, r.xyxy_px, r.amodal) for r in drawn])
    assert (
        hashlib.sha256(asked.encode()).hexdigest() == "72954412b884bdda180e492664063ac490ae576571bee6b573ed115506aa6742"
    )


def test_files_are_deterministic_and_valid(tmp_path):
    for name in ("a", "b"):
        refshapes.build(tmp_path / name, train=40, val=10, seed=3)
    refshapes.build(tmp_path / "c", train=40, val=10, seed=4)
    files = [
        "refshapes_train.jsonl",
        "refshapes_train_traces.jsonl",
        *(f"eval/{split}.jsonl" for split in PLAIN.splits),
    ]
    for file in files:
        first, second, other = ((tmp_path / name / file).read_text() for name in ("a", "b", "c"))
        assert first == second != other
    for file in [files[0], *files[2:]]:
        samples = read_samples(tmp_path / "a" / file)
        assert len(samples) == (40 if file == files[0] else 10)
        check_images(((tmp_path, n, s) for n, s in enumerate(samples, start=1)), tmp_path / "a" / "images")
    assert all(s.modal_xyxy_px for s in read_samples(tmp_path / "a/eval/refshapes_amodal_val.jsonl"))


def test_splits_hold_their_kinds(tmp_path, world):
    refshapes.build(tmp_path, train=4, val=40, seed=0, world=world)
    for split, kinds in world.splits.items():
        rows = [json.loads(line) for line in (tmp_path / f"eval/{split}.jsonl").open()]
        assert {row["kind"] for row in rows} == set(kinds)


def test_scenes_of_a_seed_do_not_depend_on_anything_else():
    first, second = (refshapes.sample_scene(random.Random(5)) for _ in range(2))
    assert first.shapes == second.shapes and (first.index == second.index).all()
