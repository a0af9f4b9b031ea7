"""The tasks of the starter, drawn endlessly from RefShapes.

- *detect*: list every object of a group in an order. The prompt (`qwen3_official`) names the group and the order. The
  answer follows directly, or after a reasoning block that lists the boxes.
- *narrate*: describe what is seen, then answer with one object. A narration says where an object is, lists a group, and
  repeats some of the list; the object that it repeats last is the answer. Half of the prompts name the group, and most
  of these also name what to repeat. The other prompts leave the choice to the model, or name an object to avoid, by any
  kind of expression. So the model learns that a list follows from the words before it. Without this task it lists what
  the prompt describes, even after it has announced another group, and cannot reason about anything else.
- *answer* (`qwen3` and `qwen3_amodal`): answer a description directly, after an empty reasoning block. Descriptions
  have attributes only. Superlatives, relations and ordinals appear only in expressions to avoid, because SFT and GRPO
  are to teach them.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from qwen3vl_rl.data.refshapes import (
    HEIGHT,
    ORDERS,
    ORDINALS,
    PLAIN,
    WIDTH,
    Category,
    Order,
    Referral,
    Scene,
    World,
    format_box_1000,
    list_candidates,
    pick,
    referrals,
    sample_category,
    sample_query,
    sample_scene,
    sort_members,
)
from qwen3vl_rl.grounding import px_to_1000, render_prompt, target_text

PER_SCENE = 3  # examples per scene
ANSWER_KINDS, ANSWER_RATE = ("attribute",), 0.2  # share of direct answers
AMODAL_RATE = 0.2  # share of direct answers that ask for the amodal box
NARRATE_RATE = 0.6  # share of the other examples that are narrations
GUIDED_RATE = 0.5  # share of narrations whose prompt names the group; at 0 the model learns to ignore prompts
REPEAT_RATE = 0.75  # share of these whose prompt also names what to repeat
LIST_RATE = 0.7  # share of detections whose reasoning also lists the boxes
TEMPLATES = ("qwen3", "qwen3_official", "grounding")  # prompts of narrations
ANY_OBJECT, OTHER_OBJECT = "an object of your choice", "any object but"
EVERYTHING = Category(None, None, None)


@dataclass(frozen=True, slots=True)
class Example:
    scene: Scene
    prompt: str
    target: str


def starter_examples(seed: str, ramp: int, begun: int = 0, world: World = PLAIN) -> Iterator[Example]:
    """Endless examples. Over the first `ramp` examples, scenes grow from one object to many and direct answers become
    more frequent. Without this curriculum the vision tower had learned nothing after 900,000 samples.

    `begun`: number of examples before this stream, for the progress of the curriculum.
    """
    rng, count = random.Random(seed), begun
    answers = referrals(seed, ANSWER_KINDS, AMODAL_RATE, world)
    while True:
        progress = min(1.0, count / ramp) if ramp else 1.0
        scene = sample_scene(rng, (1, 1 + int((world.objects[1] - 1) * progress**2)))
        for _ in range(PER_SCENE):
            count += 1
            if rng.random() < ANSWER_RATE * progress:
                yield answer_example(next(answers))
            elif (example := group_example(scene, rng, world.kinds)) is not None:
                yield example


def group_example(scene: Scene, rng: random.Random, kinds: tuple[str, ...]) -> Example | None:
    """An example about a group in an order. None if two objects of the group are too close to order."""
    order, category = rng.choice(ORDERS), EVERYTHING if rng.random() < 0.2 else crowded_category(scene, rng)
    if (members := sort_members(scene, category, order)) is None:
        return None
    if rng.random() < NARRATE_RATE:
        return narrate_example(scene, category, order, members, rng, kinds)
    return detect_example(scene, category, order, members, rng)


def detect_example(scene: Scene, category: Category, order: Order, members: list[int], rng: random.Random) -> Example:
    """Asks for, say, `red squares from left to right`, and answers with their boxes."""
    reasoning = list_candidates(scene, category, order, members) if rng.random() < LIST_RATE else ""
    return Example(
        scene,
        render_prompt("qwen3_official", f"{category}s {order_words(order, rng)}"),
        f"{reasoning}\n</think>\n\n{list_answer(scene, members)}",
    )


def order_words(order: Order, rng: random.Random) -> str:
    counted = [f"counted from the {order.side}"] if order.side else []
    return rng.choice([order.phrase, f"with the {order.superlative} first", *counted])


def narrate_example(
    scene: Scene, category: Category, order: Order, members: list[int], rng: random.Random, kinds: tuple[str, ...]
) -> Example:
    """Such as `The star is at [box]. Red squares from left to right, first: [box], second: [box]. Again the second:
    [box].`"""
    anchor, looks = sample_category(scene, rng), rng.sample(members, min(len(members), rng.choice((1, 1, 2))))
    alone = anchor.members(scene) if len(anchor.members(scene)) == 1 else []
    if rng.random() < GUIDED_RATE:
        repeated = [ORDINALS[members.index(i)] for i in looks] if rng.random() < REPEAT_RATE else []
        template, wish = rng.choice(TEMPLATES), guidance(category, order, anchor if alone else None, repeated, rng)
    else:
        template, wish = distraction(scene, looks[-1], rng, kinds)
    sentences = [f"The {anchor} is at {format_box_1000(scene.shapes[i].visible_px)}." for i in alone]
    sentences += [list_candidates(scene, category, order, members)]
    sentences += [f"Again {pick(scene, members, i)}." for i in looks]
    answer = list_answer(scene, looks[-1:])
    return Example(scene, render_prompt(template, wish), f"{' '.join(sentences)}\n</think>\n\n{answer}")


def guidance(category: Category, order: Order, anchor: Category | None, repeated: list[str], rng: random.Random) -> str:
    """The prompt of a guided narration, such as `the star, then one red square from left to right, repeat the second`.

    Its wording differs from that of every referring expression.
    """
    steps = f"one {category} {order_words(order, rng)}"
    if anchor is not None:
        steps = rng.choice((f"{steps}, but first the {anchor}", f"the {anchor}, then {steps}"))
    return steps + (f", repeat the {' and the '.join(repeated)}" if repeated else "")


def distraction(scene: Scene, chosen: int, rng: random.Random, kinds: tuple[str, ...]) -> tuple[str, str]:
    """A template and a phrase that leaves the choice to the model, or names an object to avoid other than `chosen`."""
    query = sample_query(scene, rng.choice(kinds), rng)
    if query is None or query.target == chosen or rng.random() < 0.2:
        return "qwen3_official", ANY_OBJECT
    return rng.choice(TEMPLATES), f"{OTHER_OBJECT} {query.sent}"


def crowded_category(scene: Scene, rng: random.Random) -> Category:
    """The one of a few random descriptions that fits most objects.

    Most descriptions fit a single object, and a list of one does not teach listing.
    """
    return max(
        (sample_category(scene, rng, sized=0.2) for _ in range(rng.choice((1, 3, 6)))),
        key=lambda category: len(category.members(scene)),
    )


def list_answer(scene: Scene, members: list[int]) -> str:
    """`grounding.answer_text` for several objects, labelled by size, colour and shape."""
    shapes = [scene.shapes[i] for i in members]
    items = [
        {"bbox_2d": px_to_1000(s.visible_px, WIDTH, HEIGHT), "label": f"{s.size} {s.colour} {s.shape}"} for s in shapes
    ]
    return "```json\n[\n\t" + ",\n\t".join(json.dumps(item) for item in items) + "\n]\n```"


def answer_example(referral: Referral) -> Example:
    """A direct answer, after an empty reasoning block."""
    prompt = render_prompt("qwen3_amodal" if referral.amodal else "qwen3", referral.query.sent)
    target = target_text("", px_to_1000(referral.xyxy_px, WIDTH, HEIGHT), referral.query.sent)
    return Example(referral.scene, prompt, target)
