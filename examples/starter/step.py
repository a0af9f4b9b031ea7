"""One training step of a model whose images have the same size and the same place in every row.

transformers' forward pass finds the image tokens on the host and loops over images in Python, so a model of a few
million parameters mostly waits for Python. This module calls the same layers, but computes once what is the same in
every batch, and records a whole step (forward, backward, update) as one CUDA graph per sequence length.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch.nn.functional import cross_entropy, embedding, interpolate, linear
from transformers import vision_utils

from examples.starter.batches import IGNORE
from qwen3vl_rl.data.refshapes import HEIGHT, WIDTH
from qwen3vl_rl.errors import InputError

Batch = dict[str, torch.Tensor]


class FixedImages(ABC):
    """The forward pass of a model for rows that begin with the same tokens.

    model: its vision tower attends over packed images (the family's `pack_images`). prefix: the first tokens of every
    row, which hold the image's placeholders.
    """

    def __init__(self, model, prefix: list[int]):
        self.model, self.device = model, model.device
        self.start = prefix.index(model.config.image_token_id)  # image tokens are start ... end - 1
        self.end = self.start + prefix.count(model.config.image_token_id)

    @abstractmethod
    def pixel_values(self, index: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
        """Turn the arrays of `encode_images` into what the image processor makes of the images."""

    @abstractmethod
    def see(self, pixel_values: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the image tokens (B, tokens, width) and what is added to them after each of the first layers."""

    @abstractmethod
    def position_ids(self, rows: int, length: int) -> torch.Tensor:
        """What `rotary_emb` takes for rows of this length. Padding is on the right and never attended to."""

    def inputs(self, input_ids: torch.Tensor, images: Batch) -> Batch:
        """What `generate` takes for prompts (B, L) with the arrays of `encode_images`."""
        return {"pixel_values": self.pixel_values(**images)}

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits (B, L - end, vocabulary) of the tokens after the image."""
        language, start, end = self.model.model.language_model, self.start, self.end
        input_ids = batch["input_ids"]
        image, deep = self.see(self.pixel_values(batch["index"], batch["palette"]), len(input_ids))
        text = embedding(input_ids, language.embed_tokens.weight)
        hidden = torch.cat([text[:, :start], image.to(text.dtype), text[:, end:]], dim=1)
        rotary = language.rotary_emb(hidden, self.position_ids(*input_ids.shape))
        for number, layer in enumerate(language.layers):
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
            if number < len(deep):
                seen = hidden[:, start:end] + deep[number].to(hidden.dtype)
                hidden = torch.cat([hidden[:, :start], seen, hidden[:, end:]], dim=1)
        return self.model.lm_head(language.norm(hidden[:, end:]))

    def loss(self, batch: Batch) -> torch.Tensor:
        """Sum of the cross-entropy over the labelled tokens."""
        logits, labels = self.logits(batch)[:, :-1].float(), batch["labels"][:, self.end + 1 :].long()
        return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")


class QwenImages(FixedImages):
    """Images of Qwen3-VL: the positions of patches and tokens are computed once."""

    def __init__(self, model, processor, prefix: list[int]):
        super().__init__(model, prefix)
        self.patch, self.merge = processor.image_processor.patch_size, processor.image_processor.merge_size
        self.grid = torch.tensor([[1, HEIGHT // self.patch, WIDTH // self.patch]], device=self.device)
        self.patches = int(self.grid.prod())
        visual = model.model.visual
        indices, weights = vision_utils.get_vision_bilinear_indices_and_weights(
            self.grid, visual.num_grid_per_side, visual.spatial_merge_size
        )
        self.bilinear = indices, weights[:, :, None]
        angles = visual.rotary_pos_emb(vision_utils.get_vision_position_ids(self.grid, visual.spatial_merge_size))
        angles = angles.reshape(self.patches, -1)
        self.vision_rotary = torch.cat((angles, angles), dim=-1)
        row = torch.full((1, model.config.text_config.max_position_embeddings), -1, device=self.device)
        row[0, : len(prefix)] = torch.tensor(prefix)
        self.positions = model.model.get_rope_index(row, (row == model.config.image_token_id).int(), self.grid)[0]

    def position_ids(self, rows: int, length: int) -> torch.Tensor:
        """mRoPE positions (3, rows, length)."""
        return self.positions[:, :, :length].expand(3, rows, -1)

    def inputs(self, input_ids: torch.Tensor, images: Batch) -> Batch:
        kinds = (input_ids == self.model.config.image_token_id).int()
        grids = self.grid.expand(len(input_ids), -1)
        return super().inputs(input_ids, images) | {"mm_token_type_ids": kinds, "image_grid_thw": grids}

    def pixel_values(self, index: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
        """Normalized patches (B * patches, features)."""
        p, m = self.patch, self.merge
        x = colours(index, palette).div(127.5).sub(1)
        x = x.reshape(len(x), 3, HEIGHT // p // m, m, p, WIDTH // p // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
        return x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * p * p)

    def see(self, pixel_values: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Deepstack adds to the image tokens."""
        visual = self.model.model.visual
        project = visual.patch_embed.proj  # a convolution without overlap
        hidden = linear(pixel_values, project.weight.flatten(1), project.bias)
        indices, weights = self.bilinear
        hidden = hidden + (visual.pos_embed(indices) * weights).sum(0).repeat(batch_size, 1).to(hidden.dtype)
        rotary = self.vision_rotary.repeat(batch_size, 1)
        ends = torch.arange(0, len(hidden) + 1, self.patches, dtype=torch.int32, device=self.device)
        deep = []
        for number, block in enumerate(visual.blocks):
            hidden = block(
                hidden, cu_seqlens=ends, position_embeddings=(rotary.cos(), rotary.sin()), longest=self.patches
            )
            if number in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(number)]
                deep.append(merger(hidden).unflatten(0, (batch_size, -1)))
        return visual.merger(hidden).unflatten(0, (batch_size, -1)), deep


