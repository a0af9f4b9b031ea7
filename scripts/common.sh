# Shared by the scripts, which source this file. Relative paths are relative to the caller's folder.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
unset PYTHONDONTWRITEBYTECODE # otherwise every process compiles torch again

# The Python of the checkout's environment, or else of the active one, such as conda or a container.
python=$root/.venv/bin/python
[[ -x $python ]] || python=$(command -v python || command -v python3)

# override NAME VALUE: print NAME="VALUE" for Hydra. The quotes keep it from parsing commas, brackets, spaces and =.
override() { printf '%s="%s"' "$1" "$(sed 's/[\\"]/\\&/g' <<<"$2")"; }

# require NAME…: exit with a message if one of these variables is not set.
require() {
  local name
  for name in "$@"; do
    [[ -n ${!name:-} ]] || { echo "error: $name is not set; the comment at the top of $0 explains it" >&2; exit 2; }
  done
}
