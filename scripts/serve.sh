#!/usr/bin/env bash
# Serve a checkpoint behind the OpenAI API: bash scripts/serve.sh MODEL [options of python -m qwen3vl_rl.serve]
# To ask it: python -m qwen3vl_rl.locate IMAGE "expression"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec "$python" -m qwen3vl_rl.serve --engine "${ENGINE:-vllm}" "$@"
