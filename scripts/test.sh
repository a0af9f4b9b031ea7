#!/usr/bin/env bash
# bash scripts/test.sh [--fast | --soak [tests/soak/FILE…]] [pytest arguments]
#   (nothing)  style and all ordinary tests
#   --fast     style and the quick tests, which start no engine, server or training
#   --soak     all or some of the long tests in tests/soak (kills, resumes, ranks), recorded in tests/soak/results.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh "$(cat .venv/set 2>/dev/null || echo cpu)" # on a GPU, with its packages
unset PYTHONDONTWRITEBYTECODE
if [[ ${1:-} == --soak ]]; then
  [[ ${2:-} == tests/soak/* ]] && some=() || some=(tests/soak)
  exec .venv/bin/python -m pytest --soak "${some[@]}" "${@:2}"
fi
some=()
if [[ ${1:-} == --fast ]]; then
  some=(-m "not engine and not slow" --hypothesis-profile=fast)
  shift
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest "${some[@]}" "$@"
