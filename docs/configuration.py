"""Write docs/configuration.md from the YAML files of both stages and of the evaluation, and from their comments.

python -m docs.configuration
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
STAGE_1, STAGE_2 = ROOT / "sft" / "config", ROOT / "qwen3vl_rl" / "config"
EVALUATION = ROOT / "qwen3vl_rl" / "evaluation" / "serving" / "recipe.yaml"
GROUPS = ("reward", "algorithm", "size", "hardware", "engine", "speed", "tuning", "recipe")  # in this order
LEFT_OUT = ("defaults", "hydra")  # how the files are put together, not what they set
INTRODUCTION = """# Configuration

```bash
python -m qwen3vl_rl.train --cfg job            # stage 2, composed: every key, verl's included
python -m sft.train --cfg job size=2b           # stage 1, with a choice
```

Both stages are Hydra configs over verl 0.9.1's own. To change a key, append `KEY=VALUE` to any command or script. To
choose from a group, append `GROUP=CHOICE`. This page lists what our files set; `--cfg job` also prints verl's defaults.
`${a.b}` means the value of key `a.b`. `python -m docs.configuration` writes this page from the YAML files and their
comments.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    key: str
    value: str
    meaning: str


def read_settings(text: str) -> tuple[str, list[Setting]]:
    """The comment that heads a YAML file, and its settings with the comments above and behind them."""
    lines = text.splitlines()
    head = list(takewhile(lambda line: line.startswith("#"), lines))
    words = [line.lstrip("# ") for line in head if not line.startswith("# @package")]
    return " ".join(words), list(_settings(yaml.compose(text), lines, text, len(head)))


def _settings(node: yaml.Node | None, lines: list[str], text: str, head: int, path: str = "") -> Iterator[Setting]:
    """The settings below `node`, a mapping. `head`: lines at the top that belong to the file and not to a key."""
    for name, value in node.value if node else []:
        key = f"{path}.{name.value}".lstrip(".")
        if key in LEFT_OUT:
            continue
        source, behind = _value_and_comment(name, value, lines, text)
        above = takewhile(lambda line: line.lstrip().startswith("#"), reversed(lines[head : name.start_mark.line]))
        comments = [*(line.lstrip("# ") for line in reversed([*above])), behind]
        if source or any(comments):
            yield Setting(key, source, " ".join(filter(None, comments)))
        if isinstance(value, yaml.MappingNode) and not source:
            yield from _settings(value, lines, text, head, key)


def _value_and_comment(name: yaml.Node, value: yaml.Node, lines: list[str], text: str) -> tuple[str, str]:
    """The value of a key as it is written, on one line, and the comment behind. Mappings of several lines have none."""
    on_line, _, behind = (
        part.strip() for part in lines[name.start_mark.line][name.end_mark.column + 1 :].partition("#")
    )
    if value.start_mark.index < name.start_mark.index:
        return on_line, behind  # an alias: its node is where the anchor is
    source = " ".join(text[value.start_mark.index : value.end_mark.index].split())
    if isinstance(value, yaml.CollectionNode) and not value.flow_style:
        return "" if isinstance(value, yaml.MappingNode) else source, behind
    return source, text[value.end_mark.index :].partition("\n")[0].partition("#")[2].strip()


def page() -> str:
    parts = [INTRODUCTION]
    for title, folder, name in (("Stage 1", STAGE_1, "sft.yaml"), ("Stage 2", STAGE_2, "grounding_grpo.yaml")):
        parts.append(f"## {title}: `{(folder / name).relative_to(ROOT)}`\n\n{_file(folder / name)}")
        if (pixels := folder / "pixels.yaml").exists():
            parts.append(f"### `pixels`\n\n{_file(pixels)}")
        parts += [_group(folder / group, folder / name) for group in GROUPS if (folder / group).exists()]
    parts.append(f"## Evaluation: `{EVALUATION.relative_to(ROOT)}`\n\n{_file(EVALUATION)}")
    return "\n".join(parts)


def _file(path: Path) -> str:
    head, settings = read_settings(path.read_text())
    return f"{head}\n\n" * bool(head) + "\n".join(_table(settings)) + "\n"


def _table(settings: list[Setting]) -> Iterator[str]:
    yield "| key | value | meaning |\n| --- | --- | --- |"
    for one in settings:
        yield f"| `{one.key}` | {_code(one.value)} | {_cell(one.meaning)} |"


def _group(folder: Path, main_file: Path) -> str:
    """The choices of a group, then what each of them sets."""
    files = {path.stem: read_settings(path.read_text()) for path in sorted(folder.glob("*.yaml"))}
    default = re.search(rf"^  - (?:override )?{folder.name}: (\w+)", main_file.read_text(), re.MULTILINE)[1]
    lines = [f"### `{folder.name}=`\n", "| choice | what it does |", "| --- | --- |"]
    for name, (head, _) in files.items():
        if not name.startswith("_"):
            lines.append(f"| `{name}`{' (default)' * (name == default)} | {_cell(head)} |")
    lines += ["", "| choice | key | value | meaning |", "| --- | --- | --- | --- |"]
    for name, (_, settings) in files.items():
        choice = "every choice" if name.startswith("_") else f"`{name}`"
        prefix = "reward." if folder.name == "reward" else ""  # the package of these files
        lines += [f"| {choice} | `{prefix}{s.key}` | {_code(s.value)} | {_cell(s.meaning)} |" for s in settings]
    return "\n".join(lines) + "\n"


def _code(value: str) -> str:
    return f"`{_cell(value)}`" if value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
