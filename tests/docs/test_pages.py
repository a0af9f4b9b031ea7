"""The pages: short enough, no dead links, and commands that exist, with options that exist."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
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


# Runs modules as `python -m` does, one after the other, so that they share what takes seconds to import.
MODULES = """
import contextlib, io, json, runpy, sys, traceback
for line in sys.stdin:
    sys.argv, said, code = json.loads(line), io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = traceback.format_exc()
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def said() -> Iterator[Callable[..., str]]:
    """`said(module, *arguments)`: what `python -m module arguments` prints. A failure of the module fails the test."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", MODULES], cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as child:

        @cache
        def ask(*command: str) -> str:
            print(json.dumps(command), file=child.stdin, flush=True)
            code, text = json.loads(child.stdout.readline())
            assert code == 0, f"{code}\n{text}"
            return text

        yield ask
        child.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_a_command_of_a_page_exists_with_its_options(words, said):
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
            assert said(module, *arguments, *(["--cfg", "job"] * ("--cfg" not in arguments)))
            return
        arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
        choices = [word for word in arguments[:1] if re.fullmatch(r"[a-z_0-9]+", word)]  # of a command with several
        text = said(module, "--help")
        if choices and f"{{{choices[0]}" in text.replace(",", "{"):
            text = said(module, *choices, "--help")
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            assert re.search(rf"{re.escape(option)}(?![\w-])", text), f"{module} has no {option}"
