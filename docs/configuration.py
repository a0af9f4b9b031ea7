"""Write docs/configuration.md from the YAML files of both stages and of the evaluation, and from their comments.

python -m docs.configuration
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    """The comment that heads a YAML file, and its settings with the comments above and behind them.

    Reads block mappings with scalars or one-line lists and mappings, which is all that our files hold.
    """
    head, settings, comment = [], [], []
    parents: list[tuple[int, str]] = []
    started = False
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# @package"):
            continue
        if stripped.startswith("#"):
            comment.append(stripped[1:].strip())
        elif not stripped:
            if not started:
                head, comment = head + comment, []
        elif not stripped.startswith("- "):
            if not started and not head:
                head, comment = comment, []
            started = True
            indent = len(line) - len(line.lstrip())
            key, value, behind = _split(stripped)
            parents = [parent for parent in parents if parent[0] < indent]
            path = [name for _, name in parents] + [key]
            parents.append((indent, key))
            meaning = " ".join([*comment, *([behind] if behind else [])])
            comment = []
            if path[0] not in LEFT_OUT and (value or meaning):
                settings.append(Setting(".".join(path), value, meaning))
        else:
            comment = []
    return " ".join(head or comment), settings


def _split(line: str) -> tuple[str, str, str]:
    """`key: value # comment` to its three parts; an anchor (`&name`) is dropped."""
    key, rest = line.split(":", 1)
    value, _, comment = f" {rest.strip()}".partition(" #")
    return key, re.sub(r"^&\w+ ?", "", value.strip()), comment.strip()


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
