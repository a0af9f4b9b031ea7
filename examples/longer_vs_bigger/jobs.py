"""What `run.py` runs: commands of the project, and which of them need which.

Every training and evaluation is a stage that anyone runs by hand, and resumes like one.
"""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

STARTER = Path(__file__).parents[1] / "starter" / "checkpoint"  # whose vision tower all rungs begin with
FIRST = 0  # the seed whose samples all are measured on, and of what is varied
# Of an engine. One that finds its own size measures the GPU, and takes what others use meanwhile for its own.
CACHE_BYTES, GPU_SHARE = 1_500_000_000, 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """`commands` run one after the other. `share`: the part of a GPU that they take, 0 for none. A `last` one waits
    until all others are done, or have failed for good."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    share: float = 0.0
    last: bool = False


class Experiment:
    """All jobs of a config, their files below `out`."""

    def __init__(self, config: DictConfig, out: Path, hardware: str):
        self.config, self.out, self.hardware = config, out, hardware
        self.share = self.gpu_share("other")
        self.server = [] if hardware == "cpu" else [
            "--dtype", "bfloat16", "--gpu-memory-utilization", GPU_SHARE, "--kv-cache-memory-bytes", CACHE_BYTES,
        ]  # fmt: skip

    def jobs(self) -> list[Job]:
        """In the order in which they begin where several could."""
        return [
            *self.data(), *self.bases(), *self.longer(), *self.ablations(), *self.direct(), *self.evaluations(),
            *self.latencies(),
        ]  # fmt: skip

    def gpu_share(self, name: str) -> float:
        """What a job takes of a GPU; two cores hold one job."""
        return 1.0 if self.hardware == "cpu" else self.config.gpu_share[name]

    def data(self) -> Iterator[Job]:
        """Of each seed, other samples to train on; seed 0 has the ones that all are measured on."""
        samples, world = self.config.samples, ["--world", self.config.world]
        yield Job("processor", (python("examples.starter.build", "--out", self.out / "processor"),))
        for seed in self.config.seeds:
            folder = self.out / "data" / str(seed)
            drawn = ["--train", samples.sft + samples.rl, "--seed", seed, *world]
            asked = ["--val", samples.eval if seed == FIRST else 1]
            refshapes = "qwen3vl_rl.data.refshapes"
            yield Job(f"data-{seed}", (python(refshapes, "--out", folder, *drawn, *asked),))
            mixed = ["--out", folder / "mixed", "--val", 1, "--brief", self.config.brief]  # other traces of the same
            yield Job(f"mixed-traces-{seed}", (python(refshapes, *mixed, *drawn),))
            for name, rows in self.parquets(folder).items():
                needs = (f"mixed-traces-{seed}",) if name == "mixed" else ()
                yield Job(f"{name}-data-{seed}", (rows,), (f"data-{seed}", "processor", *needs))
        yield Job("oracle", (python("examples.longer_vs_bigger.oracle", "--data", self.out / "data" / str(FIRST),
                                    "--val", samples.eval, *world),), (f"data-{FIRST}",))  # fmt: skip

    def parquets(self, folder: Path) -> dict[str, tuple[str, ...]]:
        """Commands by what their rows are for: reasoning by thorough traces and by mixed ones, direct answers, RL and
        its validation."""
        samples = ["--samples", folder / "refshapes_train.jsonl", "--images", folder / "images"]
        taught = ["sft.build_dataset", *samples, "--rows", f":{self.config.samples.sft}",
                  "--processor", self.out / "processor"]  # fmt: skip
        asked = ["--samples", folder / "eval" / "refshapes_val.jsonl", "--images", folder / "images"]
        traces, rest = folder / "refshapes_train_traces.jsonl", f"{self.config.samples.sft}:"
        rl = "qwen3vl_rl.data.tools.rl_parquet"
        return {
            "sft": python(*taught, "--traces", traces, "--out", folder / "sft.parquet"),
            "mixed": python(*taught, "--traces", folder / "mixed" / traces.name, "--out", folder / "mixed.parquet"),
            "direct": python(*taught, "--reasoning", "none", "--out", folder / "direct.parquet"),
            "rl": python(rl, *samples, "--rows", rest, "--split", "train", "--out", folder / "rl.parquet"),
            "val": python(rl, *asked, "--split", "test", "--out", folder / "rl_val.parquet"),
        }

    def bases(self) -> Iterator[Job]:
        """The ladder: each rung learns to see and to speak of what it sees. The largest takes longest and begins."""
        for rung, shape in reversed(self.config.ladder.items()):
            changes = {f"text_config.{name}": value for name, value in shape.items()}
            changes["vision_config.out_hidden_size"] = shape.hidden_size
            options = flat(("--set", f"{name}={json.dumps(value)}") for name, value in changes.items())
            command = python(
                "examples.starter.train", "--out", self.base(rung), "--vision", STARTER, "--world", self.config.world,
                "--parts", self.config.parts[rung], *options, *self.config.pretrain,
            )  # fmt: skip
            yield Job(f"base-{rung}", (command,), share=self.gpu_share(rung))

    def longer(self) -> Iterator[Job]:
        """Small rungs learn to reason, by SFT and then GRPO: from thorough traces, and from traces of two kinds."""
        for rung, seed in itertools.product(self.config.longer, self.config.seeds):
            for taught, improved in (("sft", "rl"), ("mixed", "mixed_rl")):
                yield self.sft(f"{taught}-{rung}-{seed}", rung, seed, taught)
                yield self.rl(f"{improved}-{rung}-{seed}", f"{taught}-{rung}-{seed}", seed)

    def direct(self) -> Iterator[Job]:
        """All rungs learn to answer directly, by SFT on the same samples."""
        for rung, seed in itertools.product(self.config.ladder, self.config.seeds):
            yield self.sft(f"direct-{rung}-{seed}", rung, seed, "direct")

    def ablations(self) -> Iterator[Job]:
        """Other rewards than that of `rl`, and RL of a model that answers directly."""
        rung = self.config.ablated
        for reward in self.config.rewards:
            yield self.rl(f"rl-{rung}-{reward}", f"sft-{rung}-{FIRST}", FIRST, f"reward={reward}")
        yield self.rl(f"rl-{rung}-from-direct", f"direct-{rung}-{FIRST}", FIRST)

    def evaluations(self) -> Iterator[Job]:
        for rung in self.config.ladder:
            seeds = itertools.product(self.trainings(rung), self.config.seeds)
            models = {f"{training}-{seed}": f"{training}-{rung}-{seed}" for training, seed in seeds}
            yield self.evaluation(rung, {"base": f"base-{rung}"} | models)
        for rung in self.config.ladder:  # what of the errors is language: the same images and boxes in two wordings
            models = {training: job for training, job in self.first(rung).items() if training in ("direct", "rl")}
            yield self.evaluation(rung, models, folder=f"oracle-{rung}", questions="oracle", needs="oracle")
        rung = self.config.ablated
        models = {f"rl-{name}": f"rl-{rung}-{name}" for name in (*self.config.rewards, "from-direct")}
        yield self.evaluation(rung, models, folder="ablations")
        best = f"rl-{rung}-{FIRST}"
        budgets = python(
            "qwen3vl_rl.evaluation.scaling", "run", *self.asked("eval"), "--out", self.out / "budgets",
            "--budget", *self.config.budgets, "--model", f"{best}={self.checkpoint(best)}", "--", *self.server,
        )  # fmt: skip
        yield Job("budgets", (budgets,), (best, f"data-{FIRST}"), share=self.share)

    def latencies(self) -> Iterator[Job]:
        """Of one seed, at the end and each on a GPU of its own: beside other jobs a request waits for them."""
        for rung in self.config.ladder:
            models = {f"{training}-{FIRST}": job for training, job in self.first(rung).items()}
            limits = flat((f"--{name}", value) for name, value in self.config.latency.items())
            job = self.evaluation(rung, models, folder=f"latency-{rung}", limits=limits)
            yield replace(job, share=1.0, last=True)

    def trainings(self, rung: str) -> tuple[str, ...]:
        return ("direct", "sft", "rl", "mixed", "mixed_rl") if rung in self.config.longer else ("direct",)

    def first(self, rung: str) -> dict[str, str]:
        """training -> its job of the first seed."""
        return {training: f"{training}-{rung}-{FIRST}" for training in self.trainings(rung)}

    # --- one job ----------------------------------------------------------------------------------------------------

    def sft(self, name: str, rung: str, seed: int, data: str) -> Job:
        train = python(
            "sft.train", f"hardware={self.hardware}", "size=tiny", f"model.path={self.base(rung)}",
            f"data.train_files={self.out / 'data' / str(seed) / f'{data}.parquet'}",
            f"trainer.default_local_dir={self.out / 'runs' / name}", *self.config.sft,
        )  # fmt: skip
        needs = (f"base-{rung}", f"{data}-data-{seed}")
        share = max(self.share, self.gpu_share(rung) / 2)  # half as many samples at once as its base took
        return Job(name, (train, self.export(name)), needs, share=share)

    def rl(self, name: str, start: str, seed: int, *changes: str) -> Job:
        data = self.out / "data" / str(seed)
        memory = [] if self.hardware == "cpu" else [
            f"actor_rollout_ref.rollout.gpu_memory_utilization={GPU_SHARE}",
            f"+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes={CACHE_BYTES}",
        ]  # fmt: skip
        train = python(
            "qwen3vl_rl.train", f"hardware={self.hardware}", "engine=vllm", "size=tiny",
            f"actor_rollout_ref.model.path={self.checkpoint(start)}", f"data.train_files={data / 'rl.parquet'}",
            f"data.val_files={data / 'rl_val.parquet'}", f"data.seed={seed}", f"actor_rollout_ref.rollout.seed={seed}",
            f"trainer.default_local_dir={self.out / 'runs' / name}", *memory, *self.config.rl, *changes,
        )  # fmt: skip
        needs = (start, f"rl-data-{seed}", f"val-data-{seed}")
        return Job(name, (train, self.export(name)), needs, share=self.share)

    def export(self, name: str) -> tuple[str, ...]:
        return python("qwen3vl_rl.export", self.out / "runs" / name, self.out / "checkpoints" / name)

    def evaluation(
        self, rung: str, models: dict[str, str], *, folder: str | None = None, questions: str = "eval",
        needs: str = f"data-{FIRST}", limits: Sequence = ("--latency-samples", 0),
    ) -> Job:  # fmt: skip
        """All models of one shape, by one server; `models`: name -> job that makes it."""
        folder = folder or rung
        named = flat(("--model", f"{name}={self.checkpoint(job)}") for name, job in models.items())
        out = self.out / "eval" / folder
        command = python("qwen3vl_rl.evaluation", *self.asked(questions), *limits, "--out", out, *named, "--",
                         *self.server)  # fmt: skip
        return Job(f"eval-{folder}", (command,), (*models.values(), needs), share=self.share)

    def asked(self, questions: str) -> list:
        data = self.out / "data" / str(FIRST)
        return ["--data", data / questions, "--images", data / "images", "--max-tokens", self.config.max_tokens]

    def base(self, rung: str) -> Path:
        return self.checkpoint(f"base-{rung}")

    def checkpoint(self, job: str) -> Path:
        return self.out / "checkpoints" / job


def flat(pairs: Iterable[tuple]) -> list:
    return [x for pair in pairs for x in pair]


def python(module: str, *arguments) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *map(str, arguments))
