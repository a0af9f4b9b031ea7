# What the scripts share; each sources this file. Relative paths are relative to the folder of the caller.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
unset PYTHONDONTWRITEBYTECODE # every process would compile torch again

# The Python of the checkout's environment, else of the active one: conda, a container.
python=$root/.venv/bin/python
[[ -x $python ]] || python=$(command -v python || command -v python3)

# override NAME VALUE: NAME="VALUE" for Hydra, to which commas, brackets, spaces and = in VALUE then mean nothing.
override() { printf '%s="%s"' "$1" "$(sed 's/[\\"]/\\&/g' <<<"$2")"; }

# require NAME…: end with a message where one of these variables is not set.
require() {
  local name
  for name in "$@"; do
    [[ -n ${!name:-} ]] || { echo "error: $name is not set; the head of $0 says what it names" >&2; exit 2; }
  done
}
