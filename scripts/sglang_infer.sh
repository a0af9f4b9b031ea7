#!/usr/bin/env bash
# Evaluate one checkpoint on one or all splits, served by sglang on all GPUs of this machine. Variables and arguments
# are the same as for scripts/vllm_infer.sh.
ENGINE=sglang exec bash "$(dirname "${BASH_SOURCE[0]}")/vllm_infer.sh" "$@"
