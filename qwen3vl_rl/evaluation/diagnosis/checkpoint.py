"""Checks of a checkpoint's files against what the project assumes about its family. No weights are loaded.

The expected values are those of the published checkpoints and of the EGM recipe.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightTransform

from qwen3vl_rl.evaluation.diagnosis import Finding
from qwen3vl_rl.evaluation.diagnosis.pictures import pictures
from qwen3vl_rl.evaluation.serving.engines import MAX_PROMPT_TOKENS
from qwen3vl_rl.grounding import OPEN_THINK
from qwen3vl_rl.models.families import FAMILIES, SIZES
from qwen3vl_rl.models.families.interface import Family
from qwen3vl_rl.models.safetensors_header import read_tensor_shapes
from qwen3vl_rl.models.shapes import Shape

ASKED = "Locate the red star, output its bbox coordinates using JSON format"
HEAD = "lm_head.weight"
ANSWER_TOKENS = 2048  # longest answer of stage 2 in the EGM recipe
SHOWN = 60  # characters of the template that a finding quotes


def look(checkpoint: Path) -> Iterator[Finding]:
    """All findings about a folder with config.json and safetensors, most important first.

    Another architecture gives a single finding.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    found = (config.get("architectures") or ["none"])[0]
    family = next((family for family in FAMILIES.values() if family.architecture == found), None)
    if family is None:
        means = "Box format, picture sizes, packed attention and memory estimates are made for the families below."
        known = "; ".join(
            f"{family.architecture}: {family.name} {', '.join(map(str.upper, family.sizes))}"
            for family in FAMILIES.values()
        )
        yield Finding("architecture", found, means, f"Use a checkpoint of {known}.")
        return
    yield Finding("architecture", f"{found}, {published_size(family.shape(config))}")
    yield weights(checkpoint)
    yield tied(config)
    yield context(config)
    try:
        processor = AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        means = "Training and evaluation need the tokenizer, the chat template and the image processor."
        reason = str(error).partition("\n")[0]
        yield Finding(
            "processor", reason, means, "Copy their files from the model that this checkpoint was trained from."
        )
        return
    yield template(processor, family)
    yield special_tokens(config, processor.tokenizer, family)
    yield digits(processor.tokenizer)
    yield from pictures(family, config, processor)
    yield ends(checkpoint, processor.tokenizer)


def published_size(shape: Shape) -> str:
    return next((size.upper() for size, (_, known) in SIZES.items() if known == shape), "no published size")


