"""The simple wording fits the same object and no other."""

from itertools import islice

from examples.longer_vs_bigger.oracle import simplest, words
from qwen3vl_rl.data.refshapes import PLAIN, Category, referrals


def test_a_simple_wording_fits_the_target_alone_and_no_shorter_one_does():
    drawn = list(islice(referrals("oracle", PLAIN.splits["refshapes_testB"], 0.0), 300))
    simple = [simplest(referral) for referral in drawn]
    assert sum(category is not None for category in simple) > 150
    for referral, category in zip(drawn, simple, strict=True):
        target, members = referral.target, [referral.query.target]
        whole = Category(target.size, target.colour, target.shape)
        if category is None:
            assert whole.members(referral.scene) != members
            continue
        assert category.members(referral.scene) == members
        shorter = (Category(None, target.colour, None), Category(None, None, target.shape))
        if any(one.members(referral.scene) == members for one in shorter):
            assert words(category) <= 2
