#!/usr/bin/env bash
# Run the whole method on a CPU in less than an hour: RefShapes → SFT → GRPO → evaluation → table and report.
#
#   bash scripts/quickstart.sh [Hydra overrides of stage 2, such as reward=sigmoid]
#
# OUT=DIR    the folder for all results (default: outputs/quickstart of the checkout)
# SEED=N     the seed of the data and of GRPO (default: 0)
# MODEL=DIR  the checkpoint to start from (default: examples/starter/checkpoint)
#
# SFT learns from two kinds of reasoning traces, as annotators write them: half of them are brief, the others thorough.
# GRPO learns which kind leads to right answers. `sft_thorough` learns from the thorough traces only, for comparison.
#
# Rerun the command to resume. Finished stages are skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
OUT=${OUT:-$root/outputs/quickstart} SEED=${SEED:-0} MODEL=${MODEL:-$root/examples/starter/checkpoint}
SFT_SAMPLES=4800 BRIEF=0.5 RL_SAMPLES=400 EVAL_SAMPLES=150 RL_STEPS=16 RL_RATE=2e-4 # under an hour on two cores
export EGM_PROGRESS_S=${EGM_PROGRESS_S:-120} # between progress lines in a file, so that the output fits two screens
mkdir -p "$OUT/stages"
OUT=$(cd "$OUT" && pwd)
python=$root/.venv/bin/python data=$OUT/data

# stage [-q] NAME TITLE COMMAND…: run a command once. With -q, its output is shown only if it fails. A finished stage
# is skipped. Another command under its name is rejected, so that results of two settings never mix in one folder.
stage() {
  local quiet=
  if [[ $1 == -q ]]; then
    quiet=1
    shift
  fi
  local name=$1 title=$2 record=$OUT/stages/$1 begin=$SECONDS
  log=$record.log # not local: the EXIT trap reads it
  shift 2
  if [[ -f $record && $(<"$record") != "$*" ]]; then
    echo "error: $OUT holds the stage '$name' of another run; choose another folder with OUT=… or remove this one" >&2
    exit 2
  fi
  if [[ -f $record.done ]]; then
    echo "== $title: done before"
    return
  fi
  echo "$*" >"$record"
  if [[ -n $quiet ]]; then
    printf '== %s' "$title"
    trap 'echo && cat "$log" >&2' EXIT
    "$@" >"$log" 2>&1
    trap - EXIT
  else
    echo "== $title"
    "$@"
    printf '  '
  fi
  touch "$record.done"
  echo " (took $((SECONDS - begin)) s)"
}

# sft_data OUT TRACES PROCESSOR SAMPLES: write the SFT data of the first samples.
sft_data() {
  "$python" -m sft.build_dataset --samples "$data/refshapes_train.jsonl" --traces "$2" --images "$data/images" \
    --rows ":$4" --processor "$3" --out "$1"
}

# thorough_data OUT PROCESSOR SAMPLES: the same with the thorough traces only.
thorough_data() {
  grep '"style": "thorough"' "$data/refshapes_train_traces.jsonl" >"$data/thorough_traces.jsonl"
  sft_data "$1" "$data/thorough_traces.jsonl" "$2" "$3"
}

# sft NAME TITLE PARQUET: train, then export to a Hugging Face folder.
sft() {
  stage "$1" "$2" \
    "$python" -m sft.train hardware=cpu size=tiny "$(override model.path "$MODEL")" \
    "$(override data.train_files "$3")" "$(override trainer.default_local_dir "$OUT/$1")"
  stage -q "$1-export" "stage 1: checkpoint to Hugging Face folder" \
    "$python" -m qwen3vl_rl.export "$OUT/$1" "$OUT/checkpoints/$1"
}

main() {
  bash "$root/scripts/setup.sh" cpu

  stage -q refshapes "data: RefShapes, $((SFT_SAMPLES + RL_SAMPLES)) training samples, $EVAL_SAMPLES per evaluation split" \
    "$python" -m qwen3vl_rl.data.refshapes --out "$data" --train $((SFT_SAMPLES + RL_SAMPLES)) --val $EVAL_SAMPLES \
    --brief $BRIEF --seed "$SEED"
  stage -q sft-data "data: samples and reasoning traces to SFT parquet" \
    sft_data "$data/sft_train.parquet" "$data/refshapes_train_traces.jsonl" "$MODEL" $SFT_SAMPLES
  stage -q sft-thorough-data "data: the same with the thorough traces only" \
    thorough_data "$data/sft_thorough.parquet" "$MODEL" $SFT_SAMPLES
  stage -q rl-data "data: further samples to RL parquet" \
    "$python" -m qwen3vl_rl.data.tools.rl_parquet --samples "$data/refshapes_train.jsonl" --images "$data/images" \
    --rows "$SFT_SAMPLES:" --split train --out "$data/rl_train.parquet"
  stage -q rl-val-data "data: RL validation parquet, from the val split" \
    "$python" -m qwen3vl_rl.data.tools.rl_parquet --samples "$data/eval/refshapes_val.jsonl" --images "$data/images" \
    --rows :32 --split test --out "$data/rl_val.parquet"
  sft sft "stage 1: SFT on $SFT_SAMPLES traces, half of them brief" "$data/sft_train.parquet"
  sft sft_thorough "stage 1: SFT on the thorough traces only, for comparison" "$data/sft_thorough.parquet"
  stage rl "stage 2: GRPO with the IoU reward" \
    "$python" -m qwen3vl_rl.train hardware=cpu size=tiny data.seed="$SEED" actor_rollout_ref.rollout.seed="$SEED" \
    "$(override actor_rollout_ref.model.path "$OUT/checkpoints/sft")" \
    "$(override data.train_files "$data/rl_train.parquet")" "$(override data.val_files "$data/rl_val.parquet")" \
    "$(override trainer.default_local_dir "$OUT/rl")" trainer.total_training_steps=$RL_STEPS \
    actor_rollout_ref.actor.optim.lr=$RL_RATE "$@"
  stage -q rl-export "stage 2: checkpoint to Hugging Face folder" \
    "$python" -m qwen3vl_rl.export "$OUT/rl" "$OUT/checkpoints/rl"
  local begin=$SECONDS results=$OUT/results.txt
  echo "== evaluation: base, SFT, RL and SFT on thorough traces, on four splits"
  "$python" -m qwen3vl_rl.evaluation --data "$data/eval" --images "$data/images" --out "$OUT/eval" \
    --report "$OUT/report/index.html" --max-tokens 192 \
    --model base="$MODEL" --about base="the checkpoint to start from" \
    --model sft="$OUT/checkpoints/sft" --about sft="SFT on $SFT_SAMPLES traces, half of them brief" \
    --model rl="$OUT/checkpoints/rl" --about rl="sft after $(<"$OUT/rl/latest_checkpointed_iteration.txt") GRPO steps" \
    --model sft_thorough="$OUT/checkpoints/sft_thorough" --about sft_thorough="SFT on the thorough traces only" \
    --curves sft="$OUT/sft" --curves rl="$OUT/rl" >"$results"
  echo "   (took $((SECONDS - begin)) s; the whole run took $SECONDS s)"
  cat "$results" # last, so that the run ends with the table, the sentences and the report's path
}

main "$@"; exit # bash reads this line before main starts, so the file may change during the run
