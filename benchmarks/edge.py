"""Longer or bigger on a few CPU cores: milliseconds of an answer, by size of the model and length of the answer.

    pip install --no-deps ctranslate2==4.8.5
    OMP_NUM_THREADS=2 python -m benchmarks.edge --threads 2 --out FILE

The language models are those of `examples/longer_vs_bigger/config.yaml`, with random weights: an answer of a fixed
length takes as long as a trained model's. The picture is not read, because all sizes have the same vision encoder.
Each model runs in CTranslate2, an inference library for small devices, with 32-bit and with 8-bit weights, and in
vLLM, one request at a time. Models and lengths take turns, round by round.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from benchmarks.common import work_folder, write_result
from benchmarks.spread import spread
from examples.longer_vs_bigger.run import CONFIG
from examples.starter.build import build_config, build_processor
from qwen3vl_rl.errors import InputError

PROMPT_TOKENS = 47  # mean of the experiment's prompts
COMPARED_TOKENS = 16
RUNTIMES = ("ctranslate2 float32", "ctranslate2 int8", "vllm float32")
Runtime = Callable[[list[int], int], list[int]]  # the tokens of a greedy answer of a length to a prompt


def random_language_model(folder: Path, shape: dict, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """Save the language model of Qwen3-VL in `shape`, which is a Qwen3 where there is no picture."""
    torch.manual_seed(0)
    starter = build_config(tokenizer, {}).text_config
    config = Qwen3Config(vocab_size=len(tokenizer), head_dim=starter.head_dim, tie_word_embeddings=True, **shape)
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def ctranslate2(folder: Path, precision: str, threads: int, tokenizer: PreTrainedTokenizerBase) -> Runtime:
    from ctranslate2 import Generator
    from ctranslate2.converters import TransformersConverter

    converted = TransformersConverter(str(folder)).convert(f"{folder}-{precision}", quantization=precision)
    generator = Generator(converted, "cpu", inter_threads=1, intra_threads=threads, compute_type=precision)

    def answer(prompt: list[int], tokens: int) -> list[int]:
        limits = {"max_length": tokens, "min_length": tokens, "end_token": [], "include_prompt_in_result": False}
        return generator.generate_batch([tokenizer.convert_ids_to_tokens(prompt)], **limits)[0].sequences_ids[0]

    return answer


def vllm(folder: Path, precision: str, threads: int, tokenizer: PreTrainedTokenizerBase) -> Runtime:
    """`threads`: one worker has as many as OMP_NUM_THREADS, or all cores."""
    from vllm import LLM, SamplingParams

    # As our evaluation serves small models: compiling them costs more than it gains.
    engine = LLM(str(folder), dtype=precision, enforce_eager=True, max_model_len=512, kv_cache_memory_bytes=2**28,
                 enable_prefix_caching=False)  # fmt: skip

    def answer(prompt: list[int], tokens: int) -> list[int]:
        how = SamplingParams(temperature=0, min_tokens=tokens, max_tokens=tokens, ignore_eos=True)
        (done,) = engine.generate({"prompt_token_ids": prompt}, how, use_tqdm=False)
        return list(done.outputs[0].token_ids)

    return answer


def plain(model: Qwen3ForCausalLM, prompt: list[int]) -> list[int]:
    """transformers' greedy answer."""
    limits = {"max_new_tokens": COMPARED_TOKENS, "min_new_tokens": COMPARED_TOKENS, "do_sample": False}
    return model.generate(torch.tensor([prompt]), **limits)[0, len(prompt) :].tolist()


def seconds(answer: Runtime, prompt: list[int], tokens: int) -> float:
    start = time.perf_counter()
    found = len(answer(prompt, tokens))
    if found != tokens:
        raise InputError(f"expected an answer of {tokens} tokens, got {found}")
    return time.perf_counter() - start


def measure(args: argparse.Namespace, work: Path) -> list[dict]:
    tokenizer = build_processor().tokenizer
    prompt = list(range(PROMPT_TOKENS))
    start = {"ctranslate2": ctranslate2, "vllm": vllm}
    answers: dict[tuple[str, str], Runtime] = {}
    rows: dict[tuple[str, str], dict] = {}
    for size, shape in OmegaConf.to_container(OmegaConf.load(CONFIG).ladder).items():
        model = random_language_model(work / size, shape, tokenizer)
        expected = plain(model, prompt)
        parameters = sum(p.numel() for p in model.parameters())
        for runtime in args.runtime:
            library, precision = runtime.split()
            answer = start[library](work / size, precision, args.threads, tokenizer)
            same = answer(prompt, COMPARED_TOKENS) == expected
            answers[size, runtime] = answer
            rows[size, runtime] = {"size": size, "runtime": runtime, "parameters": parameters, "same_tokens": same}
    times: dict[tuple, list[float]] = {}
    for _ in range(args.rounds):
        for (key, answer), tokens in product(answers.items(), args.tokens):
            times.setdefault((key, tokens), []).append(seconds(answer, prompt, tokens))
    return [row | {"latency_s": {n: spread(times[key, n]) for n in args.tokens}} for key, row in rows.items()]


def report(rows: Sequence[dict]) -> None:
    for row in rows:
        found = ", ".join(f"{n} tokens {1000 * s['median']:.0f} ms" for n, s in row["latency_s"].items())
        other = "" if row["same_tokens"] else "; its answer differs from transformers'"
        print(f"{row['size']:>4} {row['runtime']:<20} {found}{other}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--tokens", type=int, nargs="+", default=[36, 82, 112], help="lengths, as in the experiment")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with work_folder(None) as work:
        rows = measure(args, work)
    write_result(args.out, "benchmarks.edge", {"threads": args.threads, "prompt_tokens": PROMPT_TOKENS, "rows": rows})
    report(rows)


if __name__ == "__main__":
    main()