def weights(checkpoint: Path) -> Finding:
    """Whether the files hold the tensors of the model that transformers builds from config.json."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(checkpoint))
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:  # the key that transformers reads; 8B's text_config does not have it
        wanted.pop(HEAD, None)
    renamings = get_model_conversion_mapping(model)
    stored = {
        loaded_name(name, renamings): shape
        for path in sorted(checkpoint.glob("*.safetensors"))
        for name, shape in read_tensor_shapes(path).items()
    }
    missing = [f"{name} is missing" for name in wanted if name not in stored]
    known = {*wanted, HEAD}
    if getattr(model.config, "quantization_config", None):
        known |= {f"{name}_scale" for name in wanted}
    unknown = [f"{name} is not part of this model" for name in stored if name not in known]
    other = [
        f"{name} has shape {stored[name]}, expected {shape}"
        for name, shape in wanted.items()
        if stored.get(name, shape) != shape
    ]
    problems = missing + other + unknown
    if not problems:
        return Finding("weights", f"{len(stored)} tensors, all as config.json describes them")
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    means = "transformers replaces missing tensors with random numbers; engines fail or answer nonsense."
    change = "Download the checkpoint again. To export one from a run: python -m qwen3vl_rl.export RUN CHECKPOINT."
    return Finding("weights", f"{problems[0]}{more}", means, change)


def loaded_name(stored: str, renamings: Sequence[WeightTransform]) -> str:
    """The name under which transformers loads a tensor; some families are stored under older names."""
    for renaming in renamings:
        stored, _ = renaming.rename_source_key(stored)
    return stored


def tied(config: Mapping[str, Any]) -> Finding:
    """Whether the two keys of config.json that libraries read for tied embeddings agree."""
    places = {
        place: part["tie_word_embeddings"]
        for place, part in (("", config), ("text_config.", config["text_config"]))
        if "tie_word_embeddings" in part
    }
    text = ", ".join(f"{place}tie_word_embeddings={str(value).lower()}" for place, value in places.items()) or "not set"
    if len(set(places.values())) < 2:
        return Finding("tied embeddings", text)
    means = (
        "Libraries read one key or the other: some would use the embeddings as output head, others a head of its own."
    )
    change = f"Set both to true if the weight files hold no {HEAD}, and to false if they do."
    return Finding("tied embeddings", text, means, change)


def context(config: Mapping[str, Any]) -> Finding:
    length, wanted = config["text_config"].get("max_position_embeddings", 0), MAX_PROMPT_TOKENS + ANSWER_TOKENS
    if length >= wanted:
        return Finding("context", f"{length:,} tokens")
    means = f"Prompt and answer of the recipe take up to {wanted:,} tokens together."
    change = f"Lower data.max_prompt_length and data.max_response_length to {length:,} tokens or less in total."
    return Finding("context", f"{length:,} tokens", means, change)


def template(processor, family: Family) -> Finding:
    """Whether the chat template gives the prompt that the family was trained on."""
    plain = family.turn(ASKED).removesuffix(OPEN_THINK)
    thinking = plain + OPEN_THINK
    content = [{"type": "image"}, {"type": "text", "text": ASKED}]
    seen = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    if seen == thinking:
        return Finding("chat template", "opens <think>, as for Qwen3-VL-Thinking")
    if seen == plain and not family.opens_thinking:
        return Finding("chat template", "opens no <think>, which stage 1 trains as a part of the answer")
    if seen == plain:
        means = (
            "The model answers without reasoning, as Qwen3-VL-Instruct does. Stage 1 trains reasoning inside <think> "
            "and rejects this template. Stage 2 and the evaluation accept it."
        )
        return Finding("chat template", "opens no <think>", means, "Start from the Thinking checkpoint of this size.")
    at = next((i for i, (a, b) in enumerate(zip(seen, thinking, strict=False)) if a != b), len(seen))
    part = seen[max(0, at - SHOWN // 2) : at + SHOWN]
    means = f"{family.name} was trained on other tokens around the question."
    change = "Copy chat_template.jinja (or .json) from the published checkpoint of this size."
    return Finding("chat template", f"differs from {family.name}'s at {part!r}", means, change)


def special_tokens(config: Mapping[str, Any], tokenizer, family: Family) -> Finding:
    problems = [
        f"{key}={config.get(key)}, but {token} is {tokenizer.convert_tokens_to_ids(token)}"
        for key, token in family.special_tokens.items()
        if config.get(key) != tokenizer.convert_tokens_to_ids(token)
    ]
    problems += [
        f"{mark} is {len(ids)} tokens, expected 1"
        for mark in ("<think>", "</think>")
        if len(ids := tokenizer.encode(mark, add_special_tokens=False)) != 1
    ]
    if tokenizer.eos_token != "<|im_end|>":
        problems.append(f"eos_token is {tokenizer.eos_token}, expected <|im_end|>")
    if len(tokenizer) > (rows := config["text_config"]["vocab_size"]):
        problems.append(f"the tokenizer has {len(tokenizer):,} tokens, the model {rows:,} embeddings")
    if not problems:
        return Finding("special tokens", "tokens for pictures, reasoning and the end of a turn are as expected")
    means = "The model would miss pictures, the reasoning or the end of an answer."
    change = "Use the tokenizer and the config.json of one and the same checkpoint."
    return Finding("special tokens", "; ".join(problems), means, change)


def digits(tokenizer) -> Finding:
    count = len(tokenizer.encode("1000", add_special_tokens=False))
    if count == 4:
        return Finding("digits", "one token each")
    means = "All families write coordinates digit by digit. Token budgets and per-token losses here rely on that."
    return Finding(
        "digits", f"1000 is {count} tokens, expected 4", means, "Use the tokenizer of the published checkpoint."
    )


def ends(checkpoint: Path, tokenizer) -> Finding:
    """Whether engines stop at the end of a turn."""
    path = checkpoint / "generation_config.json"
    given = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    numbers = {*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id} - {None}
    if tokenizer.convert_tokens_to_ids("<|im_end|>") in numbers:
        return Finding("generation config", "stops at <|im_end|>")
    means = "The engine does not stop at the end of an answer: every answer runs to the token limit."
    change = "Add the token id of <|im_end|> to eos_token_id in generation_config.json."
    return Finding("generation config", f"stops at {tokenizer.convert_ids_to_tokens(sorted(numbers))}", means, change)
