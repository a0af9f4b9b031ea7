"""A run's recipe, log and metrics are kept, its steps reach the screen, and its failure the exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.data.files import alone_in
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training import cpu, launch, starts
from qwen3vl_rl.training.metrics import read_metrics
from qwen3vl_rl.training.run_folder import LATEST, set_earlier_run_aside

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = """
import json, os, sys
with open(os.environ["VERL_FILE_LOGGER_PATH"], "w") as file:
    for step in (1, 2):
        file.write(json.dumps({"step": step, "data": {"train/loss": 3 / step, "other": 1}}) + "\\n")
print("noise", sys.argv[1:])
"""


@pytest.fixture
def config(tmp_path):
    trainer = {"device": "cuda", "resume_mode": "auto", "default_local_dir": str(tmp_path / "run")}
    return OmegaConf.create({"trainer": trainer})


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """`trainer(code)`: a module of that code for `launch.run` to run in verl's place; returns the command."""

    def write(code: str) -> list[str]:
        (tmp_path / "stand_in.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return ["stand_in"]

    return write


def test_a_run_leaves_recipe_log_and_metrics_and_prints_its_steps(config, trainer, capsys, tmp_path):
    for start in range(2):
        launch.run(config, trainer(STEPS), {"loss": "train/loss", "absent": "x"}, steps=2)
        assert (tmp_path / "run" / f"metrics-00{start}.jsonl").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"starting; log in {tmp_path}/run/train.log", "step 1 of 2  loss 3", "step 2 of 2  loss 1.5"] * 2
    assert OmegaConf.load(tmp_path / "run" / "recipe.yaml") == config
    assert (tmp_path / "run" / "train.log").read_text().count("noise ['--config-path'") == 2
    assert read_metrics(tmp_path / "run")[2]["train/loss"] == 1.5


def test_a_run_sees_the_secrets_of_overrides_and_its_recipe_does_not(config, trainer, tmp_path, monkeypatch):
    key = "ray_kwargs.ray_init.runtime_env.env_vars.WANDB_API_KEY"
    monkeypatch.setattr(starts, "_given", lambda: [f"+{key}=12ab"])
    OmegaConf.update(config, key, "12ab", force_add=True)
    read = "import sys, pathlib; print('seen', '12ab' in pathlib.Path(sys.argv[2], 'recipe.yaml').read_text())"
    launch.run(config, trainer(read), {}, steps=1)
    assert "seen True" in (tmp_path / "run" / "train.log").read_text()
    written = OmegaConf.load(tmp_path / "run" / "recipe.yaml")
    assert OmegaConf.select(written, key) == "***" and OmegaConf.select(config, key) == "12ab"
    assert written.trainer == config.trainer and "12ab" not in (tmp_path / "run" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit(7)", "exit code 7"),
        ("raise ValueError('first') from KeyError('cause')", "ValueError: first"),
        (
            "print('[rank0]: ValueError: the cause'); raise type('ChildFailedError', (Exception,), {})()",
            "ValueError: the cause",
        ),
        (
            r"print('x.ActorDiedError: It died.\n\tclass_name: S\n\tname: vllm_server_0_0\n'); raise SystemExit(1)",
            "vllm_server_0_0 has died",
        ),
        (  # the trainer may notice the answers before it notices the server
            "for line in ('x.ActorDiedError: It died.', '\\tclass_name: S', '\\tname: vllm_server_0_0'): "
            "print('\\x1b[36m(GroupWorker pid=7)\\x1b[0m', line)\n"
            "raise RuntimeError('step 3: 16 of 16 answers are missing')",
            "vllm_server_0_0 has died",
        ),
        ("print('(Task pid=7) Fatal' 'Error: server has died'); raise ValueError('of the driver')", "server has died"),
    ],
)
def test_a_failed_run_exits_with_1_and_says_why_and_where(config, trainer, capsys, tmp_path, code, reason):
    with pytest.raises(SystemExit) as stopped:
        launch.run(config, trainer(code), {}, steps=1)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == f"error: training stopped with {reason}; see {tmp_path}/run/train.log\n"


