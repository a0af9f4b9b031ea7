"""Stage 2 under variants, ranks and kills: `bash scripts/test.sh --soak -k test_rl`. One run takes two minutes."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from examples.starter.build import build_checkpoint
from qwen3vl_rl.export import export
from qwen3vl_rl.training.checkpoints import latest_step
from qwen3vl_rl.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
# An untrained model never answers with a box, and all its answers score 0. This reward tells them apart.
LENGTHS = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    kinds = len(set(solution_str))
    return {"score": kinds / 10, "characters": len(solution_str), "acc": float(kinds % 2)}
"""


@pytest.fixture(scope="module")
def lengths(tmp_path_factory) -> list[str]:
    """Overrides for a reward function of a user's own that verl calls directly."""
    path = tmp_path_factory.mktemp("rewards") / "lengths.py"
    path.write_text(LENGTHS)
    return [f"reward.custom_reward_function.path={path}"]


@pytest.fixture
def start(nothing_is_left):
    """`start(command)`: a run as a user starts it; it does not outlive the test."""
    runs = []

    def begin(command: list[str]) -> subprocess.Popen:
        runs.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
        return runs[-1]

    yield begin
    for run in runs:
        if run.poll() is None:  # else the test has read what it said
            run.terminate()
            run.communicate()


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No test leaves a segment of shared memory or a process of Ray behind. What a living process maps is its own."""
    before = set(os.listdir("/dev/shm"))
    yield
    assert set(os.listdir("/dev/shm")) - before - mapped() == set()
    assert [process.info for process in psutil.process_iter(["name"]) if is_ours(process)] == []


def mapped() -> set[str]:
    """The segments of /dev/shm that some process has in its memory."""
    names = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            names |= {Path(part.path).name for part in process.memory_maps() if part.path.startswith("/dev/shm/")}
    return names


def is_ours(process: psutil.Process) -> bool:
    try:
        return process.username() == psutil.Process().username() and "/tmp/egm-" in process.environ().get("TMPDIR", "")
    except psutil.Error:
        return False


def steps_of(run: Path) -> list[int]:
    return sorted(read_metrics(run))


# Variants


def test_minibatches_below_the_batch_are_clipped_in_gspo_s_range(train, rl_command, lengths, tmp_path):
    updates = ["actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.actor.clip_ratio=3e-4"]
    train(rl_command(tmp_path, *updates, "trainer.total_training_steps=2", *lengths))
    metrics = read_metrics(tmp_path)
    assert max(step["actor/pg_clipfrac"] for step in metrics.values()) > 0
    assert all(step["reward/characters"] > 0 for step in metrics.values())  # the parts are the function's own


def test_without_kl_there_is_no_reference(train, rl_command, tmp_path):
    train(rl_command(tmp_path, "actor_rollout_ref.actor.use_kl_loss=false", "trainer.total_training_steps=2"))
    for step in read_metrics(tmp_path).values():
        assert "actor/kl_loss" not in step and "timing_s/ref" not in step


TWO_RANKS = ["trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2", "trainer.total_training_steps=2"]
AT_ONCE = [
    "actor_rollout_ref.actor.fsdp_config.reshard_after_forward=false",
    "actor_rollout_ref.actor.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap=[Qwen3VLVisionModel]",
]


@pytest.mark.parametrize("gathered", [[], AT_ONCE], ids=["by layer", "at once"])
def test_two_ranks_share_the_work(gathered, train, rl_command, lengths, tmp_path):
    train(rl_command(tmp_path, *TWO_RANKS, *gathered, *lengths))
    metrics = read_metrics(tmp_path)
    assert list(metrics) == [1, 2]
    assert max(step["training/rollout_probs_diff_max"] for step in metrics.values()) < 1e-3  # both were synced
    shards = {path.name for path in (tmp_path / "global_step_2" / "actor").glob("model_*")}
    assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}


def test_two_ranks_train_untied_embeddings(train, rl_command, lengths, tmp_path):
    """Those of 8B, which verl makes units of their own, the vision tower's among them."""
    build_checkpoint(tmp_path / "untied", changes={"tie_word_embeddings": False})
    model = f"actor_rollout_ref.model.path={tmp_path}/untied"
    train(rl_command(tmp_path, model, *TWO_RANKS, *lengths))
    metrics = read_metrics(tmp_path)
    assert list(metrics) == [1, 2]
    assert max(step["training/rollout_probs_diff_max"] for step in metrics.values()) < 1e-3


