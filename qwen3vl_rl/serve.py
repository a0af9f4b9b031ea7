"""Serve a checkpoint behind the OpenAI API, with the settings of the evaluation.

    python -m qwen3vl_rl.serve MODEL                          vLLM on all GPUs, on port 8000 of this machine
    python -m qwen3vl_rl.serve MODEL --host 0.0.0.0 --port 80 -- --tensor-parallel-size 2

MODEL is a folder or a name on the Hugging Face hub. Its last part is the model's name for clients. All arguments after
`--` go to the server. Ctrl-C stops it. To ask it: `python -m qwen3vl_rl.locate IMAGE "expression"`.
"""

import argparse
import os
import tempfile
from pathlib import Path

from qwen3vl_rl.evaluation import command
from qwen3vl_rl.evaluation.serving.checkpoints import context_length, resolve_checkpoint
from qwen3vl_rl.evaluation.serving.engines import ENGINES, MAX_PROMPT_TOKENS, on_cpu, replicas
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.training import cpu


def server_command(args: argparse.Namespace) -> list[str]:
    """The command of the server. Raises InputError if MODEL is no checkpoint or the engine is not installed."""
    engine, settings, checkpoint = ENGINES[args.engine], load_settings(), resolve_checkpoint(args.model)
    _ = engine.version
    length = min(MAX_PROMPT_TOKENS + settings.max_tokens, context_length(checkpoint))
    no_images = Path(tempfile.mkdtemp(prefix="egm-serve-"))  # requests contain their images; none is read from disk
    named = ["--served-model-name", Path(args.model).name]
    address = ["--host", args.host, "--port", str(args.port)]
    begin = engine.command(checkpoint, length, no_images, settings, replicas(args.server_arguments))
    return [*begin, *named, *address, *args.server_arguments]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--engine", choices=ENGINES, default="vllm")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 accepts requests of other machines")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("server_arguments", nargs="*", metavar="-- SERVER_ARGUMENT")
    args = parser.parse_args()
    if on_cpu():
        cpu.activate()
    words = server_command(args)
    os.environ.update(ENGINES[args.engine].environment)
    os.execv(words[0], words)


if __name__ == "__main__":
    command.run(main)
