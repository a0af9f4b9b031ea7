"""Whether the engine computes what transformers computes: log-probabilities of the tokens of a few greedy answers."""

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

ANSWERS, TOKENS = 4, 32
LIMIT = 0.1  # mean difference in nats; bfloat16 on a GPU is well below, another model or template far above


def ask(target: Target, questions: Sequence[Question]) -> list[tuple[Question, Completion]]:
    """Greedy answers to the first questions, with the engine's log-probabilities."""
    asked = questions[:ANSWERS]
    return list(zip(asked, complete(target, asked, temperature=0, max_tokens=TOKENS, logprobs=True), strict=True))


def compare(
    checkpoint: Path, asked: Sequence[tuple[Question, Completion]], images: Path, settings: Settings
) -> Finding:
    """The engine's numbers against those of transformers, which takes a GPU where there is one: call it when the engine
    has left it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
    differences = []
    for question, completion in asked:
        scores = [(token, value) for token, value in completion.choices[0].logprobs if token]
        answer = processor.tokenizer.encode("".join(token for token, _ in scores), add_special_tokens=False)
        # An answer may be empty, or hold a token that is a part of a character, which its text does not tell.
        if answer and len(answer) == len(scores):
            ours = _reference(model, processor, question, images, settings, answer)
            differences.append(np.abs(ours - np.array([value for _, value in scores])))
    if not differences:
        means = "Without the engine's log-probabilities it is not known whether it computes what the trainer does."
        return Finding("log-probabilities", "none that can be compared", means, "Use vLLM or sglang with logprobs.")
    every = np.concatenate(differences)
    text = f"{len(every)} tokens differ by {every.mean():.4f} nats on average and {every.max():.4f} at most"
    if every.mean() <= LIMIT:
        return Finding("log-probabilities", f"{text} between engine and transformers")
    means = "Engine and trainer compute different things: stage 2 would train on answers of another policy."
    change = "Compare dtypes and versions with requirements/; try the other engine."
    return Finding("log-probabilities", text, means, change)


@torch.no_grad()
def _reference(
    model, processor, question: Question, images: Path, settings: Settings, answer: Sequence[int]
) -> np.ndarray:
    """(len(answer),) log-probabilities of its tokens behind the question."""
    sample = question.sample
    prompt = render_prompt(settings.prompt if sample.modal_xyxy_px is None else settings.amodal_prompt, sample.sent)
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    turn = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    limits = {"size": {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}}
    resized = {"images_kwargs": limits} if settings.max_pixels else {}
    inputs = processor(text=[text], images=[open_picture(images / sample.image)], return_tensors="pt", **resized)
    more = torch.tensor([list(answer)])
    start = inputs.input_ids.shape[1]
    inputs["input_ids"] = torch.cat([inputs.input_ids, more], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs.input_ids)
    inputs["mm_token_type_ids"] = torch.cat([inputs.mm_token_type_ids, torch.zeros_like(more)], dim=1)
    logits = model(**inputs.to(model.device)).logits[0, start - 1 : -1].float().cpu()
    return logits.log_softmax(-1).gather(1, more[0, :, None])[:, 0].numpy()
