#!/usr/bin/env bash
# Evaluate checkpoints on the eight RefCOCO splits, and enter the results in docs/reproduction.md.
#
#   MODELS="EGM-8B=/models/EGM-8B Qwen3-VL-8B-Thinking=/models/8B" DATA_JSON=metadata/eval BASE_IMG_PATH=coco \
#     OUTPUT_DIR=outputs/reproduction bash scripts/reproduce.sh
#
# MODELS         NAME=PATH, separated by spaces; a NAME in the page's table puts the result below that published row
# DATA_JSON      a folder with the eight evaluation files
# BASE_IMG_PATH  the folder that image paths in them are relative to
# OUTPUT_DIR     predictions and reports; rerun the command to resume
# PROTOCOL       paper (default), qwen, vlmevalkit or lmms_eval
#
# Further arguments go to `python -m qwen3vl_rl.evaluation`, such as --reviewed FILE, or -- --tensor-parallel-size 2
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
require MODELS DATA_JSON BASE_IMG_PATH OUTPUT_DIR
PROTOCOL=${PROTOCOL:-paper}
models=() runs=()
for model in $MODELS; do
  models+=(--model "$model")
  runs+=("$OUTPUT_DIR/$PROTOCOL/${model%%=*}")
done
splits=()
for split in refcoco_val refcoco_testA refcoco_testB refcoco+_val refcoco+_testA refcoco+_testB refcocog_val refcocog_test; do
  splits+=(--split "$split")
done
"$python" -m qwen3vl_rl.evaluation.ledger >/dev/null # fails now rather than after all questions
"$python" -m qwen3vl_rl.evaluation --engine "${ENGINE:-vllm}" --protocol "$PROTOCOL" "${models[@]}" \
  --data "$DATA_JSON" --images "$BASE_IMG_PATH" "${splits[@]}" --out "$OUTPUT_DIR/$PROTOCOL" "$@"
"$python" -m qwen3vl_rl.evaluation.ledger --protocol "$PROTOCOL" "${runs[@]}"
