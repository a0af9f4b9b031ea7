"""The size to which Qwen's image processors, and verl's data set before them, resize a picture."""

import math


def fitted_size(
    width_px: int, height_px: int, side_px: int, pixels: tuple[float, float], zero_sides: bool = False
) -> tuple[int, int]:
    """Width and height in px to which Qwen's processors resize an image.

    Both are multiples of `side_px`, their product is within `pixels` (fewest, most), and they are as close to the
    original size as this allows. `zero_sides` is transformers' way for sides of less than half of `side_px`: they round
    to 0 px, so that the picture has too few pixels and is enlarged. In qwen_vl_utils, which verl calls, they round to
    `side_px`.
    """
    least, most = pixels
    shortest = 0 if zero_sides else side_px
    width, height = (max(shortest, round(length / side_px) * side_px) for length in (width_px, height_px))
    if width * height > most:
        shrink = math.sqrt(width_px * height_px / most)  # divide in the processor's order, which decides the last bit
        width, height = (
            max(side_px, math.floor(length / shrink / side_px) * side_px) for length in (width_px, height_px)
        )
    elif width * height < least:
        grow = math.sqrt(least / (width_px * height_px))
        width, height = (math.ceil(length * grow / side_px) * side_px for length in (width_px, height_px))
    return width, height
