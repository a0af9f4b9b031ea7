import json
import subprocess
import sys

import pytest

SMALL = "from benchmarks import sft_throughput as benchmark; benchmark.SAMPLES_PER_UPDATE = 1; benchmark.main()"


@pytest.mark.long
@pytest.mark.engine
def test_the_recipe_is_measured_with_our_engine(tmp_path):
    """verl's own engine does not print which parameters are trained, and a CPU has none."""
    out = tmp_path / "result.json"
    options = ["--size", "tiny", "--group", "egm", "--rounds", "1", "--seconds", "0", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", SMALL, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ((measured,),) = json.loads(out.read_text())["groups"]
    assert "error" not in measured and measured["samples_per_s"] > 0
    assert "parameters trained: " in done.stdout
