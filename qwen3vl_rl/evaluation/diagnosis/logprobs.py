"""Compares log-probabilities of the engine with those of transformers on the tokens of a few greedy answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from qwen3vl_rl.data.openai_client import Completion
from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.data.predictions import Question
from qwen3vl_rl.evaluation.diagnosis import Finding
from qwen3vl_rl.evaluation.serving.predict import Target, complete
from qwen3vl_rl.evaluation.serving.settings import Settings
from qwen3vl_rl.grounding import render_prompt
from qwen3vl_rl.models.families import find_family

ANSWERS, TOKENS = 4, 32
LIMIT = 0.1  # mean difference in nats; bfloat16 on a GPU gives far less, another model or template far more


def ask(target: Target, questions: Sequence[Question]) -> list[tuple[Question, Completion]]:
    """Ask the first questions greedily; the completions hold the engine's log-probabilities."""
    asked = questions[:ANSWERS]
    return list(zip(asked, complete(target, asked, temperature=0, max_tokens=TOKENS, logprobs=True), strict=True))


def compare(
    checkpoint: Path, asked: Sequence[tuple[Question, Completion]], images: Path, settings: Settings
) -> Finding:
    """Compare the engine's log-probabilities with those of transformers.

    transformers uses the GPU if there is one, so call this after the engine has stopped.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
    differences = []
    for question, completion in asked:
        scores = [(token, value) for token, value in completion.choices[0].logprobs if token]
        answer = processor.tokenizer.encode("".join(token for token, _ in scores), add_special_tokens=False)
        # Skip empty answers, and answers with tokens that are parts of a character: their text gives other tokens.
        if answer and len(answer) == len(scores):
            ours = _reference(model, processor, question, images, settings, answer)
            differences.append(np.abs(ours - np.array([value for _, value in scores])))
    if not differences:
        means = "It is not checked whether engine and trainer compute the same."
        return Finding("log-probabilities", "no answer to compare", means, "Use vLLM or sglang with logprobs.")
    every = np.concatenate(differences)
    apart = f"{every.mean():.4f} nats apart on average, {every.max():.4f} at most, over {len(every)} tokens"
    text = f"engine and transformers are {apart}"
    if every.mean() <= LIMIT:
        return Finding("log-probabilities", text)
    means = "Engine and trainer compute different things: stage 2 would train on answers of another policy."
    change = "Compare dtypes and installed versions with requirements/, or try the other engine with --engine."
    return Finding("log-probabilities", text, means, change)


@torch.no_grad()
def _reference(
    model, processor, question: Question, images: Path, settings: Settings, answer: Sequence[int]
) -> np.ndarray:
    """(len(answer),) log-probabilities that transformers gives the answer's tokens after the question."""
    sample = question.sample
    prompt = render_prompt(settings.prompt if sample.modal_xyxy_px is None else settings.amodal_prompt, sample.sent)
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    turn = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    resized = {}
    if settings.max_pixels:
        limits = find_family(model.config.to_dict()).pixel_arguments(settings.min_pixels, settings.max_pixels)
        resized = {"images_kwargs": limits}
    inputs = processor(text=[text], images=[open_picture(images / sample.image)], return_tensors="pt", **resized)
    more = torch.tensor([list(answer)])
    start = inputs.input_ids.shape[1]
    inputs["input_ids"] = torch.cat([inputs.input_ids, more], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs.input_ids)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs.mm_token_type_ids, torch.zeros_like(more)], dim=1)
    logits = model(**inputs.to(model.device)).logits[0, start - 1 : -1].float().cpu()
    return logits.log_softmax(-1).gather(1, more[0, :, None])[:, 0].numpy()