class InternVLImages(FixedImages):
    """Images of an InternVL that sees each of them as a single tile."""

    def __init__(self, model, processor, prefix: list[int]):
        super().__init__(model, prefix)
        settings = processor.image_processor
        if (tiles := settings.get_number_of_image_patches(HEIGHT, WIDTH)) != 1:
            raise InputError(f"pictures of {WIDTH} x {HEIGHT} px: expected one tile of the processor, got {tiles}")
        self.size = [settings.size["height"], settings.size["width"]]
        normal = (settings.image_mean, settings.image_std)
        self.mean, self.std = (torch.tensor(values, device=self.device)[:, None, None] for values in normal)

    def position_ids(self, rows: int, length: int) -> torch.Tensor:
        return torch.arange(length, device=self.device).expand(rows, -1)

    def pixel_values(self, index: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
        """Normalized tiles (B, 3, height, width), resized as by the image processor, up to rounding."""
        x = interpolate(colours(index, palette), self.size, mode="bicubic", antialias=True)
        return x.round().clamp(0, 255).div(255).sub(self.mean).div(self.std)

    def see(self, pixel_values: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.model.model.get_image_features(pixel_values, return_dict=True).pooler_output, []


IMAGES: Mapping[str, Callable[..., FixedImages]] = {"qwen3_vl": QwenImages, "internvl": InternVLImages}


def fixed_images(model, processor, prefix: list[int]) -> FixedImages:
    return IMAGES[model.config.model_type](model, processor, prefix)


def colours(index: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
    """The arrays of `encode_images` as float32 (B, 3, H, W) from 0 to 255."""
    rows = torch.arange(len(index), device=index.device)[:, None, None]
    return palette[rows, index.long()].float().permute(0, 3, 1, 2)


class RecordedStep:
    """Replays `step`, a function from a batch on the GPU to its loss, as one CUDA graph per sequence length.

    The first batch of each length runs without a graph, so that blocks are compiled before the graph is recorded.
    `step` must not synchronize with the host and must leave no gradients.
    """

    def __init__(self, step: Callable[[Batch], torch.Tensor]):
        self.step, self.pool = step, torch.cuda.graph_pool_handle()
        self.recorded: dict[int, tuple[torch.cuda.CUDAGraph, Batch, torch.Tensor]] = {}

    def __call__(self, batch: Batch) -> torch.Tensor:
        length = batch["input_ids"].shape[1]
        if length not in self.recorded:
            return self.record(length, batch)
        graph, inputs, loss = self.recorded[length]
        for name, tensor in batch.items():
            inputs[name].copy_(tensor, non_blocking=True)
        graph.replay()
        return loss.clone()

    def record(self, length: int, batch: Batch) -> torch.Tensor:
        inputs = {name: tensor.to("cuda") for name, tensor in batch.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            first = self.step(inputs).clone()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            loss = self.step(inputs)
        self.recorded[length] = graph, inputs, loss
        return first