def test_plain_parameters_train_and_reach_the_rollouts(train, rl_command, lengths, tmp_path):
    plain = ["actor_rollout_ref.actor.fsdp_config.no_shard=true", "trainer.total_training_steps=2"]
    train(rl_command(tmp_path, *plain, *lengths))
    first, second = (step for _, step in sorted(read_metrics(tmp_path).items()))
    assert first["actor/grad_norm"] > 0 and first["actor/lr"] > 0
    assert second["training/rollout_probs_diff_max"] < 1e-3  # the rollouts have what the first step has made
    assert (tmp_path / "global_step_2" / "actor" / "model_world_size_1_rank_0.pt").exists()


def test_fast_settings_train_and_reach_the_rollouts(train, rl_command, lengths, tmp_path):
    """At a rate at which the rollouts of old weights would be told from the actor's by a hundred times the limit."""
    rate = "actor_rollout_ref.actor.optim.lr=1e-2"
    train(rl_command(tmp_path, "speed=fast", rate, "trainer.total_training_steps=3", *lengths))
    metrics = read_metrics(tmp_path)
    assert list(metrics) == [1, 2, 3]
    for step in metrics.values():
        assert step["actor/grad_norm"] > 0 and step["actor/rollout_log_prob_diff"] < 0.01
        assert "training/rollout_probs_diff_max" not in step  # needs the pass that is left out


def test_sequences_of_one_length_train(train, rl_command, lengths, training_data, tmp_path):
    """One prompt, and answers that are all cut off at the limit."""
    table = pq.read_table(training_data / "rl.parquet").slice(0, 1)
    pq.write_table(pa.concat_tables([table] * 16), tmp_path / "rl.parquet")
    alike = [f"data.train_files={tmp_path}/rl.parquet", "actor_rollout_ref.rollout.ignore_eos=true"]
    train(rl_command(tmp_path / "run", *alike, "trainer.total_training_steps=2", *lengths))
    for step in read_metrics(tmp_path / "run").values():
        assert step["response_length/min"] == step["response_length/max"] == 32
        assert step["prompt_length/min"] == step["prompt_length/max"]