def test_an_earlier_failure_is_not_the_reason(config, trainer, capsys):
    for code in ("raise ValueError('of the first start')", "raise SystemExit(7)"):
        with pytest.raises(SystemExit):
            launch.run(config, trainer(code), {}, steps=1)
    assert "ValueError: of the first start" in (errors := capsys.readouterr().err.splitlines())[0]
    assert "exit code 7" in errors[1]


def test_a_run_without_steps_is_stopped_in_time(config, trainer, capsys):
    config.trainer.step_timeout_s = 1
    with pytest.raises(SystemExit):
        launch.run(config, trainer("import time; time.sleep(3600)"), {}, steps=1)
    assert "training stopped with no step in 1 s (trainer.step_timeout_s)" in capsys.readouterr().err


def test_temporary_files_of_a_run_lie_in_a_short_folder_that_goes_with_it(config, trainer, tmp_path, monkeypatch):
    (tmp_path / ("long" * 20)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 20)))
    launch.run(config, trainer("import os; print('folder', os.environ['TMPDIR'])"), {}, steps=1)
    folder = (tmp_path / "run" / "train.log").read_text().split("folder ")[1].strip()
    assert len(folder) < 20
    assert not Path(folder).exists()


def test_a_cut_off_line_of_metrics_is_left_out(tmp_path):
    (tmp_path / "metrics-000.jsonl").write_text('{"step":1,"data":{"loss":3}}\n{"step":2,"da')
    assert read_metrics(tmp_path) == {1: {"loss": 3}}


def test_steps_that_a_resumed_run_makes_again_count_once_they_are_made(tmp_path):
    def write(number: int, *steps: tuple[int, dict]) -> None:
        rows = [json.dumps({"step": step, "data": data}) + "\n" for step, data in steps]
        (tmp_path / f"metrics-{number:03d}.jsonl").write_text("".join(rows))

    write(0, *((step, {"loss": step}) for step in (1, 2, 3, 4)))
    write(1)  # resumed at 2, and killed before a step
    write(2, (0, {"val": 0.1}))  # a validation of where it began
    write(3, (2, {"val": 0.5}))
    assert list(read_metrics(tmp_path)) == [1, 2, 3, 4, 0]
    assert read_metrics(tmp_path)[2] == {"loss": 2, "val": 0.5}
    write(4, (3, {"loss": 30}))
    assert read_metrics(tmp_path)[3] == {"loss": 30} and 4 not in read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("mode", "saved", "counts"), [("auto", True, True), ("auto", False, False), ("disable", True, False)]
)
def test_metrics_of_a_run_that_is_not_continued_do_not_count(config, trainer, tmp_path, mode, saved, counts):
    folder = tmp_path / "run"
    folder.mkdir()
    config.trainer.resume_mode = mode
    if saved:
        (folder / LATEST).write_text("2")
    (folder / "metrics-000.jsonl").write_text('{"step":2,"data":{"loss":3}}\n')
    launch.run(config, trainer("import os; open(os.environ['VERL_FILE_LOGGER_PATH'], 'x')"), {}, steps=1)
    assert read_metrics(folder) == ({2: {"loss": 3}} if counts else {})
    kept = sorted(path.name for path in folder.glob("*.jsonl"))
    assert kept == [f"{'' if counts else 'earlier-'}metrics-000.jsonl", "metrics-001.jsonl"]


