"""The list of hooks is complete, and each hook is loaded when its module is imported."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from qwen3vl_rl.verl_ext import register

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HOOKS = (*register.AFTER_IMPORT, *register.NAMED_IN_RECIPE, *register.ON_THE_MODEL)
NO_HOOKS = {"__init__", "register"}


def test_every_module_is_listed_once_with_a_test_that_exists():
    listed = sorted(hook.module.removeprefix(f"{register.OURS}.") for hook in HOOKS if register.OURS in hook.module)
    assert listed == sorted({path.stem for path in (ROOT / "qwen3vl_rl" / "verl_ext").glob("*.py")} - NO_HOOKS)
    assert [hook.module for hook in HOOKS if not (ROOT / f"{hook.module.replace('.', '/')}.py").is_file()] == []
    assert [hook.test for hook in HOOKS if not (ROOT / "tests" / hook.test).is_file()] == []


@pytest.mark.parametrize("name", [name for hook in HOOKS for name in hook.private])
def test_private_names_that_we_use_are_still_there(name):
    """Read from the source, because importing some of them needs vLLM."""
    file, _, private = name.partition(":")
    package, _, inner = file.partition("/")
    tree = ast.parse((Path(find_spec(package).origin).parent / inner).read_text())
    assert private in set(defined(tree.body))


def defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Assign):
            yield from (prefix + target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.AnnAssign):
            yield prefix + node.target.id
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body, f"{node.name}.")
            elif prefix:
                set_there = (inner for inner in ast.walk(node) if isinstance(inner, ast.Assign | ast.AnnAssign))
                targets = (target for inner in set_there for target in assigned_to(inner))
                yield from (prefix + target.attr for target in targets if isinstance(target, ast.Attribute))


def assigned_to(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


# Prints which of our modules are loaded after each import of verl.
IMPORTS = """
import json, os, sys
from qwen3vl_rl.training import launch
os.environ["VERL_USE_EXTERNAL_MODULES"] = launch.external_modules()
import verl
def ours(): return sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith("qwen3vl_rl.verl_ext."))
loaded = [ours()]
import importlib.util
importlib.util.find_spec("verl.trainer.ppo.core_algos")  # looking for a module must not lose its hook
import verl.trainer.ppo.core_algos
loaded.append(ours())
import verl.workers.engine, inspect
loaded.append(ours())
spec = verl.workers.engine.__spec__
print(json.dumps([*loaded, inspect.getsource(verl.workers.engine)[:11], type(spec.loader).__name__]))
"""


def test_a_hook_is_loaded_with_what_it_extends_and_not_before(user_environment):
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, cwd=ROOT, env=user_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, losses, engine, source, loader = json.loads(done.stdout.splitlines()[-1])
    assert first == ["position_ids", "processor", "register"]  # verl's package imports what the first two extend
    assert losses == ["policy_loss", "position_ids", "processor", "register"]
    assert {"fsdp_engine", "policy_loss"} <= set(engine) and "group_by_prompt" not in engine
    assert source == "# Copyright" and loader == "SourceFileLoader"
