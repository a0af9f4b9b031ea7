#!/usr/bin/env bash
# Make the environment: bash scripts/setup.sh [cpu|vllm|sglang]
# A virtual environment in the checkout (.venv) with the pinned set of requirements/NAME.txt. Needs Python 3.12, or 3.11
# for cpu (PYTHON=… names one). Does nothing where the environment is up to date.
set -euo pipefail
[[ ${PYTHON:-} != */* ]] || PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-cpu}
pins=requirements/$name.txt
unset PYTHONDONTWRITEBYTECODE # every process would compile vLLM and torch again

find_python() {
  local accepted=3.12 # what the CUDA sets are resolved for
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
  echo "error: .venv holds the set $holds; remove it to install $name" >&2
  exit 2
fi

stamp=.venv/installed-$(cat "$pins" pyproject.toml | sha256sum | cut -c1-16)
[[ -f $stamp ]] && exit 0
echo "== environment: installing $pins into .venv"
if [[ ! -x .venv/bin/pip ]]; then
  python=$(find_python)
  "$python" -m venv --clear .venv
  echo "$name" >.venv/set
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' "$pins")"
# The list is complete and resolved, so nothing may add to it: --no-deps.
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --compile-bytecode -r "$pins" -e .
touch "$stamp"