def test_metrics_of_the_first_node_are_left_to_it(config, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics-000.jsonl").touch()
    monkeypatch.setenv("PET_NODE_RANK", "1")
    set_earlier_run_aside(config)
    assert (tmp_path / "run" / "metrics-000.jsonl").exists()


@pytest.mark.parametrize("val_only", [False, True])
def test_a_run_that_is_begun_anew_is_never_gone_on_with(config, trainer, tmp_path, val_only):
    """Its recipe and metrics are another's by then. A validation alone begins nothing."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LATEST).write_text("40")
    (folder / "metrics-000.jsonl").write_text('{"step":20,"data":{"loss":3}}\n')
    config.trainer.update(resume_mode="disable", val_only=val_only)
    launch.run(config, trainer(""), {}, steps=1)
    assert (folder / LATEST).exists() is val_only
    assert (read_metrics(folder) != {}) is val_only
    assert sorted(path.name for path in folder.glob("earlier-*")) == (
        [] if val_only else [f"earlier-{LATEST}", "earlier-metrics-000.jsonl"]
    )


def test_verl_imports_the_platform_then_our_hooks_then_the_user_s_modules(monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "mine")
    assert launch.external_modules() == "qwen3vl_rl.verl_ext.register,mine"
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "qwen3vl_rl.verl_ext.cpu_platform")
    assert launch.external_modules() == "qwen3vl_rl.verl_ext.cpu_platform,qwen3vl_rl.verl_ext.register"


def test_a_cpu_run_keeps_the_user_s_modules(monkeypatch):
    monkeypatch.setattr(cpu, "VARIABLES", {})
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "mine")
    cpu.activate()
    cpu.activate()
    assert os.environ["VERL_USE_EXTERNAL_MODULES"] == "qwen3vl_rl.verl_ext.cpu_platform,mine"


def test_a_step_line_has_the_mean_of_several_sources(config, trainer, capsys):
    row = '{"step": 1, "data": {"val-core/a/acc/mean@1": 0.9, "val-core/b/acc/mean@1": 0.4}}'
    code = f"import os; open(os.environ['VERL_FILE_LOGGER_PATH'], 'w').write('{row}' + chr(10))"
    launch.run(config, trainer(code), {"validation": "val-core/*/acc/mean@*", "absent": "x"}, steps=1)
    assert "step 1 of 1  validation 0.65\n" in capsys.readouterr().out


SLOW_TO_END = """
import os, pathlib, signal, subprocess, time

def end(*_):
    time.sleep(1)
    os._exit(0)

signal.signal(signal.SIGTERM, end)
daemon = subprocess.Popen(["sleep", "3600"], start_new_session=True)
pathlib.Path("pids.part").write_text(f"{os.getpid()} {daemon.pid}")
os.replace("pids.part", "pids")
time.sleep(3600)
"""


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_ends_its_trainer_and_what_that_started_however_often_it_is_asked(trainer, tmp_path, number):
    command = trainer(SLOW_TO_END)
    code = (
        "from omegaconf import OmegaConf; from qwen3vl_rl.training import launch\n"
        "trainer = {'device': 'cuda', 'resume_mode': 'auto', 'default_local_dir': 'run'}\n"
        f"launch.run(OmegaConf.create({{'trainer': trainer}}), {command}, {{}}, steps=1)"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths})
    while not (tmp_path / "pids").exists():
        assert run.poll() is None
        time.sleep(0.1)
    for _ in range(3):
        run.send_signal(number)
        time.sleep(0.2)
    assert run.wait() == 128 + number
    assert not any(is_alive(pid) for pid in (tmp_path / "pids").read_text().split())


def test_a_folder_has_one_run_at_a_time(config, trainer, tmp_path):
    with alone_in(tmp_path / "run"), pytest.raises(InputError, match="expected no other run to be writing to it"):
        launch.run(config, trainer("pass"), {}, steps=1)


def test_ray_gets_a_python_whose_path_means_something_to_a_shell_in_quotes(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(sys, "executable", "/home/me/venv/bin/python")
    assert launch.quoted_python() == {}
    monkeypatch.setattr(sys, "executable", "/home/me (a=b)/bin/python")
    assert launch.quoted_python() == {"py_executable": "'/home/me (a=b)/bin/python'"}
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert launch.quoted_python() == {}
