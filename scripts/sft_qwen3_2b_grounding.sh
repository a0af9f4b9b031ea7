#!/usr/bin/env bash
# Stage 1: SFT of Qwen3-VL-2B-Thinking on reasoning traces, the released recipe on one node of 8 GPUs.
exec bash "$(dirname "${BASH_SOURCE[0]}")/sft_qwen3_grounding.sh" 2b "$@"
