#!/usr/bin/env bash
# Stage 2: GRPO on Qwen3-VL. By default this runs the released recipe: 8B, one node of 8 GPUs, sglang rollouts.
#
#   bash scripts/grounding_qwen.sh reward=sigmoid reward.threshold=0.7 size=4b hardware=gpu2 engine=vllm
#
# DATA_DIR    the folder with train_grounding.parquet and val_grounding.parquet (see examples/data_preprocess)
# MODEL_PATH  the SFT checkpoint (default: the released one of the chosen size)
# OUTPUT_DIR  checkpoints, logs, rollouts and validation pages are written to OUTPUT_DIR/TASK_NAME (default: outputs)
# TASK_NAME, PROJECT_NAME  names of the run (default: rl) and the project (default: egm), also at Weights & Biases
# WANDB_API_KEY or WANDB_MODE=offline  also log to Weights & Biases; other WANDB_* variables are passed on
#
# Rerun the command to resume after an interruption.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
: "${DATA_DIR:?must name the folder with train_grounding.parquet and val_grounding.parquet}"
overrides=(
  "$(override data.train_files "$DATA_DIR/train_grounding.parquet")"
  "$(override data.val_files "$DATA_DIR/val_grounding.parquet")"
  "$(override trainer.project_name "${PROJECT_NAME:-egm}")"
  "$(override trainer.experiment_name "${TASK_NAME:-rl}")"
  "$(override trainer.default_local_dir "${OUTPUT_DIR:-outputs}/${TASK_NAME:-rl}")"
)
[[ -z ${MODEL_PATH:-} ]] || overrides+=("$(override actor_rollout_ref.model.path "$MODEL_PATH")")
[[ -z ${WANDB_API_KEY:-}${WANDB_MODE:-} ]] || overrides+=("trainer.logger=[console,file,tensorboard,wandb]")

exec "$python" -m qwen3vl_rl.train "${overrides[@]}" "$@"
