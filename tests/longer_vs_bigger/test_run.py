"""Each job runs once, after the jobs that it needs, on a GPU that has room for it."""

import json
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from examples.longer_vs_bigger.jobs import Experiment, Job
from examples.longer_vs_bigger.run import Queue, read_config, visible_gpus, with_needs
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.recipe import verl_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NO_LIMIT = float("inf")
SLEEPER = (sys.executable, "-c", "import time; time.sleep(3600)")


def note(path: Path, text: str, code: int = 0) -> tuple[str, ...]:
    """A command that appends `text` and its visible GPU to a file."""
    line = f"import os; open({str(path)!r}, 'a').write({text!r} + os.environ['CUDA_VISIBLE_DEVICES'] + ' ')"
    return (sys.executable, "-c", f"{line}; print('said', {text!r}); raise SystemExit({code})")


def test_jobs_wait_for_what_they_need_and_are_not_repeated(tmp_path):
    said = tmp_path / "said"
    jobs = [
        Job("b", (note(said, "b"),), ("a",), share=1.0),
        Job("a", (note(said, "a1-"), note(said, "a2-")), share=1.0),
        Job("c", (note(said, "c"),), ("b",)),
    ]
    assert Queue(jobs, tmp_path, ["0"], NO_LIMIT).run()
    assert said.read_text() == "a1-0 a2-0 b0 c0 "
    assert Queue(jobs, tmp_path, ["0"], NO_LIMIT).run()
    assert said.read_text() == "a1-0 a2-0 b0 c0 "


def test_a_job_with_new_needs_is_run_again(tmp_path):
    said = tmp_path / "said"
    jobs = [Job("a", (note(said, "a"),)), Job("b", (note(said, "b"),)), Job("look", (note(said, "look"),), ("a",))]
    assert Queue(jobs, tmp_path, ["0"], NO_LIMIT).run()
    said.unlink()
    assert Queue([*jobs[:2], Job("look", (note(said, "look"),), ("a", "b"))], tmp_path, ["0"], NO_LIMIT).run()
    assert said.read_text() == "look0 "


def test_two_gpus_share_the_work_and_a_full_one_gets_no_more(tmp_path):
    said = tmp_path / "said"
    jobs = [Job(str(n), (note(said, "x"),), share=1.0) for n in range(2)]
    queue = Queue(jobs, tmp_path, ["4", "6"], NO_LIMIT)
    queue.start_ready()
    assert sorted(running.gpu for running in queue.running) == [0, 1] and queue.free == [0.0, 0.0]
    assert queue.run() and sorted(said.read_text().split()) == ["x4", "x6"]


def test_a_limit_stops_running_jobs_and_the_next_call_resumes(tmp_path):
    said = tmp_path / "said"
    jobs = [Job("first", (note(said, "a"),)), Job("second", (SLEEPER,), ("first",))]
    assert Queue(jobs[:1], tmp_path, ["0"], NO_LIMIT).run()
    queue = Queue(jobs, tmp_path, ["0"], limit_s=1)
    assert not queue.run() and queue.done == {"first"}
    assert all(running.child.poll() is not None for running in queue.running)
    assert Queue([jobs[0], Job("second", (note(said, "b"),), ("first",))], tmp_path, ["0"], NO_LIMIT).run()
    assert said.read_text() == "a0 b0 "


@pytest.mark.parametrize(
    ("job", "message"),
    [(Job("a", (), ("b",)), "a: needs b, which"), (Job("a", (), share=1.2), "a: gpu_share 1.2: expected at most 1")],
)
def test_a_job_that_can_never_run_is_rejected(tmp_path, job, message):
    with pytest.raises(InputError, match=message):
        Queue([job], tmp_path, ["0"], NO_LIMIT)


@pytest.mark.parametrize("changes", [["ablated=16m"], ["longer=[1m]"]])
def test_a_config_that_leaves_models_out_is_rejected(tmp_path, changes):
    jobs = Experiment(read_config(changes), tmp_path, "gpu1").jobs()
    with pytest.raises(InputError, match=r"needs sft-.*, which this config does not train"):
        Queue(jobs, tmp_path, ["0"], NO_LIMIT)


def test_chosen_jobs_run_with_the_jobs_that_they_need(tmp_path):
    jobs = Experiment(read_config([]), tmp_path, "gpu1").jobs()
    names = [job.name for job in with_needs(jobs, ["sft-4m-0", "base-1m"])]
    assert names == ["processor", "data-0", "sft-data-0", "base-4m", "base-1m", "sft-4m-0"]
    names = [job.name for job in with_needs(jobs, ["study_rl-35_n_4-1"])]
    assert names == [
        "processor", "data-0", "val-data-0", "study_data-35-1", "study_sft-35-1", "study_rl-35_n_4-1",
    ]  # fmt: skip
    with pytest.raises(InputError, match="--only stf: expected the beginning of a job's name"):
        with_needs(jobs, ["base", "stf"])


def test_seeds_without_the_measured_one_are_rejected():
    with pytest.raises(InputError, match="seeds: expected 0 among them"):
        read_config(["seeds=[1,2]"])


