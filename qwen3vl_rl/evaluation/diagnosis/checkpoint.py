"""What a checkpoint's files say, compared with what the project assumes of Qwen3-VL. No weights are loaded.

The expected values are those of the published Qwen3-VL checkpoints and of the EGM recipe.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from qwen3vl_rl.evaluation.diagnosis import Finding
from qwen3vl_rl.evaluation.serving.engines import MAX_PROMPT_TOKENS
from qwen3vl_rl.models.safetensors_header import read_tensor_shapes
from qwen3vl_rl.models.shapes import EDGES, PUBLISHED, QWENS_PIXELS, read_shape

ARCHITECTURE = "Qwen3VLForConditionalGeneration"
PATCH_PX, MERGE, FRAMES = 16, 2, 2
MEAN_AND_DEVIATION = [0.5, 0.5, 0.5]
ASKED = "Locate the red star, output its bbox coordinates using JSON format"
TURN = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{ASKED}<|im_end|>\n<|im_start|>assistant\n"
OPEN_THINK = "<think>\n"
HEAD = "lm_head.weight"
ANSWER_TOKENS = 2048  # egm recipe, stage 2: the longest answer
SPECIAL = {  # a key of config.json: the token that it must be the number of
    "image_token_id": "<|image_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
SHOWN = 60  # characters of a text in a line


def look(checkpoint: Path) -> Iterator[Finding]:
    """All findings about a folder with config.json and safetensors, in the order in which they matter. Of another
    architecture there is one alone."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    found = (config.get("architectures") or ["none"])[0]
    if found != ARCHITECTURE:
        means = "Boxes, picture sizes, packed attention and the recipe's memory are those of dense Qwen3-VL models."
        yield Finding("architecture", found, means, f"Use a checkpoint of {ARCHITECTURE}: Qwen3-VL 2B, 4B, 8B or 32B.")
        return
    yield Finding("architecture", f"{found}, {published_size(config)}")
    yield weights(checkpoint)
    yield tied(config)
    yield context(config)
    try:
        processor = AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        means = "Without tokenizer, template and image processor nothing can be asked or trained."
        reason = str(error).partition("\n")[0]
        yield Finding(
            "processor", reason, means, "Copy these files from the model that the checkpoint was trained from."
        )
        return
    yield template(processor)
    yield special_tokens(config, processor.tokenizer)
    yield digits(processor.tokenizer)
    yield patches(config, processor.image_processor)
    yield pixels(processor.image_processor)
    yield ends(checkpoint, processor.tokenizer)


def published_size(config: Mapping[str, Any]) -> str:
    shape = read_shape(config)
    return next((size.upper() for size, known in PUBLISHED.items() if known == shape), "no published size")


