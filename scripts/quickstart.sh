#!/usr/bin/env bash
# The whole method on a CPU in less than an hour: RefShapes → SFT → GRPO → evaluation → table and report.
#
#   bash scripts/quickstart.sh [Hydra overrides of stage 2, such as reward=sigmoid]
#
# OUT=DIR   where everything goes (outputs/quickstart of the checkout)       SEED=N   of data and RL (0)
# MODEL=DIR the checkpoint to start from (examples/starter/checkpoint)
#
# SFT learns from reasoning traces of two kinds, as annotators write them: half are brief, the others thorough.
# GRPO finds out which of them answers well. `sft_thorough` learns from the thorough ones alone, for comparison.
#
# A second run goes on where the first stopped and skips what is done.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
OUT=${OUT:-$root/outputs/quickstart} SEED=${SEED:-0} MODEL=${MODEL:-$root/examples/starter/checkpoint}
SFT_SAMPLES=4800 BRIEF=0.5 RL_SAMPLES=400 EVAL_SAMPLES=150 RL_STEPS=16 RL_RATE=2e-4 # two cores finish them in that time
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

# What stage 1 learns from: sft_data OUT TRACES PROCESSOR SAMPLES.
sft_data() {
  "$python" -m sft.build_dataset --samples "$data/refshapes_train.jsonl" --traces "$2" --images "$data/images" \
    --rows ":$4" --processor "$3" --out "$1"
}

# thorough_data OUT PROCESSOR SAMPLES: the same from the thorough traces alone.
thorough_data() {
  grep '"style": "thorough"' "$data/refshapes_train_traces.jsonl" >"$data/thorough_traces.jsonl"
  sft_data "$1" "$data/thorough_traces.jsonl" "$2" "$3"
}

# sft NAME TITLE PARQUET: train, and export to a Hugging Face folder.
sft() {
  stage "$1" "$2" \
    "$python" -m sft.train hardware=cpu size=tiny "$(override model.path "$MODEL")" \
    "$(override data.train_files "$3")" "$(override trainer.default_local_dir "$OUT/$1")"
  stage "$1-export" "stage 1: checkpoint to Hugging Face folder" \
    "$python" -m qwen3vl_rl.export "$OUT/$1" "$OUT/checkpoints/$1"
}

main() {
  bash "$root/scripts/setup.sh" cpu

  stage refshapes "data: RefShapes, $((SFT_SAMPLES + RL_SAMPLES)) training samples, $EVAL_SAMPLES per evaluation split" \
    "$python" -m qwen3vl_rl.data.refshapes --out "$data" --train $((SFT_SAMPLES + RL_SAMPLES)) --val $EVAL_SAMPLES \
    --brief $BRIEF --seed "$SEED"
  stage sft-data "data: samples and reasoning traces to SFT parquet" \
    sft_data "$data/sft_train.parquet" "$data/refshapes_train_traces.jsonl" "$MODEL" $SFT_SAMPLES
  stage sft-thorough-data "data: the same, with the thorough traces alone" \
    thorough_data "$data/sft_thorough.parquet" "$MODEL" $SFT_SAMPLES
  stage rl-data "data: other samples to RL parquet" \
    "$python" -m qwen3vl_rl.data.tools.rl_parquet --samples "$data/refshapes_train.jsonl" --images "$data/images" \
    --rows "$SFT_SAMPLES:" --split train --out "$data/rl_train.parquet"
  stage rl-val-data "data: RL validation parquet, from the val split alone" \
    "$python" -m qwen3vl_rl.data.tools.rl_parquet --samples "$data/eval/refshapes_val.jsonl" --images "$data/images" \
    --rows :32 --split test --out "$data/rl_val.parquet"
  sft sft "stage 1: SFT on $SFT_SAMPLES traces, $BRIEF of them brief" "$data/sft_train.parquet"
  sft sft_thorough "stage 1: SFT on the thorough ones alone, to compare" "$data/sft_thorough.parquet"
  stage rl "stage 2: GRPO with the IoU reward" \
    "$python" -m qwen3vl_rl.train hardware=cpu size=tiny data.seed="$SEED" actor_rollout_ref.rollout.seed="$SEED" \
    "$(override actor_rollout_ref.model.path "$OUT/checkpoints/sft")" \
    "$(override data.train_files "$data/rl_train.parquet")" "$(override data.val_files "$data/rl_val.parquet")" \
    "$(override trainer.default_local_dir "$OUT/rl")" trainer.total_training_steps=$RL_STEPS \
    actor_rollout_ref.actor.optim.lr=$RL_RATE "$@"
  stage rl-export "stage 2: checkpoint to Hugging Face folder" \
    "$python" -m qwen3vl_rl.export "$OUT/rl" "$OUT/checkpoints/rl"
  echo "== evaluation: base, SFT, RL and SFT on thorough traces, on four splits"
  "$python" -m qwen3vl_rl.evaluation --data "$data/eval" --images "$data/images" --out "$OUT/eval" \
    --report "$OUT/report/index.html" --max-tokens 192 --model base="$MODEL" --model sft="$OUT/checkpoints/sft" \
    --model rl="$OUT/checkpoints/rl" --model sft_thorough="$OUT/checkpoints/sft_thorough" \
    --curves sft="$(ls "$OUT"/sft/metrics-*.jsonl | tail -1)" \
    --curves rl="$(ls "$OUT"/rl/metrics-*.jsonl | tail -1)"
  echo "the whole run took $SECONDS s"
}

main "$@"; exit # one line, read before it starts: the file may change meanwhile
