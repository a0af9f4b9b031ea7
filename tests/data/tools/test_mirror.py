"""Expressions for mirrored images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_rl.data.tools.mirror import CannotMirrorError, load_rules, mirror

WORDS = [
    *load_rules().swap,
    "right",
    "left",
    "the",
    "on",
    "man",
    "above",
    "in",
    "front",
    "of",
    "next",
    "to",
    "over",
    "all",
]
WORDS += [
    "second",
    "from",
    "is",
    "2nd",
    "bright",
    "corner",
    "LEFT",
    "Right",
    "top",
    "behind",
    ",",
    "-",
    "side",
    "up",
    "$",
]


@pytest.mark.parametrize(
    ("sent", "mirrored"),
    [
        ("left", "right"),
        ("leftmost cup", "rightmost cup"),
        ("left-most cup", "right-most cup"),
        ("man with right-hand raised", "man with left-hand raised"),
        ("on the left", "on the right"),
        ("LEFT guy", "RIGHT guy"),
        ("Left guy, not right one", "Right guy, not left one"),
        ("third from the right", "third from the left"),
        ("from left to right, third", "from right to left, third"),
        ("man to the left of the woman on right", "man to the right of the woman on left"),
        ("right above the tv", "right above the tv"),
        ("the lamp that is right above the right bed", "the lamp that is right above the left bed"),
        ("tree on the right above the road", "tree on the left above the road"),
        ("right in front of the left car", "right in front of the right car"),
        ("right next to the boy", "right next to the boy"),
        ("guy right in red", "guy left in red"),
        ("left over food on the left", "left over food on the right"),
        ("plate of leftovers", "plate of leftovers"),
        ("the one that is left of the tree", "the one that is right of the tree"),
        ("bright upright lamp", "bright upright lamp"),
        ("let us lift the night light", "let us lift the night light"),
        ("cup right side up", "cup right side up"),
        ("right now, right here", "right now, right here"),
        ("girl's right arm", "girl's left arm"),
        ("top  left\tcorner ", "top  right\tcorner "),
        ("2nd row, 3rd from left", "2nd row, 3rd from right"),
        ("hand turning clockwise", "hand turning counterclockwise"),
        ("red cup", "red cup"),
        ("", ""),
    ],
)
def test_left_and_right_are_swapped_where_they_are_directions(sent, mirrored):
    assert mirror(sent) == mirrored
    assert mirror(mirrored) == sent


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("lamp right above bed", "may or may not be a direction"),
        ("the only slice that is left", "may or may not be a direction"),
        ("what's left", "may or may not be a direction"),
        ("left field player", "may or may not be a direction"),
        ("tree right behind wall", "may or may not be a direction"),
        ("man left above the shadow", "mirroring it twice does not restore it"),
        ("the second giraffe", "counts without saying"),
        ("3rd person", "counts without saying"),
        ("first base", "writing"),
        ("sign that says stop", "writing"),
        ("player 23", "writing"),
        ("3 people", "writing"),
        ('the "open" sign', "writing"),
        ("cup at 3 o'clock", "writing"),
        ("the east tower", "writing"),
        ("rt guy", "writing"),
        ("guy on l", "writing"),
        ("bottomleftish rock", "unknown word"),
        ("rightsdie", "unknown word"),
        ("rght guy", "unknown word"),
        ("Rigth guy", "unknown word"),
        ("elft tree", "unknown word"),
        ("lefft side", "unknown word"),
        ("righmost tree", "unknown word"),
    ],
)
def test_ambiguous_expressions_are_left_out(sent, reason):
    with pytest.raises(CannotMirrorError, match=reason):
        mirror(sent)


@given(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join) | st.text(max_size=40))
def test_mirroring_twice_gives_the_expression_back(sent):
    try:
        mirrored = mirror(sent)
    except CannotMirrorError:
        return
    assert mirror(mirrored) == sent
    assert len(mirrored.split()) == len(sent.split())


def test_rules_are_consistent():
    rules = load_rules()
    assert all(rules.swap[partner] == word and partner != word for word, partner in rules.swap.items())
    assert {rule.verdict for rule in rules.rules} == {"swap", "keep", "leave out"}
    assert all(None not in rule.pattern[rule.place : rule.place + 1] for rule in rules.rules)
    listed = [rules.ordinals, rules.counted_from, rules.leave_out_words, rules.unrelated]
    patterns = [allowed for rule in rules.rules for allowed in rule.pattern if allowed]
    assert all(
        isinstance(word, str) for words in [*listed, *patterns] for word in words
    )  # YAML reads a bare on as True
    assert rules.unrelated.isdisjoint(rules.swap) and rules.leave_out_words.isdisjoint(rules.swap)
