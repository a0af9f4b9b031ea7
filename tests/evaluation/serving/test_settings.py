"""Settings: defaults, files and rejected values."""

import pytest

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.serving.settings import load_settings, variants


@pytest.mark.parametrize(
    "changes",
    [
        {"parser": "mine"},
        {"prompt": "mine"},
        {"coordinates": "pixels"},
        {"coordinates": "px"},  # with the strict parser
        {"max_tokens": 0},
        {"max_tokens": "many"},
        {"max_tokens": True},
        {"top_p": 1.5},
        {"answers": 4},
        {"reasoning_tokens": 4096},
        {"max_pixels": 50176},
        {"prompt": ["qwen3"]},
        {"parser": {"a": "b"}},
        {"seed": -1},
    ],
    ids=str,
)
def test_invalid_settings_are_rejected(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        load_settings(**changes)


def test_a_settings_file_changes_what_it_names(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("temperature: 0.7\nanswers: 4\n")
    assert load_settings(file, max_tokens=9) == load_settings(temperature=0.7, answers=4, max_tokens=9)
    for content, message in (
        ("temprature: 0.7\n", 'got "temprature"'),
        ("- 1\n", "fields and values"),
        ("a: [", "YAML"),
        ("max_tokens: -1\n", r"mine.yaml: max_tokens"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            load_settings(file)


def test_the_recipe_is_the_default():
    settings = load_settings(max_tokens=None)
    assert settings.sampling("a") == {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 20,
        "repetition_penalty": 1.0,
        "min_p": 0.0,
    }
    assert (settings.max_tokens, settings.answers, settings.prompt) == (4096, 1, "qwen3")


def test_sampled_answers_have_their_own_seeds():
    seeds = [load_settings(temperature=0.7, seed=seed).sampling(key)["seed"] for seed in (0, 1) for key in ("a", "b")]
    assert len(set(seeds)) == 4
    assert seeds[0] == load_settings(temperature=0.7).sampling("a")["seed"]


def test_the_strict_parser_may_have_its_earlier_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("parser: house\n")
    assert load_settings(tmp_path / "mine.yaml") == load_settings(parser="house") == load_settings()
    assert load_settings().parser == "strict"


def test_variants_change_the_budget_or_the_number_of_answers():
    ways = variants(load_settings(), budgets=[0, 64], answers=[4])
    assert list(ways) == ["free", "budget-0", "budget-64", "answers-4"]
    assert ways["free"] == load_settings()
    assert ways["budget-0"] == load_settings(reasoning_tokens=0)
    assert ways["answers-4"] == load_settings(answers=4, temperature=0.7, top_p=0.9, top_k=50)
    own = load_settings(temperature=1.0)
    assert variants(own, [], [2])["answers-2"] == load_settings(temperature=1.0, answers=2)


def test_a_budget_that_leaves_no_answer_is_refused():
    with pytest.raises(InputError, match="reasoning_tokens"):
        variants(load_settings(max_tokens=64), budgets=[64], answers=[])
