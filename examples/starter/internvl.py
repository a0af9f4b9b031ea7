"""Build a tiny InternVL checkpoint with random weights that transformers, verl and vLLM load unchanged.

    python -m examples.starter.internvl --out DIR [--seed 0]

The architecture is that of InternVL3.5 in transformers' format: InternViT, a projector and a Qwen3 language model. The
chat template is the published one, which does not open `<think>`. The tokenizer is the starter's with the special
tokens of the family.
"""

import argparse
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from examples.starter.build import CONFIG, sinusoids, train_tokenizer
from qwen3vl_rl.errors import cli
from qwen3vl_rl.models.families.internvl import InternViTShape
from qwen3vl_rl.models.shapes import Shape

PATCH_PX, MERGED = 14, 2  # side of a patch in px; patches per side of a token
TILE_PX, MOST_TILES = 112, 2
HEAD_DIM = 64  # of the vision tower's attention
# The sizes of the starter (`build.CONFIG`). Embeddings are not tied, as in the published models.
TINY = Shape(192, 576, 4, 3, 1, 64, 0, False, InternViTShape(4, 192, 512, 192, PATCH_PX, TILE_PX))
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>",
    "</ref>", "<box>", "</box>", "<video>",
]  # fmt: skip
NAMED = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}  # fmt: skip
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # InternVL's
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}
                {{- '<IMG_CONTEXT>\\n' -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@cache
def build_processor(tile_px: int = TILE_PX, most_tiles: int = MOST_TILES) -> InternVLProcessor:
    """The processor for tiles with sides of `tile_px`; the tokenizer has a limit of 4,096 tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(SPECIAL), eos_token="<|im_end|>", pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE, extra_special_tokens=NAMED, padding_side="left",
        model_max_length=CONFIG["text_config"]["max_position_embeddings"],
    )  # fmt: skip
    size, colours = {"height": tile_px, "width": tile_px}, {"image_mean": MEAN, "image_std": DEVIATION}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=most_tiles, **colours),
        video_processor=InternVLVideoProcessor(size=size, **colours),
        tokenizer=tokenizer, image_seq_length=tile_tokens(tile_px), chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def tile_tokens(tile_px: int) -> int:
    return (tile_px // PATCH_PX // MERGED) ** 2


def build_config(
    tokenizer: PreTrainedTokenizerFast, shape: Shape = TINY, *, rope_theta: float = 1e4, positions: int = 4096
) -> InternVLConfig:
    """The configuration of `shape` with the token ids of the tokenizer.

    positions: longest context in tokens. The vocabulary has at least the tokenizer's size.
    """
    sizes, vision = asdict(shape), shape.vision
    sizes = {name: sizes[name] for name in sizes if name not in ("vision", "vocab_size")}
    return InternVLConfig(
        text_config=sizes | {
            "model_type": "qwen3", "vocab_size": max(shape.vocab_size, len(tokenizer)), "dtype": "float32",
            "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta}, "max_position_embeddings": positions,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "hidden_size": vision.hidden_size, "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.hidden_size // HEAD_DIM, "intermediate_size": vision.intermediate_size,
            "attention_bias": True, "image_size": [vision.image_size] * 2, "patch_size": [PATCH_PX] * 2,
            "norm_type": "layer_norm", "use_qk_norm": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tile_tokens(vision.image_size),
        downsample_ratio=1 / MERGED, tie_word_embeddings=shape.tie_word_embeddings, dtype="float32",
    )  # fmt: skip


def build_model(config: InternVLConfig, seed: int) -> InternVLForConditionalGeneration:
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    positions = model.model.vision_tower.embeddings.position_embeddings  # the first is that of the class token
    side = config.vision_config.image_size[0] // PATCH_PX
    with torch.no_grad():
        positions[0, 1:] = sinusoids(side, config.vision_config.hidden_size)
    ends = {name: getattr(config.text_config, name) for name in ("eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ends)
    return model


def build_checkpoint(out: Path, seed: int = 0) -> None:
    """Write the tiny model, the tokenizer, the processor and the chat template to the folder `out`."""
    processor = build_processor()
    build_model(build_config(processor.tokenizer), seed).save_pretrained(out)
    processor.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    build_checkpoint(args.out, args.seed)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    cli(main)
