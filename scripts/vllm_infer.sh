#!/usr/bin/env bash
# Evaluate one checkpoint on one or all splits, served by vLLM on all GPUs of this machine (or on the CPU).
#
#   MODEL_PATH=EGM-8B DATA_JSON=metadata/eval BASE_IMG_PATH=coco OUTPUT_DIR=outputs/egm-8b bash scripts/vllm_infer.sh
#
# MODEL_PATH     a checkpoint folder, or a model of the Hugging Face hub
# DATA_JSON      one evaluation jsonl, several (separated by spaces), or a folder of them
# BASE_IMG_PATH  the folder that image paths in them are relative to
# OUTPUT_DIR     predictions, summary, timing, table and report; the same command goes on where a stopped run ended
#
# Further arguments go to `python -m qwen3vl_rl.evaluation`, such as --limit 100, or -- --tensor-parallel-size 2
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for name in MODEL_PATH DATA_JSON BASE_IMG_PATH OUTPUT_DIR; do
  [[ -n ${!name:-} ]] || { echo "error: $name is not set; the head of scripts/vllm_infer.sh tells what it names" >&2; exit 2; }
done
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3
[[ -e $DATA_JSON ]] && data=("$DATA_JSON") || read -ra data <<<"$DATA_JSON"
exec env PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" "$python" -m qwen3vl_rl.evaluation --engine "${ENGINE:-vllm}" \
  --model "$(basename "$MODEL_PATH")=$MODEL_PATH" --data "${data[@]}" --images "$BASE_IMG_PATH" --out "$OUTPUT_DIR" "$@"
