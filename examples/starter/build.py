"""Build a small Qwen3-VL checkpoint with random weights that transformers, verl and vLLM load unchanged.

    python -m examples.starter.build --out DIR [--seed 0] [--set text_config.num_hidden_layers=8]

The architecture is that of Qwen3-VL (patch 16, merge 2, deepstack, interleaved mRoPE), in the sizes of `CONFIG`. The
tokenizer is a byte-level BPE trained on RefShapes text. It has Qwen's special tokens and one token per digit, and it
encodes any UTF-8 text. The chat template follows Qwen3-VL-Thinking: the generation prompt opens `<think>`.
"""

import argparse
import copy
import itertools
import json
import math
from functools import cache
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from qwen3vl_rl.data.refshapes import HEIGHT, PLAIN, WIDTH, referrals
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.grounding import PROMPTS, px_to_1000, render_prompt, target_text

CONFIG = {  # about 5.8 million parameters, most of them in the vision tower
    "tie_word_embeddings": True,
    "text_config": {
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,  # short contexts; Qwen3-VL uses 5e6
            "mrope_section": [12, 10, 10],
            "mrope_interleaved": True,
        },
    },
    "vision_config": {
        "depth": 4,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_heads": 3,
        "out_hidden_size": 192,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "num_position_embeddings": 100,  # a 10 x 10 grid, interpolated to the image's
        "deepstack_visual_indexes": [1, 2],
    },
}
MIN_PIXELS, MAX_PIXELS = 32 * 32, 50176  # the upper limit is the SFT recipe's
VOCAB_SIZE = 640  # before special tokens
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
PLAIN_ADDED = ["<think>", "</think>"]  # not special, as in Qwen: decoding keeps them when it skips special tokens
CHAT_TEMPLATE = """\
{%- macro render(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if 'image' in part or 'image_url' in part or part.type == 'image' -%}
                <|vision_start|><|image_pad|><|vision_end|>
            {%- elif 'text' in part -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {%- set text = render(message.content) -%}
    {%- if message.role == 'assistant' and '</think>' in text -%}
        {%- set reasoning = text.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
        {%- set text = '<think>\\n' + reasoning + '\\n</think>\\n\\n' + text.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' + text + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n<think>\\n' -}}
{%- endif -%}
"""


def corpus(count: int = 4_000):
    """Yield the prompts and answers that the tokenizer is trained on."""
    for referral in itertools.islice(referrals("tokenizer", PLAIN.kinds, 0.2), count):
        xyxy_1000 = px_to_1000(referral.xyxy_px, WIDTH, HEIGHT)
        yield target_text(referral.reasoning, xyxy_1000, referral.query.sent)
        yield from (render_prompt(name, referral.query.sent) for name in PROMPTS)
    yield from ["user\n", "assistant\n", "system\n"] * 1000


def train_tokenizer(special: list[str]) -> Tokenizer:
    """A tokenizer of RefShapes text with these special tokens and those that open and close reasoning."""
    core = Tokenizer.from_str(trained_words())
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_ADDED])
    return core


@cache
def trained_words() -> str:
    """A tokenizer of RefShapes text as JSON. Its training takes seconds, so the result is kept for the process."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [  # a digit, a word with its space, or a run of anything else: JSON punctuation becomes few tokens
            pre_tokenizers.Split(Regex(r"\p{N}| ?\p{L}+|[^\p{N}\p{L}]+?(?= \p{L})|[^\p{N}\p{L}]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(corpus(), trainer)
    return core.to_str()


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(SPECIAL),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONFIG["text_config"]["max_position_embeddings"],
    )


def build_processor() -> Qwen3VLProcessor:
    vision = CONFIG["vision_config"]
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    patches = {"patch_size": vision["patch_size"], "merge_size": vision["spatial_merge_size"]}
    norm = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **patches, **norm),
        video_processor=Qwen3VLVideoProcessor(**patches, **norm),
        tokenizer=build_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast, changes: dict[str, object]) -> Qwen3VLConfig:
    """`CONFIG` with `changes` by dotted name and the token ids of the tokenizer.

    Raises InputError for a name that `CONFIG` does not have.
    """
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        *path, last = name.split(".")
        node = config
        for key in path:
            node = node.get(key, {})
        if last not in node:
            raise InputError(f"--set {name}: expected a field of CONFIG in {Path(__file__).name}")
        node[last] = value
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")
    }
    ids |= {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    config["text_config"] |= {
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": config["tie_word_embeddings"],
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "dtype": "float32",
    }
    return Qwen3VLConfig(**config, **ids, dtype="float32")


def build_model(config: Qwen3VLConfig, seed: int) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    visual = model.model.visual
    with torch.no_grad():
        visual.pos_embed.weight.copy_(sinusoids(visual.num_grid_per_side, config.vision_config.hidden_size))
    model.generation_config = GenerationConfig(
        eos_token_id=config.text_config.eos_token_id, pad_token_id=config.text_config.pad_token_id
    )
    return model


def sinusoids(side: int, width: int) -> torch.Tensor:
    """Position embeddings of a `side` x `side` grid, (side², width).

    Half of the channels encode y, half encode x, with wavelengths from 2 to 4 * side patches. The values are as large
    as the patch embeddings. With transformers' initialization, normal with a deviation of 0.02, colours dominate, and
    the model learns what is in a picture long before it learns where.
    """
    frequencies = torch.logspace(0, math.log10(2 * side), width // 4) * math.pi / (2 * side)
    angles = torch.arange(side)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    return torch.cat([axis.repeat_interleave(side, dim=0), axis.repeat(side, 1)], dim=1)


def build_checkpoint(out: Path, seed: int = 0, changes: dict[str, object] | None = None) -> None:
    """Write the model, the tokenizer, the processor and the chat template to the folder `out`."""
    processor = build_processor()
    build_model(build_config(processor.tokenizer, changes or {}), seed).save_pretrained(out)
    processor.save_pretrained(out)


def read_changes(items: list[str]) -> dict[str, object]:
    """Parse `NAME=JSON` items into the changes that `build_checkpoint` takes."""
    return {name: json.loads(value) for name, _, value in (item.partition("=") for item in items)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="change a field of CONFIG")
    args = parser.parse_args()
    build_checkpoint(args.out, args.seed, read_changes(args.set))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    cli(main)
