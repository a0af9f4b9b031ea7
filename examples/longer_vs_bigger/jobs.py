"""The jobs of `run.py`: commands of this project, and which jobs they need.

Every training and evaluation is a command that can be run by hand and resumed.
"""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

STARTER = Path(__file__).parents[1] / "starter" / "checkpoint"  # all rungs start from its vision tower
VARIED = ("rl_ours", "sft_amodal", "rl_amodal")  # trainings of the ablated rung only, with all seeds
FIRST = 0  # the seed of the test samples and of the ablations
# Of an engine. Without these, an engine measures the free memory, and counts what other jobs allocate as its own use.
CACHE_BYTES, GPU_SHARE = 1_500_000_000, 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """`commands` run one after the other. `share` is the part of a GPU that they take, 0 for none."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    share: float = 0.0


class Experiment:
    """All jobs of a config, with their files in `out`."""

    def __init__(self, config: DictConfig, out: Path, hardware: str):
        self.config, self.out, self.hardware = config, out, hardware
        self.share = self.gpu_share("other")
        self.server = [] if hardware == "cpu" else [
            "--dtype", "bfloat16", "--gpu-memory-utilization", GPU_SHARE, "--kv-cache-memory-bytes", CACHE_BYTES,
        ]  # fmt: skip

    def jobs(self) -> list[Job]:
        """All jobs. Among jobs that are ready, earlier ones start first."""
        return [
            *self.data(), *self.bases(), *self.longer(), *self.ablations(), *self.direct(), *self.studies(),
            *self.evaluations(),
        ]  # fmt: skip

    def gpu_share(self, name: str) -> float:
        """The part of a GPU that a job takes. On a CPU, jobs run one at a time."""
        return 1.0 if self.hardware == "cpu" else self.config.gpu_share[name]

    def data(self) -> Iterator[Job]:
        """Training samples of each seed. All models are tested on the samples of seed 0."""
        samples, world = self.config.samples, self.config.world
        yield Job("processor", (python("examples.starter.build", "--out", self.out / "processor"),))
        for seed in self.config.seeds:
            folder = self.out / "data" / str(seed)
            drawn = ["--train", samples.sft + samples.rl, "--seed", seed, "--world", world]
            asked = samples.eval if seed == FIRST else 1
            yield Job(f"data-{seed}", (refshapes(folder, *drawn, "--val", asked, "--brief", self.config.brief),))
            for name, options in self.other_traces().items():  # for the same samples
                yield Job(f"{name}-traces-{seed}", (refshapes(folder / name, *drawn, "--val", 1, *options),))
            for name, rows in self.parquets(folder).items():
                needs = (f"{name}-traces-{seed}",) if name in self.other_traces() else ()
                yield Job(f"{name}-data-{seed}", (rows,), (f"data-{seed}", "processor", *needs))
        yield Job("oracle", (python("examples.longer_vs_bigger.oracle", "--data", self.out / "data" / str(FIRST),
                                    "--val", samples.eval, "--world", world),), (f"data-{FIRST}",))  # fmt: skip

    def other_traces(self) -> dict[str, tuple]:
        """Options for traces that differ from the default, by training: all thorough, or none for amodal samples."""
        return {"sft_thorough": (), "sft_amodal": ("--brief", self.config.brief, "--no-amodal-traces")}

    def parquets(self, folder: Path) -> dict[str, tuple[str, ...]]:
        """Commands that write parquet files, by the name of the file."""
        samples, images = folder / "refshapes_train.jsonl", folder / "images"
        taught, rest = f":{self.config.samples.sft}", f"{self.config.samples.sft}:"
        traces = "refshapes_train_traces.jsonl"
        return {
            "sft": self.sft_rows(folder, "--traces", folder / traces, "--rows", taught, name="sft"),
            **{
                name: self.sft_rows(
                    folder, "--traces", folder / name / traces, "--untraced", "direct", "--rows", taught, name=name
                )
                for name in self.other_traces()
            },
            "direct": self.sft_rows(folder, "--reasoning", "none", "--rows", taught, name="direct"),
            "rl": rl_rows(samples, images, "--rows", rest, "--split", "train", "--out", folder / "rl.parquet"),
            "val": rl_rows(
                folder / "eval" / "refshapes_val.jsonl", images, "--split", "test", "--out", folder / "rl_val.parquet"
            ),
        }

    def sft_rows(self, folder: Path, *options, name: str) -> tuple[str, ...]:
        """The command that writes the samples in `folder` to NAME.parquet there."""
        return python(
            "sft.build_dataset", "--samples", folder / "refshapes_train.jsonl", "--images", folder / "images",
            "--processor", self.out / "processor", *options, "--out", folder / f"{name}.parquet",
        )  # fmt: skip

    def bases(self) -> Iterator[Job]:
        """The ladder: pretraining of each rung. The largest takes longest and comes first."""
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
        """Small rungs learn to reason: SFT on traces of both kinds, then GRPO; and SFT on thorough traces only."""
        for rung, seed in itertools.product(self.config.longer, self.config.seeds):
            yield self.sft(f"sft-{rung}-{seed}", rung, seed, "sft")
            yield self.rl(f"rl-{rung}-{seed}", f"sft-{rung}-{seed}", seed)
            yield self.sft(f"sft_thorough-{rung}-{seed}", rung, seed, "sft_thorough")

    def direct(self) -> Iterator[Job]:
        """All rungs learn to answer directly by SFT on the same samples."""
        for rung, seed in itertools.product(self.config.ladder, self.config.seeds):
            yield self.sft(f"direct-{rung}-{seed}", rung, seed, "direct")

    def ablations(self) -> Iterator[Job]:
        """RL with other settings than the recipe's, with other rewards, from a model that answers amodal questions
        directly, and from one that answers all questions directly."""
        rung = self.config.ablated
        for seed in self.config.seeds:
            yield self.rl(f"rl_ours-{rung}-{seed}", f"sft-{rung}-{seed}", seed, *self.config.ours)
            yield self.sft(f"sft_amodal-{rung}-{seed}", rung, seed, "sft_amodal")
            yield self.rl(f"rl_amodal-{rung}-{seed}", f"sft_amodal-{rung}-{seed}", seed)
        for changes in self.config.rewards:
            yield self.rl(f"rl-{rung}-{named(changes)}", f"sft-{rung}-{FIRST}", FIRST, *changes)
        yield self.rl(f"rl-{rung}-from-direct", f"direct-{rung}-{FIRST}", FIRST)

    def studies(self) -> Iterator[Job]:
        """SFT and RL of the starter with several shares of thorough traces, learning rates and group sizes."""
        study = self.config.study
        for thorough, seed in itertools.product(study.thorough, self.config.seeds):
            yield from self.study_data(thorough, seed)
            data = self.study_folder(thorough, seed) / "sft.parquet"
            needs = (f"study_data-{thorough}-{seed}",)
            yield self.trained_sft(f"study_sft-{thorough}-{seed}", STARTER, data, needs, *study.sft)
            yield self.study_rl(f"study_rl-{thorough}-{seed}", thorough, seed)
            if thorough == study.varied:
                for name, changes in {**study.changes, **self.compared()}.items():
                    yield self.study_rl(f"study_rl-{thorough}_{name}-{seed}", thorough, seed, *changes)

    def compared(self) -> dict[str, Sequence[str]]:
        """Changes to `rl`, by name, for the runs that are compared with the recipe's."""
        study, four = self.config.study, self.config.study.four_updates
        rates = {
            f"{method}_4_{rate}": [*changes, *four.all, f"actor_rollout_ref.actor.optim.lr={rate}"]
            for (method, changes), rate in itertools.product(four.methods.items(), four.rates)
        }
        return {**study.one_update, **rates}

    def study_data(self, thorough: int, seed: int) -> Iterator[Job]:
        """Samples for SFT, with `thorough` percent of thorough traces, and for RL."""
        folder, samples = self.study_folder(thorough, seed), self.config.study.samples
        drawn = ["--train", samples.sft + samples.rl, "--val", 1, "--brief", 1 - thorough / 100]
        rows, images = folder / "refshapes_train.jsonl", folder / "images"
        commands = (
            # Other seeds than the ladder's, because all models are tested on the samples of its seed 0.
            refshapes(folder, *drawn, "--seed", 100 + seed, "--world", self.config.world),
            self.sft_rows(
                folder, "--traces", folder / "refshapes_train_traces.jsonl", "--rows", f":{samples.sft}", name="sft"
            ),
            rl_rows(rows, images, "--rows", f"{samples.sft}:", "--split", "train", "--out", folder / "rl.parquet"),
        )
        yield Job(f"study_data-{thorough}-{seed}", commands, ("processor",))

    def study_folder(self, thorough: int, seed: int) -> Path:
        return self.out / "study" / f"{thorough}-{seed}"

    def study_rl(self, name: str, thorough: int, seed: int, *changes: str) -> Job:
        start, folder = f"study_sft-{thorough}-{seed}", self.study_folder(thorough, seed)
        needs = (start, f"study_data-{thorough}-{seed}", f"val-data-{FIRST}")
        return self.trained_rl(name, start, folder / "rl.parquet", seed, needs, *changes)

    def evaluations(self) -> Iterator[Job]:
        for rung in self.config.ladder:
            varied = VARIED if rung == self.config.ablated else ()
            seeds = itertools.product((*self.trainings(rung), *varied), self.config.seeds)
            models = {f"{training}-{seed}": f"{training}-{rung}-{seed}" for training, seed in seeds}
            yield self.evaluation(rung, {"base": f"base-{rung}"} | models)
        for rung in self.config.ladder:  # which errors are language errors: the same boxes in two wordings
            models = {training: job for training, job in self.first(rung).items() if training in ("direct", "rl")}
            yield self.evaluation(rung, models, folder=f"oracle-{rung}", questions="oracle", needs="oracle")
        rung = self.config.ablated
        models = {f"rl-{name}": f"rl-{rung}-{name}" for name in (*map(named, self.config.rewards), "from-direct")}
        yield self.evaluation(rung, models, folder="ablations")
        for seed in self.config.seeds:
            names = [job.name for job in self.studies() if job.name.endswith(f"-{seed}") and job.share]
            compared = {f"study_rl-{self.config.study.varied}_{name}-{seed}" for name in self.compared()}
            for folder, is_compared in (("study", False), ("compared", True)):
                chosen = {name: name for name in names if (name in compared) == is_compared}
                yield self.evaluation("starter", chosen, folder=f"{folder}-{seed}")
        best = f"rl-{rung}-{FIRST}"
        budgets = python(
            "qwen3vl_rl.evaluation.scaling", "run", *self.asked("eval"), "--out", self.out / "budgets",
            "--budget", *self.config.budgets, "--model", f"{best}={self.checkpoint(best)}", "--", *self.server,
        )  # fmt: skip
        yield Job("budgets", (budgets,), (best, f"data-{FIRST}"), share=self.share)

    def trainings(self, rung: str) -> tuple[str, ...]:
        return ("direct", "sft", "rl", "sft_thorough") if rung in self.config.longer else ("direct",)

    def first(self, rung: str) -> dict[str, str]:
        """Maps each training to its job of the first seed."""
        return {training: f"{training}-{rung}-{FIRST}" for training in self.trainings(rung)}

    # --- one job ----------------------------------------------------------------------------------------------------

    def sft(self, name: str, rung: str, seed: int, data: str) -> Job:
        folder, needs = self.out / "data" / str(seed), (f"base-{rung}", f"{data}-data-{seed}")
        job = self.trained_sft(name, self.base(rung), folder / f"{data}.parquet", needs, *self.config.sft)
        return replace(job, share=max(self.share, self.gpu_share(rung) / 2))  # half the batch of its base

    def trained_sft(self, name: str, model: Path, data: Path, needs: tuple[str, ...], *changes: str) -> Job:
        train = python(
            "sft.train", f"hardware={self.hardware}", "size=tiny", f"model.path={model}", f"data.train_files={data}",
            f"trainer.default_local_dir={self.out / 'runs' / name}", *changes,
        )  # fmt: skip
        return Job(name, (train, self.export(name)), needs, share=self.share)

    def rl(self, name: str, start: str, seed: int, *changes: str) -> Job:
        needs = (start, f"rl-data-{seed}", f"val-data-{FIRST}")
        return self.trained_rl(name, start, self.out / "data" / str(seed) / "rl.parquet", seed, needs, *changes)

    def trained_rl(self, name: str, start: str, data: Path, seed: int, needs: tuple[str, ...], *changes: str) -> Job:
        memory = [] if self.hardware == "cpu" else [
            f"actor_rollout_ref.rollout.gpu_memory_utilization={GPU_SHARE}",
            f"+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes={CACHE_BYTES}",
        ]  # fmt: skip
        train = python(
            "qwen3vl_rl.train", f"hardware={self.hardware}", "engine=vllm", "size=tiny",
            f"actor_rollout_ref.model.path={self.checkpoint(start)}", f"data.train_files={data}",
            f"data.val_files={self.out / 'data' / str(FIRST) / 'rl_val.parquet'}", f"data.seed={seed}",
            f"actor_rollout_ref.rollout.seed={seed}", f"trainer.default_local_dir={self.out / 'runs' / name}", *memory,
            *self.config.rl, *changes,
        )  # fmt: skip
        return Job(name, (train, self.export(name)), needs, share=self.share)

    def export(self, name: str) -> tuple[str, ...]:
        return python("qwen3vl_rl.export", self.out / "runs" / name, self.out / "checkpoints" / name)

    def evaluation(
        self, rung: str, models: dict[str, str], *, folder: str | None = None, questions: str = "eval",
        needs: str = f"data-{FIRST}",
    ) -> Job:  # fmt: skip
        """Evaluate all models of one shape with one server. `models` maps names to the jobs that train them."""
        folder = folder or rung
        named = flat(("--model", f"{name}={self.checkpoint(job)}") for name, job in models.items())
        out = self.out / "eval" / folder
        command = python("qwen3vl_rl.evaluation", *self.asked(questions), "--latency-samples", 0, "--out", out, *named,
                         "--", *self.server)  # fmt: skip
        return Job(f"eval-{folder}", (command,), (*models.values(), needs), share=self.share)

    def asked(self, questions: str) -> list:
        data = self.out / "data" / str(FIRST)
        return ["--data", data / questions, "--images", data / "images", "--max-tokens", self.config.max_tokens]

    def base(self, rung: str) -> Path:
        return self.checkpoint(f"base-{rung}")

    def checkpoint(self, job: str) -> Path:
        return self.out / "checkpoints" / job


def named(changes: Iterable[str]) -> str:
    """`efficient_60` of [reward=efficient, reward.budget_tokens=60]."""
    return "_".join(change.partition("=")[2] for change in changes)


def flat(pairs: Iterable[tuple]) -> list:
    return [x for pair in pairs for x in pair]


def refshapes(out: Path, *options) -> tuple[str, ...]:
    return python("qwen3vl_rl.data.refshapes", "--out", out, *options)


def rl_rows(samples: Path, images: Path, *options) -> tuple[str, ...]:
    return python("qwen3vl_rl.data.tools.rl_parquet", "--samples", samples, "--images", images, *options)


def python(module: str, *arguments) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *map(str, arguments))
