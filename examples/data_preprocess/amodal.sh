#!/usr/bin/env bash
# Convert COCOA annotation to amodal samples, split by degree of occlusion, and to RL parquet.
#
#   BASE_IMG_PATH=DIR OUTPUT_DIR=DIR TRAIN_JSON=FILE VAL_JSON=FILE bash examples/data_preprocess/amodal.sh
#
# BASE_IMG_PATH  folder that image paths are relative to; holds coco/train2014 and coco/val2014
# OUTPUT_DIR     gets cocoa_train_*.jsonl, eval/cocoa_val_*.jsonl, train_amodal.parquet, val_amodal.parquet
# TRAIN_JSON     COCO_amodal_train2014.json          VAL_JSON    COCO_amodal_val2014.json
# OUTSIDE        amodal boxes that leave the image: clip (default) or drop
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
BASE_IMG_PATH=${BASE_IMG_PATH:-${BASE_IMG_DIR:-}} # the name in the release
require BASE_IMG_PATH OUTPUT_DIR TRAIN_JSON VAL_JSON
convert() {
  "$python" -m qwen3vl_rl.data.tools.convert cocoa --out "$OUTPUT_DIR" --outside "${OUTSIDE:-clip}" --name "$1" --files "$2"
}
parquet() {
  "$python" -m qwen3vl_rl.data.tools.rl_parquet --images "$BASE_IMG_PATH" --split "$1" --out "$2" --samples "${@:3}"
}
convert cocoa_train "$TRAIN_JSON"
convert cocoa_val "$VAL_JSON"
parquet train "$OUTPUT_DIR/train_amodal.parquet" "$OUTPUT_DIR"/cocoa_train_*.jsonl
parquet test "$OUTPUT_DIR/val_amodal.parquet" "$OUTPUT_DIR"/eval/cocoa_val_*.jsonl
"$python" -m qwen3vl_rl.data.tools.check "$OUTPUT_DIR"/cocoa_train_*.jsonl --evaluation "$OUTPUT_DIR"/eval/cocoa_val_*.jsonl
