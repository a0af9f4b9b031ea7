#!/usr/bin/env bash
# A Ray cluster for stage 2. Every node sees the same files: code, environment, data, model, OUTPUT_DIR.
#
#   first node:   bash scripts/multinode/ray.sh head           # says its address, runs until Ctrl-C
#   other nodes:  bash scripts/multinode/ray.sh join ADDRESS   # likewise
#   first node:   bash scripts/multinode/ray.sh wait ADDRESS N # until N nodes are there, at most WAIT_S seconds (600)
#                 RAY_ADDRESS=ADDRESS RAY_AUTH_MODE=token bash scripts/grounding_qwen.sh hardware=multinode trainer.nnodes=N
#
# Workers see the environment of head and join: keys (WANDB_API_KEY, HF_TOKEN) belong there. Of the shell that starts
# training, WANDB_*, HF_*, NCCL_*, VLLM_* and SGLANG_* reach them without the secrets among them.
# Ray lets in who knows the token in ~/.ray/auth_token, which head makes; where the nodes do not share the home folder,
# RAY_AUTH_TOKEN names it. PORT: of the head (6379). head and join stay in the foreground and take their own Ray with
# them when they end, no other. Further arguments of theirs go to `ray start`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ ! -d .venv ]] || PATH=$PWD/.venv/bin:$PATH
unset PYTHONDONTWRITEBYTECODE
export RAY_AUTH_MODE=token

case ${1:-}:$# in
  head:*)
    [[ -n ${RAY_AUTH_TOKEN:-} ]] || ray get-auth-token --generate >/dev/null
    exec ray start --head --port "${PORT:-6379}" --include-dashboard=false --disable-usage-stats --block "${@:2}"
    ;;
  join:[2-9])
    exec ray start --address "$2" --disable-usage-stats --block "${@:3}"
    ;;
  wait:3)
    python -c 'import ray'
    end=$((SECONDS + ${WAIT_S:-600}))
    until timeout 60 python - "$2" "$3" <<'PYTHON'; do
import sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]))
PYTHON
      ((SECONDS < end)) || { echo "error: $2 has not $3 nodes after ${WAIT_S:-600} s" >&2; exit 1; }
      sleep 5
    done
    ;;
  *)
    sed -n '/^#  /s/^#//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
