"""Build a tiny InternVL checkpoint with random weights that transformers, verl and vLLM load unchanged.

    python -m examples.starter.internvl --out DIR [--seed 0]

The architecture is that of InternVL3.5 in transformers' format: InternViT, a projector and a Qwen3 language model. The
chat template is the published one, which does not open `<think>`. The tokenizer is the starter's with the special
tokens of the family.
"""

import argparse
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

TILE_PX, PATCH_PX, MERGED = 112, 14, 2  # a side of a tile and of a patch; patches per side of a token
TILE_TOKENS = (TILE_PX // PATCH_PX // MERGED) ** 2
MOST_TILES = 2
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
def build_processor() -> InternVLProcessor:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(SPECIAL), eos_token="<|im_end|>", pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE, extra_special_tokens=NAMED, padding_side="left",
        model_max_length=CONFIG["text_config"]["max_position_embeddings"],
    )  # fmt: skip
    size, colours = {"height": TILE_PX, "width": TILE_PX}, {"image_mean": MEAN, "image_std": DEVIATION}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=MOST_TILES, **colours),
        video_processor=InternVLVideoProcessor(size=size, **colours),
        tokenizer=tokenizer, image_seq_length=TILE_TOKENS, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def build_config(tokenizer: PreTrainedTokenizerFast) -> InternVLConfig:
    """The starter's sizes (`build.CONFIG`). Embeddings are not tied, as in the published models."""
    text, vision = CONFIG["text_config"], CONFIG["vision_config"]
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    rope = {name: text["rope_parameters"][name] for name in ("rope_type", "rope_theta")}
    return InternVLConfig(
        text_config={
            **text, **ends, "model_type": "qwen3", "rope_parameters": rope, "vocab_size": len(tokenizer),
            "tie_word_embeddings": False, "dtype": "float32",
        },
        vision_config={
            "hidden_size": vision["hidden_size"], "num_hidden_layers": vision["depth"],
            "num_attention_heads": vision["num_heads"], "intermediate_size": vision["intermediate_size"],
            "attention_bias": True, "image_size": [TILE_PX, TILE_PX], "patch_size": [PATCH_PX, PATCH_PX],
            "norm_type": "layer_norm", "use_qk_norm": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=TILE_TOKENS,
        downsample_ratio=1 / MERGED, tie_word_embeddings=False, dtype="float32",
    )  # fmt: skip


def build_checkpoint(out: Path, seed: int = 0) -> None:
    """Write the model, the tokenizer, the processor and the chat template to the folder `out`."""
    processor = build_processor()
    config = build_config(processor.tokenizer)
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    positions = model.model.vision_tower.embeddings.position_embeddings  # the first is that of the class token
    with torch.no_grad():
        positions[0, 1:] = sinusoids(TILE_PX // PATCH_PX, config.vision_config.hidden_size)
    ends = {name: getattr(config.text_config, name) for name in ("eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(out)
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
