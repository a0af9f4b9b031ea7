#!/usr/bin/env bash
# bash scripts/test.sh [--fast | --soak [tests/FILE…]] [pytest arguments]
#   (nothing)  style and all ordinary tests, on every part of the pipeline
#   --fast     style and the quick tests, which start no engine, server or training
#   --soak     all or some of the long tests: those of tests/soak (kills, resumes, ranks) and those with the marker `long`;
#              recorded in tests/soak/results.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh "$(cat .venv/set 2>/dev/null || echo cpu)" # on a GPU, with its packages
unset PYTHONDONTWRITEBYTECODE
if [[ ${1:-} == --soak ]]; then
  [[ ${2:-} == tests/* ]] && some=() || some=(tests)
  exec .venv/bin/python -m pytest --soak -m long "${some[@]}" "${@:2}"
fi
some=(-m "not long")
if [[ ${1:-} == --fast ]]; then
  some=(-m "not engine and not slow and not long" --hypothesis-profile=fast)
  shift
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest "${some[@]}" "$@"
