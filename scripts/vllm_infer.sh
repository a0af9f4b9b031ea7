#!/usr/bin/env bash
# Evaluate one checkpoint on one or all splits, served by vLLM on all GPUs of this machine (or on the CPU).
#
#   MODEL_PATH=EGM-8B DATA_JSON=metadata/eval BASE_IMG_PATH=coco OUTPUT_DIR=outputs/egm-8b bash scripts/vllm_infer.sh
#
# MODEL_PATH     a checkpoint folder, or a model of the Hugging Face hub
# DATA_JSON      one evaluation jsonl, several (separated by spaces), or a folder of them
# BASE_IMG_PATH  the folder that image paths in them are relative to (or BASE_IMG_DIR)
# OUTPUT_DIR     predictions, summary, timing and report; rerun the command to resume
#
# Further arguments go to `python -m qwen3vl_rl.evaluation`, such as --limit 100, or -- --tensor-parallel-size 2
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
BASE_IMG_PATH=${BASE_IMG_PATH:-${BASE_IMG_DIR:-}} # the release's name
require MODEL_PATH DATA_JSON BASE_IMG_PATH OUTPUT_DIR
[[ -e $DATA_JSON ]] && data=("$DATA_JSON") || read -ra data <<<"$DATA_JSON"
exec "$python" -m qwen3vl_rl.evaluation --engine "${ENGINE:-vllm}" \
  --model "$(basename "$MODEL_PATH")=$MODEL_PATH" --data "${data[@]}" --images "$BASE_IMG_PATH" --out "$OUTPUT_DIR" "$@"
