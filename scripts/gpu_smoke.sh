#!/usr/bin/env bash
# Check an installation on one GPU, in about two minutes: bash scripts/gpu_smoke.sh
# PYTHON=… names the Python of the environment (default: .venv/bin/python). Each check prints ok or the error. The logs
# are in outputs/smoke. The exit code is 1 if a check failed.
set -euo pipefail
[[ ${PYTHON:-} != */* ]] || PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh
OUT=outputs/smoke PYTHON=${PYTHON:-$python}
rm -rf "$OUT" && mkdir -p "$OUT"
failed=()

# check NAME TIMEOUT_S COMMAND…
check() {
  local name=$1 limit=$2 begin=$SECONDS log="$OUT/${1// /-}.log"
  shift 2
  if timeout --kill-after=30 "$limit" "$@" >"$log" 2>&1; then
    echo "ok      $name ($((SECONDS - begin)) s): $(tail -n 1 "$log")"
  else
    echo "FAILED  $name ($((SECONDS - begin)) s): $(grep -E 'rror' "$log" | tail -n 1 || true) (see $log)"
    failed+=("$name")
  fi
}

gpu() {
  "$PYTHON" - <<'PYTHON'
import torch
assert torch.cuda.is_available(), f"Error: torch {torch.__version__} sees no GPU: is the driver at least CUDA {torch.version.cuda}'s?"
major, minor = torch.cuda.get_device_capability()
memory = torch.cuda.mem_get_info()[1] / 2**30
print(f"{torch.cuda.get_device_name()}, sm_{major}{minor}, {memory:.0f} GiB, torch {torch.__version__}")
PYTHON
}

attention() {
  "$PYTHON" - <<'PYTHON'
from importlib.util import find_spec
import torch
from torch.nn.attention.varlen import varlen_attn
heads = torch.randn(3, 96, 4, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
ends = torch.tensor([0, 32, 96], device="cuda", dtype=torch.int32)
varlen_attn(*heads, ends, ends, 64, 64).sum().backward()
torch.cuda.synchronize()
assert heads.grad.isfinite().all()
print("torch's varlen kernels, forward and backward; flash-attn is " + ("there, too" if find_spec("flash_attn") else "absent and not needed"))
PYTHON
}

packages() {
  "$PYTHON" - "$engine" <<'PYTHON'
import sys
from importlib import import_module
from importlib.metadata import version
modules = ["verl.trainer.sft_trainer", "verl.trainer.ppo.v1.trainer_base", "qwen3vl_rl.verl_ext.fsdp_engine"]
engines = {"vllm": "vllm.entrypoints.openai.api_server", "sglang": "sglang.srt.entrypoints.http_server"}
assert sys.argv[1], "Error: neither vllm nor sglang is installed; bash scripts/setup.sh vllm"
for module in [*modules, engines[sys.argv[1]]]:
    import_module(module)
print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "verl", "ray", sys.argv[1])))
PYTHON
}

data() {
  "$PYTHON" -m examples.starter.build --out "$OUT/base"
  "$PYTHON" -m qwen3vl_rl.data.refshapes --out "$OUT/data" --train 64 --val 2
  "$PYTHON" -m sft.build_dataset --samples "$OUT/data/refshapes_train.jsonl" --images "$OUT/data/images" \
    --traces "$OUT/data/refshapes_train_traces.jsonl" --out "$OUT/data/sft.parquet"
}

sft() {
  "$PYTHON" -m sft.train hardware=gpu1 size=tiny model.path="$OUT/base" data.train_files="$OUT/data/sft.parquet" \
    engine.compile_blocks=false trainer.total_training_steps=1 trainer.default_local_dir="$OUT/sft"
}

evaluation() {
  local eager=--enforce-eager
  [[ $engine == sglang ]] && eager=--disable-cuda-graph
  "$PYTHON" -m qwen3vl_rl.evaluation --data "$OUT/data/eval" --images "$OUT/data/images" --out "$OUT/eval" \
    --engine "$engine" --max-tokens 16 --model base="$OUT/base" -- --dtype bfloat16 $eager
}

engine=$("$PYTHON" -c 'from importlib.util import find_spec; print(next(filter(find_spec, ("vllm", "sglang")), ""))')
export -f gpu attention packages data sft evaluation
export OUT PYTHON engine
run() { check "$1" "$2" bash -c "set -euo pipefail; $1"; }
run gpu 60
if ((${#failed[@]} == 0)); then
  run packages 180
  run attention 60
  run data 60
  run sft 120
  run evaluation 240
fi
if ((${#failed[@]})); then
  echo "not ready: ${failed[*]}"
  exit 1
fi
echo "ready: all checks passed in $SECONDS s"
