#!/usr/bin/env bash
# Write the RL training parquet from a training jsonl, and check that no evaluation image is in it.
#
#   BASE_IMG_PATH=DIR OUTPUT_DIR=DIR VAL_DIR=DIR TRAIN_JSON=FILE bash examples/data_preprocess/grounding_all.sh
#
# BASE_IMG_PATH  folder that image paths are relative to    OUTPUT_DIR  gets train_grounding.parquet
# VAL_DIR        holds refcoco_val.jsonl and so on          TRAIN_JSON  training or evaluation rows, jsonl
# Further arguments go to qwen3vl_rl.data.tools.rl_parquet. With exit code 1 the file is written, but contains evaluation
# images.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
BASE_IMG_PATH=${BASE_IMG_PATH:-${BASE_IMG_DIR:-}} # the name in the release
require BASE_IMG_PATH OUTPUT_DIR VAL_DIR TRAIN_JSON
train=$OUTPUT_DIR/train_grounding.parquet
"$python" -m qwen3vl_rl.data.tools.rl_parquet --samples "$TRAIN_JSON" --images "$BASE_IMG_PATH" --split train --out "$train" "$@"
"$python" -m qwen3vl_rl.data.tools.check "$TRAIN_JSON" --images "$BASE_IMG_PATH" --no-check-images \
  --evaluation "$VAL_DIR"/*.jsonl
