"""Checks of a checkpoint's image processor against its model and what the family was trained with."""

from collections.abc import Iterator, Mapping
from typing import Any

from qwen3vl_rl.evaluation.diagnosis import Finding
from qwen3vl_rl.models.families.interface import Family
from qwen3vl_rl.models.families.internvl import INTERNVL
from qwen3vl_rl.models.families.qwen3_vl import EDGES, QWEN3_VL, QWENS_PIXELS

PATCH_PX, MERGE, FRAMES = 16, 2, 2  # Qwen3-VL's
COLOURS = {  # mean and deviation of red, green and blue
    QWEN3_VL: ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    INTERNVL: ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # as for ImageNet
}
COPY = "Copy the image processor's settings from the model that this checkpoint was trained from."


def pictures(family: Family, config: Mapping[str, Any], processor) -> Iterator[Finding]:
    """All findings about pictures. processor: of the checkpoint, with an `image_processor`."""
    if family is INTERNVL:
        yield tiles(config, processor)
        yield colours(family, processor.image_processor) or Finding("pixels", "colours are scaled as in training")
    else:
        yield patches(config, processor.image_processor)
        yield colours(family, processor.image_processor) or pixels(processor.image_processor)


def colours(family: Family, processor) -> Finding | None:
    """A finding if colours are scaled differently than in the family's training."""
    mean, deviation = COLOURS[family]
    if (list(processor.image_mean), list(processor.image_std)) == (mean, deviation):
        return None
    text = f"mean {list(processor.image_mean)}, deviation {list(processor.image_std)}"
    means = f"{family.name} expects colours scaled with mean {mean} and deviation {deviation}."
    return Finding(
        "pixels", text, means, f"Set image_mean and image_std in preprocessor_config.json to {mean} and {deviation}."
    )


def tiles(config: Mapping[str, Any], processor) -> Finding:
    """Whether InternVL's processor cuts tiles of the model's size and writes as many tokens for each as it computes."""
    vision, size = INTERNVL.shape(config).vision, processor.image_processor.size
    wanted = (vision.image_size, vision.image_size, vision.patches // vision.merged)
    seen = size["height"], size["width"], processor.image_seq_length
    text = "{} x {} px, {} tokens each".format(*seen)
    if seen == wanted:
        return Finding("tiles", f"{text}, up to {processor.image_processor.max_patches} and the whole picture")
    means = "The model computes {} x {} px and {} tokens for a tile: others fail or misplace boxes.".format(*wanted)
    return Finding("tiles", text, means, COPY)


def patches(config: Mapping[str, Any], processor) -> Finding:
    vision = config["vision_config"]
    wanted = (PATCH_PX, MERGE, FRAMES)
    model = vision["patch_size"], vision["spatial_merge_size"], vision.get("temporal_patch_size", FRAMES)
    seen = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    text = f"{seen[0]} px, merged {seen[1]} x {seen[1]}"
    if model == seen == wanted:
        return Finding("patches", text)
    if model != seen:
        text += f"; config.json says {model[0]} px, merged {model[1]} x {model[1]}"
    means = f"Qwen3-VL needs patches of {PATCH_PX} px, merged {MERGE} x {MERGE}. Others fail or misplace boxes."
    return Finding("patches", text, means, COPY)


def pixels(processor) -> Finding:
    """The size limits of pictures."""
    limits = tuple(processor.size.get(name) for name in EDGES)
    text = f"{limits[0]} to {limits[1]} pixels per picture"
    if limits == QWENS_PIXELS:
        return Finding("pixels", text)
    means = "Stage 2 and evaluation of the paper use Qwen3-VL's own limits, 65,536 to 16,777,216 pixels per picture."
    change = "Set `size` in preprocessor_config.json, or min_pixels and max_pixels in the --settings file."
    return Finding("pixels", text, means, change)
