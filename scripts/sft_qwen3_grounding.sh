#!/usr/bin/env bash
# Stage 1: SFT of Qwen3-VL on reasoning traces, the released recipe on one node of 8 GPUs unless overrides say so.
#
#   bash scripts/sft_qwen3_grounding.sh SIZE [Hydra overrides, such as hardware=gpu1 tuning=lora]      SIZE: 2b, 4b, 8b
#
# TRAIN_FILE  the parquet that sft.build_dataset wrote
# MODEL_PATH  the checkpoint to start from (default: Qwen/Qwen3-VL-SIZE-Thinking of the hub)
# OUTPUT_DIR  checkpoints and logs go to OUTPUT_DIR/TASK_NAME, the final checkpoint to OUTPUT_DIR/TASK_NAME/hf (outputs)
# TASK_NAME, PROJECT_NAME  names of the run (sft_SIZE) and of the project (egm), also at Weights & Biases
# WANDB_API_KEY or WANDB_MODE=offline  also log to Weights & Biases
#
# The same command goes on after an interruption.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
size=${1:?must be 2b, 4b or 8b}
shift
: "${TRAIN_FILE:?must name the parquet that sft.build_dataset wrote}"
for word in "$@"; do
  case $word in
    trainer.default_local_dir=*) echo "error: $word: expected OUTPUT_DIR and TASK_NAME to name the folder" >&2; exit 2 ;;
    --cfg | --help | -h) look=1 ;;
  esac
done
unset PYTHONDONTWRITEBYTECODE # every process would compile torch again
python=$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python)
task=${TASK_NAME:-sft_$size}
run=${OUTPUT_DIR:-outputs}/$task

text() { printf '%s="%s"' "$1" "$(sed 's/[\\"]/\\&/g' <<<"$2")"; } # NAME="VALUE": no comma, bracket or = is Hydra's
overrides=(
  size="$size"
  "$(text data.train_files "$TRAIN_FILE")"
  "$(text trainer.project_name "${PROJECT_NAME:-egm}")"
  "$(text trainer.experiment_name "$task")"
  "$(text trainer.default_local_dir "$run")"
)
[[ -z ${MODEL_PATH:-} ]] || overrides+=("$(text model.path "$MODEL_PATH")")
[[ -z ${WANDB_API_KEY:-}${WANDB_MODE:-} ]] || overrides+=("trainer.logger=[console,file,tensorboard,wandb]")

$python -m sft.train "${overrides[@]}" "$@"
if [[ -z ${look:-} && ${PET_NODE_RANK:-0} == 0 ]]; then # all nodes share the folder
  $python -m qwen3vl_rl.export "$run" "$run/hf"
fi
