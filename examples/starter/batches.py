"""Turn examples into batches of tensors in worker processes."""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from examples.starter.tasks import Example
from qwen3vl_rl.data.refshapes import HEIGHT, ORDINALS, WIDTH, Scene
from qwen3vl_rl.grounding import answer_opening

IGNORE = -100
REUSE = 2  # times that each example is used
COLOURS = len(ORDINALS) + 1  # in a palette: one for each object that a list can count, and the background
LENGTH_STEP = 16  # batches are padded to a multiple of it, so that only a few lengths occur


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example in tokens, image placeholders and end of turn included."""

    scene: Scene
    prompt_ids: list[int]
    target_ids: list[int]


class Collator:
    """Turns examples into right-padded tensors. The image tokens have the same place in every row."""

    def __init__(self, processor):
        self.tokenizer = processor.tokenizer
        content = [{"type": "image"}, {"type": "text", "text": "PROMPT"}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        # Special tokens or a line break surround the prompt, so the three parts have the same tokens as the whole.
        before, after = text.split("PROMPT")
        picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.before = list(processor(text=[before], images=[picture])["input_ids"][0])
        (self.after,) = self.tokenize([after])
        self.opening = answer_opening(text)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [text.ids for text in encoded]  # takes half the time of transformers' own call

    def encode(self, examples: list[Example]) -> list[Encoded]:
        prompts = self.tokenize([e.prompt for e in examples])
        targets = self.tokenize([self.opening + e.target for e in examples])
        return [
            Encoded(e.scene, self.before + prompt + self.after, [*target, self.tokenizer.eos_token_id])
            for e, prompt, target in zip(examples, prompts, targets, strict=True)
        ]

    def __call__(self, examples: list[Encoded]) -> dict[str, torch.Tensor]:
        """Returns `input_ids` int32 (B, L), `labels` int32 (B, L) with `IGNORE` for the prompt, and the arrays of
        `encode_images`."""
        longest = max(len(e.prompt_ids) + len(e.target_ids) for e in examples)
        shape = len(examples), -(-longest // LENGTH_STEP) * LENGTH_STEP
        input_ids = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int32)
        labels = np.full(shape, IGNORE, dtype=np.int32)
        for row, example in enumerate(examples):
            start, end = len(example.prompt_ids), len(example.prompt_ids) + len(example.target_ids)
            input_ids[row, :end] = example.prompt_ids + example.target_ids
            labels[row, start:end] = example.target_ids
        arrays = encode_images([e.scene for e in examples]) | {"input_ids": input_ids, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def encode_images(scenes: list[Scene]) -> dict[str, np.ndarray]:
    """Returns `index` uint8 (B, H, W) into `palette` uint8 (B, COLOURS, 3), which take a third of the bytes of RGB."""
    palette = np.zeros((len(scenes), COLOURS, 3), dtype=np.uint8)
    for row, scene in enumerate(scenes):
        palette[row, : len(scene.shapes) + 1] = scene.palette()
    return {"index": np.stack([scene.index for scene in scenes]), "palette": palette}


class Batches(IterableDataset):
    """Endless batches. Each worker draws pools of `pool` batches from its own stream.

    A batch holds examples of similar length, which saves padding. Each pool is used `REUSE` times, which saves drawing.
    """

    def __init__(
        self,
        collate: Collator,
        make_examples: Callable[[str], Iterator[Example]],
        seed: int | str,
        batch_size: int,
        pool: int = 8,
    ):
        self.collate, self.make_examples = collate, make_examples
        self.seed, self.batch_size, self.pool = seed, batch_size, pool

    def __iter__(self):
        worker = get_worker_info()
        stream = self.make_examples(f"starter-{self.seed}-{worker.id if worker else 0}")
        rng = random.Random(self.seed)
        while True:
            pool = self.collate.encode(list(itertools.islice(stream, self.pool * self.batch_size)))
            for _ in range(REUSE):
                pool.sort(key=lambda e: len(e.target_ids) + rng.uniform(-8, 8))  # with different neighbours each time
                batches = [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
                rng.shuffle(batches)
                yield from map(self.collate, batches)
