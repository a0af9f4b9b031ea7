"""Every expression has one referent according to a resolver that sees only the sentence and the scene."""

import itertools
import random
import re

import pytest

from qwen3vl_rl.data.refshapes import ORDINALS, WORLDS, referrals
from qwen3vl_rl.data.refshapes.expressions import sample_absent
from qwen3vl_rl.data.refshapes.traces import absent_reasoning

pytestmark = pytest.mark.slow

COMPOSITION = re.compile(r"of the (.+)s (left of|right of|above|below) the (.+), the (\w+) from the (\w+)")


def matching(scene, words):
    """Objects that match words such as `small red circle`."""
    words = set(words) - {"shape"}
    return [i for i, s in enumerate(scene.shapes) if words <= {s.size, s.colour, s.shape}]


def resolve(scene, sent):
    """All objects that `sent` may mean."""
    sent = COMPOSITION.sub(r"the \4 \1 from the \5 \2 the \3", sent)
    words = sent.removeprefix("the ").split()
    x = [(s.visible_px[0] + s.visible_px[2]) / 2 for s in scene.shapes]
    y = [(s.visible_px[1] + s.visible_px[3]) / 2 for s in scene.shapes]
    sides = {"left of": (x, -1), "right of": (x, 1), "above": (y, -1), "below": (y, 1)}
    there = range(len(scene.shapes))  # objects on the side of the anchor that the words name, or all objects
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


def test_every_expression_has_exactly_its_target_as_referent(drawn):
    for referral in drawn:
        assert resolve(referral.scene, referral.query.sent) == [referral.query.target], referral.query.sent


def test_nothing_fits_an_expression_without_referent_and_its_trace_says_so(drawn):
    rng = random.Random(0)
    for referral in drawn:
        sent, category = sample_absent(referral.scene, rng)
        words = [word for word in sent.removeprefix("the ").split() if not word.endswith("most") and word[-3:] != "est"]
        assert matching(referral.scene, words) == []
        assert any(s.colour == category.colour or s.shape == category.shape for s in referral.scene.shapes)
        alike, reasoning = matching(referral.scene, [category.shape]), absent_reasoning(referral.scene, category)
        assert reasoning.count("[") == len(alike)
        assert (category.colour if alike else "There is no") in reasoning


def test_compositions_need_their_relation_and_traces_list_it():
    crowded = WORLDS["crowded"]
    for referral in itertools.islice(referrals("test", ("composition",), 0.0, crowded), 300):
        category, name, anchor, ordinal, side = COMPOSITION.fullmatch(referral.query.sent).groups()
        of_all = f"the {ordinal} {category} from the {side}"
        assert resolve(referral.scene, of_all) != [referral.query.target]
        (counted,) = re.findall(rf"The ones {name} it, (.*)\. I need the (\w+): ", referral.reasoning)
        there = [ordinal.removeprefix("the ") for ordinal in counted[0].split(", ")]
        assert there[ORDINALS.index(ordinal)] == counted[1]
        everyone = [resolve(referral.scene, f"the {o} {category} from the {side}")[0] for o in there]
        beside = set(resolve(referral.scene, f"the {category} {name} the {anchor}"))
        assert set(everyone) == beside and len(everyone) == len(beside)
