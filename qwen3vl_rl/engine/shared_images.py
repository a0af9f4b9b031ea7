"""Equal images of a micro-batch go through the vision tower once.

GRPO trains on many answers to one prompt, and verl hands each of them its own copy of the image. Here the copies are
found by their content, so that nothing depends on the order of samples; only how many meet in a micro-batch does, which
`group_size` decides. Gradients of the copies add up at the one image, which is what they would do at the weights.
"""

from collections.abc import Sequence

import torch
from transformers import Qwen3VLForConditionalGeneration


def share_images(model: Qwen3VLForConditionalGeneration) -> None:
    """Make the vision tower of a loaded model encode each image of a batch once."""
    visual = model.model.visual
    sharing = _Sharing(visual.spatial_merge_size)
    visual.register_forward_pre_hook(sharing.drop_copies, with_kwargs=True, prepend=True)
    visual.register_forward_hook(sharing.restore_copies)


class _Sharing:
    """The two hooks around one forward pass, and what the first leaves to the second."""

    def __init__(self, merge_size: int):
        self._merge_size = merge_size
        self._sources: list[int] = []  # per image of the batch, its number among those that are encoded
        self._tokens: list[int] = []  # per encoded image, merged patches

    def drop_copies(self, visual: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        pixels, grid = args[0], kwargs["grid_thw"]
        lengths = grid.prod(dim=1).tolist()
        images = pixels.split(lengths)
        firsts, self._sources = find_copies(images)
        self._tokens = [lengths[i] // self._merge_size**2 for i in firsts]
        if len(firsts) == len(images):
            return args, kwargs
        return (torch.cat([images[i] for i in firsts]), *args[1:]), {**kwargs, "grid_thw": grid[firsts]}

    def restore_copies(self, visual: torch.nn.Module, args: tuple, output) -> None:
        if len(self._tokens) < len(self._sources):
            output.pooler_output = self._spread(output.pooler_output)
            output.deepstack_features = [self._spread(features) for features in output.deepstack_features]

    def _spread(self, features: torch.Tensor) -> torch.Tensor:
        """(tokens of encoded images, hidden) to (tokens of all images, hidden)."""
        parts = features.split(self._tokens)
        return torch.cat([parts[source] for source in self._sources])


def find_copies(images: Sequence[torch.Tensor]) -> tuple[list[int], list[int]]:
    """(numbers of the images that no earlier one equals; per image, the place in that list of the one it equals)."""
    sums = torch.stack([image.sum(dtype=torch.float64) for image in images]).tolist()  # one wait for the device
    firsts: list[int] = []
    places: dict[tuple[int, float], list[int]] = {}
    sources = []
    for number, image in enumerate(images):
        alike = places.setdefault((len(image), sums[number]), [])
        place = next((p for p in alike if torch.equal(images[firsts[p]], image)), None)
        if place is None:
            place = len(firsts)
            firsts.append(number)
            alike.append(place)
        sources.append(place)
    return firsts, sources


def group_size(lengths: torch.Tensor, samples_per_image: int, limit: int) -> int:
    """How many consecutive samples to keep together in micro-batches of `limit` tokens: as many as show one image, or
    the largest part of them that divides the samples and fits. lengths: tokens of each sample."""
    parts = [n for n in range(samples_per_image, 0, -1) if samples_per_image % n == 0 and len(lengths) % n == 0]
    return next(n for n in parts if n == 1 or lengths.view(-1, n).sum(dim=1).max() <= limit)
