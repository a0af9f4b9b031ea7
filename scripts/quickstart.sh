#!/usr/bin/env bash
# The whole method on a CPU in about ten minutes: RefShapes → SFT → GRPO → evaluation → table and report.
#
#   bash scripts/quickstart.sh [Hydra overrides of stage 2, such as reward=sigmoid]
#
# OUT=DIR   where everything goes (outputs/quickstart of the checkout)       SEED=N   of data and RL (0)
# MODEL=DIR the checkpoint to start from (examples/starter/checkpoint)
#
# A second run goes on where the first stopped and skips what is done.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
OUT=${OUT:-$root/outputs/quickstart} SEED=${SEED:-0} MODEL=${MODEL:-$root/examples/starter/checkpoint}
SFT_SAMPLES=2400 RL_SAMPLES=400 EVAL_SAMPLES=150 RL_STEPS=10 # sizes that two cores finish in ten minutes
mkdir -p "$OUT/stages"
OUT=$(cd "$OUT" && pwd)
python=$root/.venv/bin/python data=$OUT/data

# stage NAME TITLE COMMAND…: run it once. The same command is resumed or skipped, another one refused: results of two
# settings never mix in one folder.
stage() {
  local name=$1 title=$2 begin=$SECONDS
  shift 2
  local record=$OUT/stages/$name
  if [[ -f $record && $(<"$record") != "$*" ]]; then
    echo "error: $OUT holds the stage '$name' of another run; choose another folder with OUT=… or remove this one" >&2
    exit 2
  fi
  if [[ -f $record.done ]]; then
    echo "== $title: done before"
    return
  fi
  echo "== $title"
  echo "$*" >"$record"
  "$@"
  touch "$record.done"
  echo "   took $((SECONDS - begin)) s"
}

main() {
  bash "$root/scripts/setup.sh" cpu

  stage refshapes "data: RefShapes, $((SFT_SAMPLES + RL_SAMPLES)) training samples, $EVAL_SAMPLES per evaluation split" \
    "$python" -m qwen3vl_rl.data.refshapes --out "$data" --train $((SFT_SAMPLES + RL_SAMPLES)) --val $EVAL_SAMPLES --seed "$SEED"
  stage sft-data "data: samples and reasoning traces to SFT parquet" \
    "$python" -m sft.build_dataset --samples "$data/refshapes_train.jsonl" --traces "$data/refshapes_train_traces.jsonl" \
    --images "$data/images" --rows ":$SFT_SAMPLES" --processor "$MODEL" --out "$data/sft_train.parquet"
  stage rl-data "data: other samples to RL parquet" \
    "$python" -m qwen3vl_rl.data.tools.rl_parquet --samples "$data/refshapes_train.jsonl" --images "$data/images" \
    --rows "$SFT_SAMPLES:" --split train --out "$data/rl_train.parquet"
  stage rl-val-data "data: RL validation parquet, from the val split alone" \
    "$python" -m qwen3vl_rl.data.tools.rl_parquet --samples "$data/eval/refshapes_val.jsonl" --images "$data/images" \
    --rows :32 --split test --out "$data/rl_val.parquet"
  stage sft "stage 1: SFT on $SFT_SAMPLES reasoning traces" \
    "$python" -m sft.train hardware=cpu size=tiny "$(override model.path "$MODEL")" \
    "$(override data.train_files "$data/sft_train.parquet")" "$(override trainer.default_local_dir "$OUT/sft")"
  stage sft-export "stage 1: checkpoint to Hugging Face folder" \
    "$python" -m qwen3vl_rl.export "$OUT/sft" "$OUT/checkpoints/sft"
  stage rl "stage 2: GRPO with the IoU reward" \
    "$python" -m qwen3vl_rl.train hardware=cpu size=tiny data.seed="$SEED" actor_rollout_ref.rollout.seed="$SEED" \
    "$(override actor_rollout_ref.model.path "$OUT/checkpoints/sft")" \
    "$(override data.train_files "$data/rl_train.parquet")" "$(override data.val_files "$data/rl_val.parquet")" \
    "$(override trainer.default_local_dir "$OUT/rl")" trainer.total_training_steps=$RL_STEPS "$@"
  stage rl-export "stage 2: checkpoint to Hugging Face folder" \
    "$python" -m qwen3vl_rl.export "$OUT/rl" "$OUT/checkpoints/rl"
  echo "== evaluation: base, SFT and RL on four splits"
  "$python" -m qwen3vl_rl.evaluation --data "$data/eval" --images "$data/images" --out "$OUT/eval" \
    --report "$OUT/report/index.html" --max-tokens 192 --model base="$MODEL" --model sft="$OUT/checkpoints/sft" \
    --model rl="$OUT/checkpoints/rl" --curves sft="$(ls "$OUT"/sft/metrics-*.jsonl | tail -1)" \
    --curves rl="$(ls "$OUT"/rl/metrics-*.jsonl | tail -1)"
  echo "the whole run took $SECONDS s"
}

main "$@" # a function, so that bash has read it all before it starts
