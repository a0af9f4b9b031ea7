"""The page of published and measured numbers."""

import pytest
import yaml

from qwen3vl_rl.data.predictions import append
from qwen3vl_rl.data.refcoco import EVAL_SPLITS
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import ledger
from qwen3vl_rl.evaluation.ledger import PAGE, add, fill, read_entries
from qwen3vl_rl.evaluation.protocols import protocol
from qwen3vl_rl.evaluation.run import Load, Run
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.server import Endpoint
from qwen3vl_rl.evaluation.serving.settings import load_settings

EMPTY = f"before\n{ledger.BEGIN}{ledger.END}after\n"


def test_the_page_matches_its_entries():
    page = PAGE.read_text()
    assert fill(page, read_entries(PAGE.with_suffix(".yaml"))) == page, "python -m qwen3vl_rl.evaluation.ledger"


@pytest.fixture
def run(world, answer, tmp_path, monkeypatch):
    """A finished run over eight splits, where six questions per split count as complete."""

    def make(name: str = "paper"):
        data = tmp_path / "eight"
        data.mkdir(exist_ok=True)
        for split in EVAL_SPLITS:
            (data / f"{split}.jsonl").write_text((world / "eval" / "refshapes_val.jsonl").read_text())
        questions = read_questions([data], world / "images")
        monkeypatch.setattr(ledger, "EXPRESSIONS", dict.fromkeys(EVAL_SPLITS, 6))
        settings = load_settings(asks=protocol(name).asks)
        folder = tmp_path / "EGM-8B"
        started = Run(folder, "m", questions, settings, Endpoint("http://localhost:1"))
        started.write_config()
        with (folder / "predictions.jsonl").open("w") as file:
            for question in questions:
                append(file, answer(question, True))
        Run(folder, "m", questions, settings, Endpoint("http://localhost:1")).complete(world / "images", Load(8))
        return folder

    return make


def test_a_run_is_listed_below_its_published_row(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(EMPTY)
    add([run()], "paper", page)
    lines = page.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("| EGM-8B | paper"))
    assert lines[at].endswith("| below |") and lines[at + 1].startswith("| EGM-8B, ours | paper | 100.0 | 100.0")
    stored = yaml.safe_load((tmp_path / "page.yaml").read_text())["paper"]["EGM-8B"]
    assert stored["acc"]["average"] == 100.0
    assert next(line for line in lines if "Qwen3-VL-8B-Thinking | paper" in line).endswith(f"| {ledger.MISSING} |")


def test_runs_with_other_settings_or_fewer_questions_are_rejected(run, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(EMPTY)
    folder = run("paper")
    with pytest.raises(InputError, match=r'config.yaml: field "settings.prompt": expected qwen3_official'):
        add([folder], "qwen", page)
    monkeypatch.setattr(ledger, "EXPRESSIONS", dict.fromkeys(EVAL_SPLITS, 7))
    with pytest.raises(InputError, match="expected the 7 questions of refcoco_val, found 6"):
        add([folder], "paper", page)
    assert page.read_text() == EMPTY and not (tmp_path / "page.yaml").exists()


def test_a_run_with_joined_sentences_is_rejected_for_other_protocols(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(EMPTY)
    with pytest.raises(InputError, match=r'field "settings.(max_tokens|prompt|sentences)"'):
        add([run("lmms_eval")], "qwen", page)


def test_names_must_differ(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(EMPTY)
    folder = run()
    with pytest.raises(InputError, match="expected folders with different names"):
        add([folder, folder], "paper", page)


@pytest.mark.parametrize("content", ["paper: [1]", "paper: {a: {acc: {}}}", "a: [", "3"])
def test_a_store_that_was_edited_wrongly_is_named(tmp_path, content):
    (tmp_path / "page.yaml").write_text(content)
    with pytest.raises(InputError, match=r"page.yaml: expected entries as this command writes them"):
        read_entries(tmp_path / "page.yaml")


def test_a_missing_page_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.md: expected docs/reproduction.md of the checkout"):
        add([], "paper", tmp_path / "none.md")
