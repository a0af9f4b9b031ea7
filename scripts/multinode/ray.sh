#!/usr/bin/env bash
# A Ray cluster for stage 2. All nodes must see the same files: code, environment, data, model, OUTPUT_DIR.
#
#   first node:   bash scripts/multinode/ray.sh head           # prints its address, runs until Ctrl-C
#   other nodes:  bash scripts/multinode/ray.sh join ADDRESS   # runs until Ctrl-C
#   first node:   bash scripts/multinode/ray.sh wait ADDRESS N # waits for N nodes, at most WAIT_S seconds (600)
#                 RAY_ADDRESS=ADDRESS RAY_AUTH_MODE=token bash scripts/grounding_qwen.sh hardware=multinode trainer.nnodes=N
#
# Workers have the environment of head and join, so set keys (WANDB_API_KEY, HF_TOKEN) there. From the shell that starts
# training, they get WANDB_*, HF_*, NCCL_*, VLLM_* and SGLANG_*, except for secrets.
# Nodes join with the token in ~/.ray/auth_token, which head creates. If the nodes do not share the home folder, set
# RAY_AUTH_TOKEN on each of them. PORT is the head's (6379). head and join stay in the foreground. When they end, they
# stop their own Ray and no other. Further arguments of head and join go to `ray start`.
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
      ((SECONDS < end)) || { echo "error: $2: expected $3 nodes after ${WAIT_S:-600} s" >&2; exit 1; }
      sleep 5
    done
    ;;
  *)
    sed -n '/^#  /s/^#//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