def weights(checkpoint: Path) -> Finding:
    """The tensors of the files, compared with those of the model that transformers builds of config.json."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(checkpoint))
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:  # which transformers reads; 8B's text_config has no such key
        wanted.pop(HEAD, None)
    stored = {
        name: shape
        for path in sorted(checkpoint.glob("*.safetensors"))
        for name, shape in read_tensor_shapes(path).items()
    }
    missing = [f"{name} is missing" for name in wanted if name not in stored]
    unknown = [f"{name} is not of this model" for name in stored if name not in wanted and name != HEAD]
    other = [
        f"{name} is {stored[name]}, expected {shape}"
        for name, shape in wanted.items()
        if stored.get(name, shape) != shape
    ]
    problems = missing + other + unknown
    if not problems:
        return Finding("weights", f"{len(stored)} tensors, as config.json describes them")
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    means = "transformers fills what is missing with random numbers and goes on; engines stop or answer nonsense."
    change = "Download or copy the checkpoint again. A checkpoint of a run is exported by python -m qwen3vl_rl.export."
    return Finding("weights", f"{problems[0]}{more}", means, change)


def tied(config: Mapping[str, Any]) -> Finding:
    """Both places of config.json in which libraries look for tied embeddings agree."""
    places = {
        place: part["tie_word_embeddings"]
        for place, part in (("", config), ("text_config.", config["text_config"]))
        if "tie_word_embeddings" in part
    }
    text = (
        ", ".join(f"{place}tie_word_embeddings={str(value).lower()}" for place, value in places.items()) or "not said"
    )
    if len(set(places.values())) < 2:
        return Finding("tied embeddings", text)
    means = (
        "Libraries read one or the other: one of them gives the head the weights of the embeddings, another its own."
    )
    change = f"Set both to {str(HEAD not in config).lower()} if the files hold no {HEAD}, and to false if they do."
    return Finding("tied embeddings", text, means, change)


def context(config: Mapping[str, Any]) -> Finding:
    length, wanted = config["text_config"].get("max_position_embeddings", 0), MAX_PROMPT_TOKENS + ANSWER_TOKENS
    if length >= wanted:
        return Finding("context", f"{length:,} tokens")
    means = f"The recipe's prompts and answers take up to {wanted:,} tokens."
    change = f"Set data.max_prompt_length and data.max_response_length to {length:,} or less together."
    return Finding("context", f"{length:,} tokens", means, change)


def template(processor) -> Finding:
    """The turn that generation sees."""
    content = [{"type": "image"}, {"type": "text", "text": ASKED}]
    seen = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    if seen == TURN + OPEN_THINK:
        return Finding("chat template", "opens <think>, as Qwen3-VL-Thinking's")
    if seen == TURN:
        means = (
            "The model answers at once, as Qwen3-VL-Instruct does. Stage 1 teaches reasoning inside <think> and "
            "refuses this. Stage 2 and the evaluation run, on answers without reasoning."
        )
        return Finding("chat template", "opens no <think>", means, "Start from the Thinking checkpoint of that size.")
    at = next((i for i, (a, b) in enumerate(zip(seen, TURN + OPEN_THINK, strict=False)) if a != b), len(seen))
    part = seen[max(0, at - SHOWN // 2) : at + SHOWN]
    means = "The model sees other tokens around the question than Qwen3-VL was trained on."
    change = "Copy chat_template.jinja (or .json) from the published checkpoint of this size."
    return Finding("chat template", f"differs from Qwen3-VL's at {part!r}", means, change)


def special_tokens(config: Mapping[str, Any], tokenizer) -> Finding:
    problems = [
        f"{key}={config.get(key)}, but {token} is {tokenizer.convert_tokens_to_ids(token)}"
        for key, token in SPECIAL.items()
        if config.get(key) != tokenizer.convert_tokens_to_ids(token)
    ]
    problems += [
        f"{mark} is {len(ids)} tokens"
        for mark in ("<think>", "</think>")
        if len(ids := tokenizer.encode(mark, add_special_tokens=False)) != 1
    ]
    if tokenizer.eos_token != "<|im_end|>":
        problems.append(f"the end of a turn is {tokenizer.eos_token}, not <|im_end|>")
    if len(tokenizer) > (rows := config["text_config"]["vocab_size"]):
        problems.append(f"{len(tokenizer):,} tokens, but {rows:,} rows of embeddings")
    if not problems:
        return Finding("special tokens", "those of pictures, of reasoning and of the end of a turn are as expected")
    means = "Pictures, reasoning or the end of an answer are lost: image features and tokens do not match."
    return Finding("special tokens", "; ".join(problems), means, "Use the tokenizer and config.json of one checkpoint.")


def digits(tokenizer) -> Finding:
    count = len(tokenizer.encode("1000", add_special_tokens=False))
    if count == 4:
        return Finding("digits", "one token each")
    means = "Qwen3-VL writes coordinates digit by digit. Lengths, budgets and per-token losses here count on that."
    return Finding("digits", f"1000 is {count} tokens", means, "Use the tokenizer of Qwen3-VL.")


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
    means = "Pictures are cut into other pieces than the model was trained on: features do not match, or boxes are off."
    return Finding("patches", text, means, "Use the preprocessor_config.json of the checkpoint's own base model.")


def pixels(processor) -> Finding:
    """What pictures are resized to, and their scaling."""
    limits = tuple(processor.size.get(name) for name in EDGES)
    text = f"{limits[0]} to {limits[1]} pixels a picture"
    if (list(processor.image_mean), list(processor.image_std)) != (MEAN_AND_DEVIATION, MEAN_AND_DEVIATION):
        text = f"mean {list(processor.image_mean)}, deviation {list(processor.image_std)}"
        means = "Qwen3-VL sees colours scaled to -1..1."
        return Finding("pixels", text, means, "Set image_mean and image_std of preprocessor_config.json to 0.5 each.")
    if limits == QWENS_PIXELS:
        return Finding("pixels", text)
    means = (
        "The paper's stage 2 and evaluation show pictures within Qwen3-VL's own limits, 65,536 to 16,777,216 pixels."
    )
    change = "Set size in preprocessor_config.json, or min_pixels and max_pixels in the settings of the evaluation."
    return Finding("pixels", text, means, change)


def ends(checkpoint: Path, tokenizer) -> Finding:
    """The tokens at which engines stop."""
    path = checkpoint / "generation_config.json"
    given = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    numbers = {*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id} - {None}
    if tokenizer.convert_tokens_to_ids("<|im_end|>") in numbers:
        return Finding("generation config", "stops at <|im_end|>")
    means = "Answers do not end with the turn: every one runs until max_tokens."
    change = "Add the number of <|im_end|> to eos_token_id of generation_config.json."
    return Finding("generation config", f"stops at {tokenizer.convert_ids_to_tokens(sorted(numbers))}", means, change)
