#!/usr/bin/env bash
# Stage 1: SFT of Qwen3-VL on reasoning traces. By default this runs the released recipe on one node of 8 GPUs.
#
#   bash scripts/sft_qwen3_grounding.sh SIZE [Hydra overrides, such as hardware=gpu1 tuning=lora]      SIZE: 2b, 4b, 8b
#
# TRAIN_FILE  the parquet from sft.build_dataset. The variables of the release also work: REFCOCO_ANNOTATION_PATH, the
#             conversations, and REFCOCO_DATA_PATH, the folder that their image paths are relative to. They are
#             converted first, to OUTPUT_DIR/TASK_NAME.parquet.
# MODEL_PATH  the checkpoint to start from (default: Qwen/Qwen3-VL-SIZE-Thinking on the hub)
# OUTPUT_DIR  checkpoints and logs are written to OUTPUT_DIR/TASK_NAME (default: outputs), the final checkpoint to
#             OUTPUT_DIR/TASK_NAME/hf
# TASK_NAME, PROJECT_NAME  names of the run (default: sft_SIZE) and the project (default: egm), also at Weights & Biases
# WANDB_API_KEY or WANDB_MODE=offline  also log to Weights & Biases
#
# Rerun the command to resume after an interruption.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
size=${1:?must be 2b, 4b or 8b}
shift
[[ -n ${REFCOCO_ANNOTATION_PATH:-} ]] || : "${TRAIN_FILE:?must name the parquet from sft.build_dataset}"
for word in "$@"; do
  case $word in
    trainer.default_local_dir=*) echo "error: $word: expected OUTPUT_DIR and TASK_NAME to name the folder" >&2; exit 2 ;;
    --cfg | --help | -h) look=1 ;;
  esac
done
task=${TASK_NAME:-sft_$size}
run=${OUTPUT_DIR:-outputs}/$task

if [[ -z ${TRAIN_FILE:-} ]]; then
  require REFCOCO_DATA_PATH
  TRAIN_FILE=$run.parquet
  [[ -n ${look:-} || $TRAIN_FILE -nt $REFCOCO_ANNOTATION_PATH ]] || "$python" -m sft.build_dataset --reasoning cot \
    --samples "$REFCOCO_ANNOTATION_PATH" --images "$REFCOCO_DATA_PATH" --out "$TRAIN_FILE"
fi

overrides=(
  size="$size"
  "$(override data.train_files "$TRAIN_FILE")"
  "$(override trainer.project_name "${PROJECT_NAME:-egm}")"
  "$(override trainer.experiment_name "$task")"
  "$(override trainer.default_local_dir "$run")"
)
[[ -z ${MODEL_PATH:-} ]] || overrides+=("$(override model.path "$MODEL_PATH")")
[[ -z ${WANDB_API_KEY:-}${WANDB_MODE:-} ]] || overrides+=("trainer.logger=[console,file,tensorboard,wandb]")

"$python" -m sft.train "${overrides[@]}" "$@"
if [[ -z ${look:-} && ${PET_NODE_RANK:-0} == 0 ]]; then # all nodes share the folder
  "$python" -m qwen3vl_rl.export "$run" "$run/hf"
fi
