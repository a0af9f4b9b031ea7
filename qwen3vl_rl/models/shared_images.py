"""Equal images of a micro-batch go through the vision tower once.

GRPO trains on many answers to one prompt, and verl hands each of them its own copy of the image. Here the copies are
found by their content, so that nothing depends on the order of samples; only how many meet in a micro-batch does, which
`group_size` and, over several ranks, `verl_ext/whole_prompts.py` decide. They are found on the host: what is left out
is not sent to the device, and nothing waits for it. Gradients of the copies add up at the one image, which is what they
would do at the weights.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist

# Whole groups fill micro-batches badly, and a micro-batch costs the host a fixed time: where not quite two groups of 16
# fitted into one, there were 16 micro-batches instead of 9.
SLACK = 1.25


def drop_copies(pixel_values: torch.Tensor, image_sizes: Sequence[tuple[int, int, int]]) -> dict[str, object]:
    """Inputs of `image_embeds` that hold each image once, beside `image_sources`: per image of the batch, its number
    among those that are left. pixel_values: (patches of all images, any), on the host."""
    images = pixel_values.split([t * h * w for t, h, w in image_sizes])
    firsts, sources = find_copies(images)
    if len(firsts) == len(images):
        return {}
    return {
        "pixel_values": torch.cat([images[i] for i in firsts]),
        "image_sizes": tuple(image_sizes[i] for i in firsts),
        "image_sources": tuple(sources),
    }


def find_copies(images: Sequence[torch.Tensor]) -> tuple[list[int], list[int]]:
    """(numbers of the images that no earlier one equals; per image, the place in that list of the one it equals)."""
    firsts: list[int] = []
    places: dict[tuple[int, float], list[int]] = {}
    sources = []
    words = [_words(image) for image in images]
    for number, image in enumerate(images):
        alike = places.setdefault((len(image), float(image[len(image) // 2].sum())), [])  # a patch in its middle
        place = next((p for p in alike if torch.equal(words[firsts[p]], words[number])), None)
        if place is None:
            place = len(firsts)
            firsts.append(number)
            alike.append(place)
        sources.append(place)
    return firsts, sources


def _words(image: torch.Tensor) -> torch.Tensor:
    """Its bytes by eights where that comes out even, which are compared faster than one by one."""
    flat = image.reshape(-1).view(torch.uint8)
    return flat if len(flat) % 8 or flat.storage_offset() % 8 else flat.view(torch.int64)


def spread(features: torch.Tensor, lengths: Sequence[int], sources: Sequence[int]) -> torch.Tensor:
    """(features of the images that are left, hidden), `lengths` of them each, to (features of all images, hidden)."""
    parts = features.split(list(lengths))
    return torch.cat([parts[source] for source in sources])


def group_size(
    lengths: torch.Tensor,
    samples_per_image: int,
    limit: int,
    ranks: dist.ProcessGroup | None = None,
    device: str = "cpu",
) -> int:
    """How many consecutive samples to keep together in micro-batches of `limit` tokens: as many as show one image, or
    the largest part of them that divides the samples, fits, and leaves micro-batches so full that there are no more
    than `SLACK` times as many as the tokens need. lengths: tokens of each sample.

    It suits all `ranks`, which talk to each other on `device` and make equally many micro-batches: of equally many
    samples each has as many groups then, and no rank is asked for more micro-batches than it has groups.
    """
    sizes = [n for n in range(samples_per_image, 0, -1) if samples_per_image % n == 0]
    suits = torch.tensor([n == 1 or _fills(lengths, n, limit) for n in sizes], dtype=torch.int32)
    if ranks is not None and dist.get_world_size(ranks) > 1:
        suits = suits.to(device)
        dist.all_reduce(suits, dist.ReduceOp.MIN, ranks)
    return sizes[suits.tolist().index(1)]


def _fills(lengths: torch.Tensor, n: int, limit: int) -> bool:
    """Whether groups of `n` samples divide them, fit, and fill micro-batches well enough."""
    if len(lengths) % n:
        return False
    groups, needed = lengths.view(-1, n).sum(dim=1), math.ceil(lengths.sum() / limit)
    return bool(groups.max() <= limit) and math.ceil(len(groups) / (limit // groups.float().mean())) <= SLACK * needed
