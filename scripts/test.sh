#!/usr/bin/env bash
# All tests: bash scripts/test.sh [--soak [tests/soak/FILE…]] [pytest arguments]
# --soak runs the long ones instead (kills, resumes, ranks), all or some; results in tests/soak/results.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh cpu
unset PYTHONDONTWRITEBYTECODE
if [[ ${1:-} == --soak ]]; then
  [[ ${2:-} == tests/soak/* ]] && some=() || some=(tests/soak)
  exec .venv/bin/python -m pytest --soak "${some[@]}" "${@:2}"
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest "$@"
