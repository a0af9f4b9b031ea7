#!/usr/bin/env bash
# Rehearse a run on the machine that will run it: three steps at full size, a kill, a resume, an export, an answer.
#
#   bash scripts/rehearse.sh [Hydra overrides]                                    stage 2, as scripts/grounding_qwen.sh
#   bash scripts/rehearse.sh scripts/sft_qwen3_8b_grounding.sh [Hydra overrides]  stage 1
#
# The variables are those of the rehearsed script. All files go to OUTPUT_DIR/rehearsal, which is on the disk of
# the run, and removed at the end.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
script=$root/scripts/grounding_qwen.sh
if [[ ${1:-} == *.sh ]]; then
  script=$1
  shift
fi
exec "$python" -m qwen3vl_rl.rehearse "$script" "$@"
