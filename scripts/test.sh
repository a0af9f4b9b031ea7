#!/usr/bin/env bash
# All tests: bash scripts/test.sh [--soak] [pytest arguments]
# --soak runs the long ones instead (kills, resumes, ranks); results in tests/soak/results.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh cpu
unset PYTHONDONTWRITEBYTECODE
if [[ ${1:-} == --soak ]]; then
  exec .venv/bin/python -m pytest tests/soak --soak "${@:2}"
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest "$@"
