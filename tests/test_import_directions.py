"""What may import what among our modules; imports inside functions count, as do those for type checking alone."""

import ast
import json
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "qwen3vl_rl"
BELOW_TRAINING = {"errors", "grounding", "data", "models", "reward"}
FRONT_DOORS = {"errors", "grounding", "data", "models", "training"}
MAY_IMPORT: dict[str, set[str]] = {  # a part of the package, or `sft`: the parts that it may import, itself aside
    "errors": set(),
    "grounding": {"errors"},
    "reward": {"errors", "grounding"},
    "data": {"errors", "grounding"},
    "models": {"errors", "grounding"},
    "training": BELOW_TRAINING,
    "verl_ext": BELOW_TRAINING | {"training"},
    "evaluation": FRONT_DOORS,
    "sft": FRONT_DOORS,
    "train": FRONT_DOORS,
    "export": FRONT_DOORS | {"evaluation"},
    "plan": FRONT_DOORS,
    "first_contact": FRONT_DOORS | {"evaluation"},
    "monitor": FRONT_DOORS,
    "serve": FRONT_DOORS | {"evaluation"},
    "locate": FRONT_DOORS | {"evaluation"},
    "rehearse": FRONT_DOORS | {"evaluation", "export"},
}
ENGINES = {"verl", "ray", "vllm", "sglang"}
WITHOUT_ENGINES = {"errors", "grounding", "reward", "data", "models"}
LONGEST = 400
SOURCES = ("qwen3vl_rl", "sft", "scripts", "benchmarks", "examples")
SOURCE_SUFFIXES = {".py", ".sh", ".yaml", ".j2", ".js", ".css"}


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in files(PACKAGE, "sft") if path.suffix == ".py"}


def imported(module: str, source: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """The line and the full name of everything that `source` imports; of `from a import b`, it is `a.b`."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{name.name}") for name in node.names)


def imports_of(module: str) -> list[tuple[int, str]]:
    path = MODULES[module]
    return list(imported(module, path.read_text(), path.name == "__init__.py"))


def part(name: str) -> str | None:
    """Of `qwen3vl_rl.data.files`, `data`; of `sft.train`, `sft`; none of the package itself and of other libraries."""
    top, *rest = name.split(".")
    return "sft" if top == "sft" else rest[0] if top == PACKAGE and rest else None


def target(name: str) -> str | None:
    """Our module that the import of `name` runs: `name`, or what holds it."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def test_every_part_has_its_rule():
    assert {part(module) for module in MODULES} - {None} == MAY_IMPORT.keys()


@pytest.mark.parametrize("importer", MAY_IMPORT)
def test_imports_point_down(importer):
    allowed = MAY_IMPORT[importer] | {importer, None}
    upward = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in MODULES
        if part(module) == importer
        for line, name in imports_of(module)
        if part(name) not in allowed
    ]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize("importer", sorted(WITHOUT_ENGINES))
def test_what_stands_below_training_knows_no_engine(importer):
    known = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in MODULES
        if part(module) == importer
        for line, name in imports_of(module)
        if name.split(".")[0] in ENGINES
    ]
    assert not known, "\n".join(known)


def test_no_circle_among_modules():
    graph = {
        module: {found for _, name in imports_of(module) if (found := target(name)) and found != module}
        for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_an_import_is_found_wherever_it_stands():
    source = "import a.b\ndef f():\n    from c import d, e\nfrom . import g\nfrom ..h import i\n"
    inside = [(1, "a.b"), (4, "p.q.g"), (5, "p.h.i"), (3, "c.d"), (3, "c.e")]
    assert list(imported("p.q.r", source, is_package=False)) == inside
    assert list(imported("p.q", "from . import g", is_package=True)) == [(1, "p.q.g")]


def test_no_source_file_is_long():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in files(*SOURCES)
        if path.suffix in SOURCE_SUFFIXES
    }
    assert not {name: count for name, count in lines.items() if count > LONGEST}


def test_results_of_benchmarks_are_json():
    paths = [path for path in files("benchmarks/results") if path.suffix == ".json"]
    assert paths
    for path in paths:
        assert isinstance(json.loads(path.read_text()), dict), path
