#!/usr/bin/env bash
# Resolve pyproject.toml into the pinned lists that setup.sh installs: bash scripts/compile_requirements.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
.venv/bin/uv pip compile --quiet pyproject.toml --extra cpu --extra dev --override requirements/overrides.txt \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header --no-emit-index-url \
  -o requirements/cpu.txt
