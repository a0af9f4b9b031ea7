#!/usr/bin/env bash
# Write the RL validation parquet from the RefCOCO evaluation files.
#
#   BASE_IMG_PATH=DIR OUTPUT_DIR=DIR VAL_DIR=DIR bash examples/data_preprocess/grounding_val.sh [--choice released]
#
# BASE_IMG_PATH  folder that image paths are relative to    OUTPUT_DIR  gets val_grounding.parquet
# VAL_DIR        holds refcoco_val.jsonl and so on
# Further arguments go to qwen3vl_rl.data.tools.rl_val.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
BASE_IMG_PATH=${BASE_IMG_PATH:-${BASE_IMG_DIR:-}} # the name in the release
require BASE_IMG_PATH OUTPUT_DIR VAL_DIR
val=$OUTPUT_DIR/val_grounding.parquet
"$python" -m qwen3vl_rl.data.tools.rl_val --val-dir "$VAL_DIR" --images "$BASE_IMG_PATH" --out "$val" "$@"
"$python" -m qwen3vl_rl.data.tools.check "$val"
