"""verl finds the processors of all families, wherever it has bound its look-up."""

import importlib
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# As in a process of a run: verl imports our hooks while it imports its own modules.
SCRIPT = """
import json, sys
import verl
import qwen3vl_rl.verl_ext.register
from verl.utils import hf_processor as one
from verl.utils.tokenizer import hf_processor as two
from verl.utils.tokenizer.tokenizer import hf_processor as three
from verl.workers.config import model
found = [type(one(path)).__name__ for path in sys.argv[1:]]
bound = [hasattr(look_up, "__wrapped__") for look_up in (one, two, three, model.hf_processor)]
print(json.dumps([found, bound, one(sys.argv[1]).config.model_type]))
"""


def test_our_look_up_is_bound_everywhere(internvl, starter):
    command = [
        sys.executable,
        "-W",
        "error::UserWarning:verl.utils.tokenizer",
        "-c",
        SCRIPT,
        str(internvl),
        str(starter),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, bound, model_type = json.loads(done.stdout.splitlines()[-1])
    assert found == ["InternVLProcessor", "Qwen3VLProcessor"] and model_type == "internvl"
    assert all(bound) and "Unsupported processor" not in done.stderr


def test_verl_does_not_know_the_processor_by_itself(internvl):
    """Once it does, our look-up is unnecessary."""
    ours = importlib.import_module("qwen3vl_rl.verl_ext.processor")
    with pytest.warns(UserWarning, match="Unsupported processor type: InternVLProcessor"):
        assert ours.verls_hf_processor(internvl) is None
