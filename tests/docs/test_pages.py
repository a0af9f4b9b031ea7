"""The pages: short enough, no dead links, and commands that exist, with options that exist."""

import os
import re
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("", "docs", "docs/log", "benchmarks", "examples/*", "sft", "tests/*")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md".removeprefix("/")))
UNLIMITED = ("configuration.md",)  # generated
TRAINERS = ("qwen3vl_rl.train", "sft.train")
TRAINING_SCRIPTS = ("scripts/grounding_qwen.sh", "scripts/sft_qwen3_8b_grounding.sh", "scripts/sft_qwen3_grounding.sh")
NEEDED = {"DATA_DIR": "data", "TRAIN_FILE": "sft.parquet"}  # what a page has set in a line before


def commands(text: str) -> set[tuple[str, ...]]:
    """The words of our commands in the bash blocks of a page, without variables in front."""
    found = set()
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").replace(" && ", "\n").splitlines():
            words = shlex.split(line.replace("…", ""), comments=True)
            while words and re.match(r"\w+=", words[0]):
                words = words[1:]
            if words and words[0] in ("python", "bash", "sbatch"):
                found.add(tuple(words))
    return found


COMMANDS = sorted({words for page in PAGES for words in commands(page.read_text())})


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_short_and_its_links_lead_somewhere(page):
    text = page.read_text()
    assert page.name in UNLIMITED or len(text.splitlines()) <= 200
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, fragment = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{target} leads nowhere"
        if fragment:
            assert fragment in {anchor(line.lstrip("#")) for line in path.read_text().splitlines() if line[:1] == "#"}


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_a_page_opens_with_a_command(page):
    assert "```bash" in page.read_text().splitlines()[:12]


@lru_cache
def help_of(*command: str) -> str:
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_a_command_of_a_page_exists_with_its_options(words):
    if words[0] in ("bash", "sbatch"):
        assert (ROOT / words[1]).exists()
        if words[1] in TRAINING_SCRIPTS:
            composed = subprocess.run(
                ["bash", *words[1:], "--cfg", "job"], cwd=ROOT, env=os.environ | NEEDED, capture_output=True, text=True
            )
            assert composed.returncode == 0, composed.stderr
    else:
        assert words[1] == "-m", "commands start modules, so that the checkout is on the path"
        module, arguments = words[2], words[3:]
        if module in TRAINERS:
            command = [sys.executable, "-m", module, *arguments, *(["--cfg", "job"] * ("--cfg" not in arguments))]
            composed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert composed.returncode == 0, composed.stderr
            return
        arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
        choices = [word for word in arguments[:1] if re.fullmatch(r"[a-z_0-9]+", word)]  # of a command with several
        text = help_of(sys.executable, "-m", module)
        if choices and f"{{{choices[0]}" in text.replace(",", "{"):
            text = help_of(sys.executable, "-m", module, *choices)
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            assert re.search(rf"{re.escape(option)}(?![\w-])", text), f"{module} has no {option}"
