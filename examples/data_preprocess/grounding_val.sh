#!/usr/bin/env bash
# The RL validation parquet from the eight RefCOCO evaluation files.
#
#   BASE_IMG_PATH=DIR OUTPUT_DIR=DIR VAL_DIR=DIR bash examples/data_preprocess/grounding_val.sh [--choice released]
#
# BASE_IMG_PATH  what image paths are relative to    OUTPUT_DIR  gets val_grounding.parquet
# VAL_DIR        holds refcoco_val.jsonl and so on   arguments   go to qwen3vl_rl.data.tools.rl_val
set -euo pipefail
python=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin/python
for name in BASE_IMG_PATH OUTPUT_DIR VAL_DIR; do
  [[ -n ${!name:-} ]] || { echo "error: set $name, see examples/data_preprocess/README.md" >&2; exit 2; }
done
val=$OUTPUT_DIR/val_grounding.parquet
"$python" -m qwen3vl_rl.data.tools.rl_val --val-dir "$VAL_DIR" --images "$BASE_IMG_PATH" --out "$val" "$@"
"$python" -m qwen3vl_rl.data.tools.check "$val"
