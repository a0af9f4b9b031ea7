import subprocess
import sys


def test_the_preflight_imports_neither_torch_nor_verl():
    code = "import sys, qwen3vl_rl.training.preflight; print({'torch', 'verl'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