def test_a_failure_names_the_job_shows_its_log_and_stops_only_what_needs_it(tmp_path):
    jobs = [
        Job("bad", (note(tmp_path / "said", "oops", code=3),), share=1.0),
        Job("after", (note(tmp_path / "said", "never"),), ("bad",)),
        Job("other", (note(tmp_path / "other", "x"),), share=1.0),
    ]
    with pytest.raises(InputError, match=r"bad failed, the last lines of .*bad.log:\n.*said oops"):
        Queue(jobs, tmp_path, ["0"], NO_LIMIT).run()
    assert (tmp_path / "said").read_text() == "oops0 oops0 " and (tmp_path / "other").read_text() == "x0 "


def test_bad_input_is_not_retried(tmp_path):
    with pytest.raises(InputError, match="bad failed"):
        Queue([Job("bad", (note(tmp_path / "said", "oops", code=2),))], tmp_path, ["0"], NO_LIMIT).run()
    assert (tmp_path / "said").read_text() == "oops0 "


def test_a_job_that_fails_once_is_retried(tmp_path):
    once = ("bash", "-c", f"[ -e {tmp_path}/tried ] || {{ touch {tmp_path}/tried; exit 3; }}")
    jobs = [Job("shaky", (once,)), Job("after", (note(tmp_path / "x", "x"),), ("shaky",))]
    assert Queue(jobs, tmp_path, ["0"], NO_LIMIT).run()
    assert (tmp_path / "x").read_text() == "x0 "


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 2, ["0", "1"]), ("2,3", 2, ["2", "3"]), ("2,3", 1, ["2"]), ("2,3", 0, ["0"]), (None, 0, ["0"])],
)
def test_gpus_are_those_that_the_caller_may_use(monkeypatch, visible, count, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("examples.longer_vs_bigger.run.gpu_memories_mib", lambda: [80_000] * 2)
    assert visible_gpus(count) == expected


@pytest.mark.parametrize("count", [-1, 3])
def test_missing_gpus_are_rejected(monkeypatch, count):
    monkeypatch.setattr("examples.longer_vs_bigger.run.gpu_memories_mib", lambda: [80_000] * 2)
    with pytest.raises(InputError, match=f"--gpus {count}: expected 0 .* to 2"):
        visible_gpus(count)


def test_a_failure_is_reported_at_the_limit_too(tmp_path):
    class UntilFailure(Queue):
        def collect_finished(self) -> None:
            super().collect_finished()
            if self.failures:
                self.limit_s = 0

    jobs = [Job("bad", (note(tmp_path / "said", "oops", code=2),)), Job("long", (SLEEPER,))]
    queue = UntilFailure(jobs, tmp_path, ["0"], NO_LIMIT)
    with pytest.raises(InputError, match="bad failed"):
        queue.run()
    assert queue.unfinished() == 1


def test_the_largest_rung_starts_first_and_jobs_share_a_gpu(tmp_path):
    jobs = [job for job in Experiment(read_config([]), tmp_path, "gpu1").jobs() if job.share]
    assert [job.name for job in jobs[:4]] == ["base-62m", "base-16m", "base-4m", "base-1m"]
    shares = {job.name: job.share for job in jobs}
    assert max(shares.values()) < 1 and shares["direct-62m-0"] > shares["direct-1m-0"]


def test_each_run_records_its_gpu_time(tmp_path):
    queue = Queue([Job("a", (note(tmp_path / "said", "a"),))], tmp_path / "jobs", ["0", "1"], NO_LIMIT)
    queue.folder.mkdir()
    assert queue.run() and Queue([], tmp_path / "jobs", ["0"], NO_LIMIT, gpu_count=0).run()
    slices = [json.loads(path.read_text()) for path in sorted((tmp_path / "jobs" / "slices").iterdir())]
    assert [part["gpus"] for part in slices] == [2, 0] and slices[0]["seconds"] > 0


def test_a_misspelt_setting_is_rejected():
    with pytest.raises(InputError, match="sed: expected a key"):
        read_config(["sed=[0]"])


@pytest.mark.long
@pytest.mark.parametrize("hardware", ["cpu", "gpu1"])
def test_the_experiment_runs_commands_that_exist(tmp_path, hardware):
    jobs = Experiment(read_config([]), tmp_path, hardware).jobs()
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert {need for job in jobs for need in job.needs} <= set(names)
    for module in {command[2] for job in jobs for command in job.commands}:  # without it, it does nothing
        place = ROOT / module.replace(".", "/")
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        assert 'if __name__ == "__main__":' in file.read_text(), module
    assert verl_config()  # registers the resolver for verl's configs
    recipes = {"sft.train": "sft", "qwen3vl_rl.train": "grounding_grpo"}
    commands = [command[2:] for job in jobs for command in job.commands if command[2] in recipes]
    # Rungs and seeds change only values, so one of the commands with the same keys is enough.
    distinct = {(module, *(word.partition("=")[0] for word in words)): (module, words) for module, *words in commands}
    for module, overrides in distinct.values():
        with initialize_config_dir(str(ROOT / module.split(".")[0] / "config"), version_base=None):
            config = compose(recipes[module], overrides)
        assert config.trainer.default_local_dir.startswith(str(tmp_path))
