"""Which checkpoints may share a server, and when fingerprints are equal."""

import json

import pytest
import torch
from safetensors.torch import save_file

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.serving.checkpoints import (
    context_length,
    fingerprint,
    interchangeable,
    resolve_checkpoint,
)


@pytest.fixture
def make_checkpoint(tmp_path):
    def make(name, *, shape=(64, 3), seed=0, layers=2, template="{{ messages }}", files=()):
        folder = tmp_path / name
        folder.mkdir()
        config = {"architectures": ["Qwen3VL"], "text_config": {"layers": layers, "dtype": name}, "vision_config": {}}
        (folder / "config.json").write_text(json.dumps(config | {"transformers_version": name}))
        (folder / "chat_template.jinja").write_text(template)
        for file, content in dict(files).items():
            (folder / file).write_text(json.dumps(content))
        generator = torch.Generator().manual_seed(seed)
        save_file({"weight": torch.rand(shape, generator=generator)}, folder / "model.safetensors")
        return folder

    return make


def test_other_weights_of_one_architecture_share_a_server(make_checkpoint):
    assert interchangeable(make_checkpoint("base"), make_checkpoint("tuned", seed=1))


@pytest.mark.parametrize("change", [{"shape": (64, 4)}, {"layers": 3}, {"template": "{{ other }}"}], ids=str)
def test_another_architecture_or_another_input_does_not(make_checkpoint, change):
    assert not interchangeable(make_checkpoint("base"), make_checkpoint("other", **change))


@pytest.mark.parametrize("file", ["chat_template.json", "tokenizer_config.json"])
def test_templates_in_earlier_places_count_too(make_checkpoint, file):
    base = make_checkpoint("base", files={file: {"chat_template": "{{ messages }}"}})
    other = make_checkpoint("other", files={file: {"chat_template": "{{ other }}"}})
    assert not interchangeable(base, other) and not interchangeable(base, make_checkpoint("without"))
    assert fingerprint(base)["inputs"] != fingerprint(other)["inputs"]


def test_a_tokenizer_config_of_another_version_shares_a_server(make_checkpoint):
    versions = [
        make_checkpoint(name, files={"tokenizer_config.json": {"chat_template": "{{ messages }}", "version": name}})
        for name in ("base", "tuned")
    ]
    assert interchangeable(*versions)


def test_the_fingerprint_follows_the_weights_and_the_input_and_nothing_else(make_checkpoint):
    base = fingerprint(make_checkpoint("base", shape=(512, 512)))
    assert base == fingerprint(make_checkpoint("copy", shape=(512, 512))), "dtype and version must not matter"
    tuned = fingerprint(make_checkpoint("tuned", shape=(512, 512), seed=1))
    assert tuned["weights"] != base["weights"] and tuned["inputs"] == base["inputs"]
    asked = fingerprint(make_checkpoint("asked", shape=(512, 512), template="another"))
    assert asked["weights"] == base["weights"] and asked["inputs"] != base["inputs"]


def test_a_folder_that_is_no_checkpoint_is_named(make_checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"absent.*config\.json"):
        resolve_checkpoint(str(tmp_path / "absent"))
    (make_checkpoint("empty") / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"empty.*safetensors"):
        resolve_checkpoint(str(tmp_path / "empty"))


def test_a_pointer_of_git_lfs_is_named(make_checkpoint):
    folder = make_checkpoint("pointer")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(InputError, match=r"pointer/model\.safetensors: expected a safetensors file"):
        fingerprint(folder)


def test_a_config_that_is_cut_off_is_named(make_checkpoint):
    folder = make_checkpoint("cut")
    (folder / "config.json").write_text('{"architectures": [')
    with pytest.raises(InputError, match=r"cut/config\.json: expected a JSON object"):
        fingerprint(folder)


def test_a_config_without_a_context_is_named(make_checkpoint):
    with pytest.raises(InputError, match=r"config\.json: expected max_position_embeddings"):
        context_length(make_checkpoint("odd"))


def test_a_name_that_is_no_folder_is_looked_up_on_the_hub(make_checkpoint, monkeypatch, tmp_path):
    """The model comes from the hub's cache on disk, as on a machine without network."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    make_checkpoint("base").rename(snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_checkpoint("owner/name") == snapshot
    with pytest.raises(InputError, match="owner/other: no such folder, and the hub did not answer"):
        resolve_checkpoint("owner/other")