def test_adapters_train_and_reach_the_rollouts_and_the_export(train, rl_command, lengths, sft_checkpoint, tmp_path):
    """At a rate at which rollouts without the adapters would be told from the actor's. A resumed run has them."""
    command = rl_command(tmp_path / "run", "tuning=lora", "actor_rollout_ref.actor.optim.lr=1e-2", *lengths)
    for steps in (2, 3):
        train([*command, f"trainer.total_training_steps={steps}"])
    metrics = read_metrics(tmp_path / "run")
    assert list(metrics) == [1, 2, 3]
    assert max(step["training/rollout_probs_diff_max"] for step in metrics.values()) < 1e-3
    assert metrics[1]["actor/kl_loss"] < 1e-6 < metrics[3]["actor/kl_loss"]  # the reference is the actor without them
    export(tmp_path / "run", tmp_path / "hf")
    before, after = (load_file(folder / "model.safetensors") for folder in (sft_checkpoint, tmp_path / "hf"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(".visual.blocks." in name or "embed" in name for name in changed)


def test_alike_groups_are_replaced_and_a_killed_run_ends_with_its_epochs(start, train, rl_command, lengths, tmp_path):
    """DAPO, on 24 prompts, 4 of them a step; of two answers each, half of the groups are alike."""
    folder, sizes = tmp_path / "run", ["data.train_max_samples=24", "actor_rollout_ref.rollout.n=2"]
    command = rl_command(folder, "algorithm=dapo", "trainer.total_epochs=1", "trainer.save_freq=1", *sizes, *lengths)
    run = start(command)
    wait_for(run, lambda: folder.exists() and 1 in read_metrics(folder))
    find_process(run, "TaskRunner").kill()
    run.communicate()
    train(command)
    metrics, last = read_metrics(folder), latest_step(folder)
    thrown = ("training/filter_groups/evicted_samples", "training/filter_groups/discarded_surplus_samples")
    for step in metrics.values():
        assert step["rollout/fetched_prompts"] == 4 + sum(step.get(name, 0) for name in thrown) <= 12
        assert step["rollout/thrown_away"] == pytest.approx(1 - 4 / step["rollout/fetched_prompts"])
    assert any(step["rollout/thrown_away"] > 0 for step in metrics.values())
    fetched = json.loads((folder / f"global_step_{last}" / "fetched.json").read_text())["prompts"]
    assert 20 < fetched <= 24 and last < 6
    if list(metrics) == [*range(1, last + 1)]:  # verl writes a step's after its checkpoint: it may have died between
        assert fetched == sum(step["rollout/fetched_prompts"] for step in metrics.values())
    assert f"all {last} steps are trained" in train(command)


def test_every_second_step_may_train_on_answers_of_the_weights_before(train, rl_command, lengths, tmp_path):
    options = ["trainer.v1.trainer_mode=colocate_async", "trainer.total_training_steps=4", *lengths]
    train(rl_command(tmp_path, *options))
    metrics = read_metrics(tmp_path)
    assert [metrics[step]["training/off_policy/trajectory_staleness/mean"] for step in (1, 2, 3, 4)] == [0, 1, 0, 1]
    # The third step's rollouts have what the second has made. On a slow machine some answers have begun before that.
    stale, fresh = (metrics[step]["training/rollout_probs_diff_mean"] for step in (2, 3))
    assert fresh < stale / 5
    if metrics[3]["training/off_policy/trajectory_spans/max"] == 1:
        assert metrics[3]["training/rollout_probs_diff_max"] < 1e-3


def test_two_runs_at_once_keep_their_weights_apart(start, rl_command, lengths, tmp_path):
    """Both are the first job of their cluster, by which verl alone tells them apart."""
    rates = {"slow": "1e-5", "fast": "1e-2"}  # so that each would notice the other's weights
    options = ["trainer.total_training_steps=4", "actor_rollout_ref.actor.optim.lr_warmup_steps=0", *lengths]
    runs = [
        start(rl_command(tmp_path / n, f"actor_rollout_ref.actor.optim.lr={lr}", *options)) for n, lr in rates.items()
    ]
    for run, name in zip(runs, rates, strict=True):
        _, errors = run.communicate()
        assert run.returncode == 0, errors
        steps = read_metrics(tmp_path / name)
        assert len(steps) == 4 and max(step["training/rollout_probs_diff_max"] for step in steps.values()) < 1e-2


def test_a_hung_rollout_ends_in_a_clear_error(start, rl_command, tmp_path):
    run = start(rl_command(tmp_path / "run", "trainer.total_training_steps=50", "trainer.step_timeout_s=600"))
    wait_for(run, lambda: 1 in read_metrics(tmp_path / "run"))
    server = find_process(run, "GroupServer")
    server.suspend()
    _, errors = run.communicate()
    assert run.returncode == 1
    reasons = "no step in 600 s", "answers are missing, the engine or the reward failed"  # Ray may give it up before
    assert "training stopped with" in errors and any(reason in errors for reason in reasons)


# Kills


def processes_below(run: subprocess.Popen) -> Iterator[psutil.Process]:
    yield from psutil.Process(run.pid).children(recursive=True)


def find_process(run: subprocess.Popen, name: str) -> psutil.Process:
    for process in processes_below(run):
        if name in " ".join(process.cmdline()):
            return process
    pytest.fail(f"no process {name}: {[' '.join(process.cmdline())[:60] for process in processes_below(run)]}")


def wait_for(run: subprocess.Popen, condition) -> None:
    while not condition():
        assert run.poll() is None
        time.sleep(0.2)


VICTIMS = {
    "launcher": None,  # the process that the user has started
    "driver": "verl.trainer.main_ppo",
    "trainer": "TaskRunner",
    "actor worker": "WorkerDict",
    "rollout server": "GroupServer",
    "raylet": "raylet/raylet",
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_killed_run_goes_on_at_its_last_checkpoint(victim, start, train, rl_command, lengths, tmp_path):
    """Killed with -9 at a random moment after the first checkpoint; the same command then does the rest."""
    folder, rng = tmp_path / "run", random.Random(victim)
    options = ["trainer.total_training_steps=6", "trainer.save_freq=2", "trainer.test_freq=2", *lengths]
    command = rl_command(folder, *options)
    run = start(command)
    wait_for(run, lambda: folder.exists() and latest_step(folder) == 2)
    time.sleep(rng.uniform(0, 6))
    pid = run.pid if VICTIMS[victim] is None else find_process(run, VICTIMS[victim]).pid
    below = [*processes_below(run)]
    os.kill(pid, signal.SIGKILL)
    _, errors = run.communicate()
    psutil.wait_procs(below, timeout=600)  # which outlive the launcher for a moment, and may write a step
    assert run.returncode != 0
    assert victim == "launcher" or "error: training stopped with" in errors
    assert victim != "rollout server" or "vllm_server_0_0 has died" in errors
    saved, written = latest_step(folder), {*steps_of(folder)}
    assert saved in (2, 4)
    assert written >= {*range(1, saved)}  # verl validates between a checkpoint and its step's metrics
    screen = train(command)
    shown = [int(line.split()[1]) for line in screen.splitlines() if line.startswith("step ")]
    assert shown[0] == saved + 1 and shown[-1] == 6 and shown == sorted(set(shown))  # quick steps are skipped
    assert {*steps_of(folder)} == written | {*range(saved + 1, 7)}
    assert latest_step(folder) == 6


def test_ctrl_c_ends_a_run_and_all_that_it_started(start, rl_command, tmp_path):
    run = start(rl_command(tmp_path / "run", "trainer.total_training_steps=50"))
    wait_for(run, lambda: 1 in read_metrics(tmp_path / "run"))
    run.send_signal(signal.SIGINT)
    assert run.wait() != 0


def test_a_full_disk_is_reported_and_leaves_the_previous_checkpoint_whole(train, rl_command, tmp_path):
    """The second checkpoint may not grow beyond 4 MB, as on a full disk; the first one then serves."""
    folder = tmp_path / "run"
    train(rl_command(folder, "trainer.total_training_steps=1", "trainer.save_freq=1"))
    more = rl_command(folder, "trainer.total_training_steps=2", "trainer.save_freq=1")
    limited = ["bash", "-c", 'ulimit -f 4096; trap "" XFSZ; exec "$@"', "bash", *more]
    run = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert "training stopped with" in run.stderr
    assert latest_step(folder) == 1
    shutil.rmtree(folder / "global_step_2", ignore_errors=True)
    train(more)
    assert latest_step(folder) == 2
    assert json.loads((folder / "global_step_2" / "actor" / "fsdp_config.json").read_text())["world_size"] == 1


def test_a_run_is_rehearsed_by_its_own_script(sft_checkpoint, training_data, tmp_path):
    """Small as the starter, and short of answers as an untrained model's are not."""
    for name, rows in (("train", "rl"), ("val", "rl_val")):
        shutil.copyfile(training_data / f"{rows}.parquet", tmp_path / f"{name}_grounding.parquet")
    variables = {"DATA_DIR": f"{tmp_path}", "MODEL_PATH": f"{sft_checkpoint}", "OUTPUT_DIR": f"{tmp_path}/out"}
    sizes = ["data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "data.max_response_length=32"]
    command = ["bash", "scripts/rehearse.sh", "hardware=cpu", "engine=vllm", "size=tiny", *sizes]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "rehearsed 3 of 96 steps, killed after the second and resumed" in run.stdout
    assert "a validation of all rows: " in run.stdout and "of the answers are cut off" in run.stdout
    assert list((tmp_path / "out").iterdir()) == []
