#!/usr/bin/env bash
# Resolve pyproject.toml into the pinned lists that setup.sh installs: bash scripts/compile_requirements.sh [cpu vllm sglang]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ $# -gt 0 ]] || set -- cpu vllm sglang
for name in "$@"; do
  case $name in
    cpu) python=3.11 libc=2_28 ;;
    vllm) python=3.12 libc=2_28 ;;
    sglang) python=3.12 libc=2_34 ;; # the oldest C library that sglang's wheels are built for (Ubuntu 22.04 has 2.35)
    *) echo "error: expected cpu, vllm or sglang, got $name" >&2 && exit 2 ;;
  esac
  .venv/bin/uv pip compile --quiet pyproject.toml --extra "$name" --extra dev --override requirements/overrides.txt \
    --python-version $python --python-platform x86_64-manylinux_$libc --no-annotate --no-header --no-emit-index-url \
    -o "requirements/$name.txt"
done
