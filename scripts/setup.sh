#!/usr/bin/env bash
# Make the environment: bash scripts/setup.sh [cpu]
# A virtual environment in the checkout (.venv) with the pinned set of requirements/NAME.txt. Needs Python 3.11 or 3.12
# (PYTHON=… names one). Does nothing where the environment is up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pins=requirements/${1:-cpu}.txt
unset PYTHONDONTWRITEBYTECODE # every process would compile vLLM and torch again

find_python() {
  for python in "${PYTHON:-}" python3 python3.12 python3.11; do
    if [[ -n $python ]] && "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  echo "error: Python 3.11 or 3.12 not found; name one with PYTHON=/path/to/python" >&2
  exit 2
}

stamp=.venv/installed-$(cat "$pins" pyproject.toml | sha256sum | cut -c1-16)
[[ -f $stamp ]] && exit 0
echo "== environment: installing $pins into .venv"
if [[ ! -x .venv/bin/pip ]]; then
  python=$(find_python)
  "$python" -m venv --clear .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' "$pins")"
# The list is complete and resolved, so nothing may add to it: --no-deps.
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --compile-bytecode -r "$pins" -e .
touch "$stamp"
