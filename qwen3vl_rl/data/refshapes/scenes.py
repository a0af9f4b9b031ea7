"""Scenes of coloured shapes that may hide one another, so every object has a visible and an amodal box."""

import random
from dataclasses import dataclass
from functools import cache

import numpy as np

from qwen3vl_rl.grounding import Box, iou

WIDTH, HEIGHT = 160, 128  # px; not square, to reveal swapped axes; multiples of 32, so that Qwen3-VL never resizes
COLOURS = {
    "red": (220, 50, 47),
    "green": (60, 160, 70),
    "blue": (50, 100, 210),
    "yellow": (240, 200, 40),
    "purple": (140, 70, 180),
    "orange": (245, 130, 30),
}
SHAPES = ("circle", "square", "triangle", "star")
SIDES_PX = {"small": (16, 20), "medium": (27, 32), "large": (41, 48)}
BACKGROUNDS = ((245, 245, 240), (225, 230, 235), (35, 38, 45))
MIN_VISIBLE = 0.4  # minimum visible share of an object's area


@dataclass(frozen=True, slots=True)
class World:
    """Settings of scenes and expressions.

    `objects`: the minimum and maximum number of objects in a scene. `kinds`: kinds of expressions, of which the first
    two look at objects one by one and the others relate objects to one another.
    """

    objects: tuple[int, int]
    kinds: tuple[str, ...]

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Kinds of expressions by split, as in RefCOCO: one mixed split, two that isolate an ability, one amodal."""
        return {
            "refshapes_val": self.kinds,
            "refshapes_testA": self.kinds[:2],
            "refshapes_testB": self.kinds[2:],
            "refshapes_amodal_val": self.kinds,
        }


PLAIN = World((3, 5), ("attribute", "superlative", "relation", "ordinal"))
WORLDS = {"plain": PLAIN, "crowded": World((5, 7), (*PLAIN.kinds, "composition"))}


@dataclass(frozen=True, slots=True)
class Shape:
    """One object. Boxes are xyxy px with exclusive x2, y2. `hidden_by`: the index of an object in front, or None."""

    size: str
    colour: str
    shape: str
    side_px: int
    amodal_px: Box
    visible_px: Box
    hidden_by: int | None

    @property
    def centre_px(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.visible_px
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects from back to front. `index`: uint8 (HEIGHT, WIDTH), 0 for the background, i + 1 for object i."""

    shapes: tuple[Shape, ...]
    background: tuple[int, int, int]
    index: np.ndarray

    def palette(self) -> np.ndarray:
        """RGB uint8 (objects + 1, 3): the colours that the values of `index` stand for."""
        return np.array([self.background, *(COLOURS[s.colour] for s in self.shapes)], dtype=np.uint8)

    def render(self) -> np.ndarray:
        """RGB uint8 (HEIGHT, WIDTH, 3)."""
        return self.palette()[self.index]


@cache
def stencil(shape: str, side_px: int) -> np.ndarray:
    """Boolean mask (rows, columns) of a shape, cropped to its extent."""
    half = side_px / 2
    y, x = (np.mgrid[0:side_px, 0:side_px] + 0.5 - half) / half
    if shape == "circle":
        mask = x**2 + y**2 <= 1
    elif shape == "square":
        mask = np.ones((side_px, side_px), dtype=bool)
    elif shape == "triangle":
        mask = np.abs(x) <= (y + 1) / 2
    else:
        # The angle to the nearest of the five tips, and the edge from a tip to an inner corner.
        angle = np.abs((np.arctan2(x, -y) / (2 * np.pi) * 5 + 0.5) % 1 - 0.5) * 2 * np.pi / 5
        inner, tip = 0.45, np.pi / 5
        edge = inner * np.sin(tip) / (np.sin(tip - angle) * inner + np.sin(angle))
        mask = np.hypot(x, y) <= edge
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _extent(mask: np.ndarray, x: int, y: int) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(x + columns[0]), float(y + rows[0]), float(x + columns[-1] + 1), float(y + rows[-1] + 1))


def sample_scene(rng: random.Random, objects: tuple[int, int] = PLAIN.objects) -> Scene:
    """Draw scenes until `MIN_VISIBLE` of every object's area is visible. `objects`: minimum and maximum number."""
    while (scene := _try_scene(rng, objects)) is None:
        pass
    return scene


def _try_scene(rng: random.Random, objects: tuple[int, int]) -> Scene | None:
    # Few colours and shapes per scene, so that several objects share attributes and need longer expressions.
    colours, shapes = rng.sample(list(COLOURS), rng.randint(2, 3)), rng.sample(SHAPES, rng.randint(1, 3))
    index, placed = np.zeros((HEIGHT, WIDTH), dtype=np.uint8), []
    for i in range(rng.randint(*objects)):
        size, shape = rng.choice(tuple(SIDES_PX)), rng.choice(shapes)
        side = rng.randint(*SIDES_PX[size])
        mask = stencil(shape, side)
        height, width = mask.shape
        x, y = rng.randint(1, WIDTH - width - 1), rng.randint(1, HEIGHT - height - 1)
        window = index[y : y + height, x : x + width]
        if np.count_nonzero(window[mask]) > (1 - MIN_VISIBLE) * mask.sum():
            return None  # hides too much of the objects behind it
        window[mask] = i + 1
        placed.append((size, rng.choice(colours), shape, side, mask, x, y))
    found = [_see(index, i, *item) for i, item in enumerate(placed)]
    if any(shape is None for shape in found):
        return None
    return Scene(tuple(found), rng.choice(BACKGROUNDS), index)


def _see(index, i, size, colour, shape, side, mask, x, y) -> Shape | None:
    height, width = mask.shape
    window = index[y : y + height, x : x + width]
    visible = window == i + 1
    area, full = np.count_nonzero(visible), np.count_nonzero(mask)
    if area < MIN_VISIBLE * full:
        return None
    amodal = (float(x), float(y), float(x + width), float(y + height))
    hidden_by = None if area == full else int(window[mask].max()) - 1
    return Shape(size, colour, shape, side, amodal, _extent(visible, x, y), hidden_by)


def is_occluded(shape: Shape) -> bool:
    """Whether the hidden part changes the box noticeably."""
    return iou(shape.visible_px, shape.amodal_px) < 0.9
