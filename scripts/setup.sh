#!/usr/bin/env bash
# Create the environment: bash scripts/setup.sh [cpu|vllm|sglang]
# It is a virtual environment in the checkout (.venv) with the pinned packages of requirements/NAME.txt. It needs Python
# 3.12; cpu also works with 3.11 (PYTHON=… names one). An environment that is up to date is left alone.
set -euo pipefail
[[ ${PYTHON:-} != */* ]] || PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-cpu}
pins=requirements/$name.txt
unset PYTHONDONTWRITEBYTECODE # otherwise every process compiles vLLM and torch again

find_python() {
  local accepted=3.12 # the version that the CUDA lists are resolved for
  [[ $name == cpu ]] && accepted="3.11 or 3.12"
  for python in "${PYTHON:-}" python3 python3.12 python3.11; do
    if [[ -n $python ]] && "$python" -c "import sys; sys.exit('3.%d' % sys.version_info[1] not in '$accepted')" 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  echo "error: Python $accepted not found; name one with PYTHON=/path/to/python" >&2
  exit 2
}

if [[ ! $name =~ ^(cpu|vllm|sglang)$ ]]; then
  echo "error: expected cpu, vllm or sglang, got $name" >&2
  exit 2
fi
holds=$(cat .venv/set 2>/dev/null || echo "$name")
if [[ $holds != "$name" ]]; then # the engines need different versions of the same packages
  echo "error: .venv holds the packages for $holds; remove it to install $name" >&2
  exit 2
fi

stamp=.venv/installed-$(cat "$pins" pyproject.toml | sha256sum | cut -c1-16)
[[ -f $stamp ]] && exit 0
echo "== environment: installing $pins into .venv, which takes some minutes"
if [[ ! -x .venv/bin/pip ]]; then
  python=$(find_python)
  "$python" -m venv --clear .venv
  echo "$name" >.venv/set
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' "$pins")"
# --no-deps: the list is complete, so the installer must not add to it.
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --compile-bytecode -r "$pins" -e .
touch "$stamp"
