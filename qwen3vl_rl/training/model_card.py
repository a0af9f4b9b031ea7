"""The model card of an exported checkpoint: README.md of its Hugging Face folder, from what its run recorded.

The card says "not recorded" of everything else, and shows only the last part of local paths. The recipe and the
overrides are those of the run's last start.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType

import yaml
from omegaconf import OmegaConf

from qwen3vl_rl.grounding import AMODAL_PROMPTS, PROMPTS, answer_text
from qwen3vl_rl.models.families import read_family
from qwen3vl_rl.models.families.interface import Family
from qwen3vl_rl.models.safetensors_header import read_tensor_shapes
from qwen3vl_rl.training.preflight.rows import file_paths
from qwen3vl_rl.training.provenance import CARD, OTHER_PROMPT, TRAIN_FILES, Base, Origin, Rows
from qwen3vl_rl.training.run_folder import hash_key, recorded
from qwen3vl_rl.training.starts import Start, without_folders

NOT_RECORDED = "not recorded"
PARSER = "reward.custom_reward_function.reward_kwargs.parser"
PAPER = "https://arxiv.org/abs/2601.13633"
HUB = "https://huggingface.co"
USUAL_PROMPTS = ("qwen3", "qwen3_amodal")  # of `Sample.prompt_name` and of `qwen3vl_rl.locate`
WHOLE = "(for the whole object if a part of it is hidden)"
EXAMPLE, EXAMPLE_BOX_1000 = "the red cup", (120, 410, 285, 760)

# Of each stage, the lines of the card: a title, then the form of the value, then the keys of the recipe in it.
SETTINGS: Mapping[int, Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        1: {
            "learning rate": ("{} at its peak, schedule {}", "optim.lr", "optim.lr_scheduler_type"),
            "samples per step": ("{}", "data.train_batch_size"),
            "epochs, at most": ("{}", "trainer.total_epochs"),
            "longest sample": ("{} tokens", "data.max_length"),
            "pixels of an image": ("{} to {}", "pixels.sft.min_pixels", "pixels.sft.max_pixels"),
            "text with loss": ("{}", "data.loss_span"),
            "weight decay": ("{}", "optim.weight_decay"),
            "vision encoder frozen": ("{}", "engine.freeze_vision"),
            "rank of LoRA adapters (0: none)": ("{}", "model.lora_rank"),
            "seed": ("{}", "trainer.seed"),
        },
        2: {
            "algorithm": (
                "advantages {}, loss {}, aggregation {}",
                "algorithm.adv_estimator",
                "actor_rollout_ref.actor.policy_loss.loss_mode",
                "actor_rollout_ref.actor.loss_agg_mode",
            ),
            "learning rate": (
                "{} at its peak, schedule {}",
                "actor_rollout_ref.actor.optim.lr",
                "actor_rollout_ref.actor.optim.lr_scheduler_type",
            ),
            "prompts x answers per step": ("{} x {}", "data.train_batch_size", "actor_rollout_ref.rollout.n"),
            "prompts per update": ("{}", "actor_rollout_ref.actor.ppo_mini_batch_size"),
            "epochs, at most": ("{}", "trainer.total_epochs"),
            "reward": (
                "{} (alpha {}, IoU threshold {})",
                "reward.custom_reward_function.reward_kwargs.reward_type",
                "reward.custom_reward_function.reward_kwargs.alpha",
                "reward.custom_reward_function.reward_kwargs.threshold",
            ),
            "parser of the reward": ("{}", PARSER),
            "KL term in the loss": (
                "{} (weight {}, estimator {})",
                "actor_rollout_ref.actor.use_kl_loss",
                "actor_rollout_ref.actor.kl_loss_coef",
                "actor_rollout_ref.actor.kl_loss_type",
            ),
            "weight of the entropy bonus": ("{}", "actor_rollout_ref.actor.entropy_coeff"),
            "prompts with equal answers replaced": ("{}", "algorithm.filter_groups.enable"),
            "sampling of answers": (
                "temperature {}, top-p {}, top-k {}",
                "actor_rollout_ref.rollout.temperature",
                "actor_rollout_ref.rollout.top_p",
                "actor_rollout_ref.rollout.top_k",
            ),
            "longest answer": ("{} tokens", "data.max_response_length"),
            "rollout engine": ("{}", "actor_rollout_ref.rollout.name"),
            "vision encoder frozen": ("{}", "actor_rollout_ref.actor.fsdp_config.freeze_vision"),
            "rank of LoRA adapters (0: none)": ("{}", "actor_rollout_ref.model.lora_rank"),
            "seed of the sample order": ("{}", "data.seed"),
        },
    }
)


def write_card(folder: Path, checkpoint: Path, name: str, scores: str | None) -> None:
    """Write the card of the weights in `folder`. It replaces an earlier one.

    checkpoint: the folder with verl's shards from which the weights come.
    name: of the model.
    scores: the results of an evaluation in Markdown; None without an evaluation.
    """
    origin = Origin.read(checkpoint)
    base, rows = Base.read(origin), origin.rows
    sections = {
        "Base model": _base(base),
        "Training data": _data(origin, rows),
        "Recipe": _recipe(origin, folder),
        "Scores": scores or "The export was given no evaluation.",
        "Prompt": _prompts(rows),
        "Answers": _answers(origin),
        "Use": _use(name),
        "Licence": _licence(base),
    }
    head = _head(name, origin, base, read_family(folder))
    text = "\n\n".join([head, *(f"## {title}\n\n{body}" for title, body in sections.items())])
    (folder / CARD).write_text(f"{text}\n", encoding="utf-8")


def _head(name: str, origin: Origin, base: Base, family: Family) -> str:
    """The metadata for the Hugging Face Hub, the title, and one sentence on what the model is."""
    stage = origin.stage
    unknown = {"license": "other", "license_name": "that-of-the-base-model"}
    metadata = {
        **({"license": base.licence} if base.licence else unknown),
        **({"base_model": base.hub} if base.hub else {}),
        "pipeline_tag": "image-text-to-text",
        "library_name": "transformers",
        "tags": [
            family.model_type.replace("_", "-"),
            "visual-grounding",
            "referring-expression-comprehension",
            *([stage.tag] if stage else []),
        ],
    }
    trained = f"by {stage.title}, stage {stage.number} of EGM" if stage else "with EGM"
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n# {name}\n\n"
        "This model locates what a referring expression describes: it reasons about the image, then answers with a "
        f"box. It was trained {trained} ([paper]({PAPER}))."
    )


def _base(base: Base) -> str:
    if base.name is None:
        return "The base model is not recorded."
    if base.hub is None:
        return f"`{base.name}`, a local checkpoint. Its name on the Hugging Face Hub is not recorded."
    link = f"[{base.hub}]({HUB}/{base.hub})"
    return link if base.hub == base.name else f"`{base.name}`, a local checkpoint that was trained from {link}."


def _data(origin: Origin, rows: Rows | None) -> str:
    if not OmegaConf.select(origin.recipe, TRAIN_FILES):
        return "The train files are not recorded."
    names = [f"`{path.name}`" for path in file_paths(origin.recipe, TRAIN_FILES)]
    counts = [f"{count:,}" for count in rows.by_file] if rows else [NOT_RECORDED] * len(names)
    digest = OmegaConf.select(origin.recipe, hash_key(TRAIN_FILES))
    most = OmegaConf.select(origin.recipe, "data.train_max_samples") or -1
    return "\n\n".join(
        [
            _table(("train file", "rows"), list(zip(names, counts, strict=True))),
            *([f"The run used at most {most:,} of the rows (`data.train_max_samples`)."] if most > 0 else []),
            f"SHA-256 of the files: {f'`{digest}`' if digest else NOT_RECORDED}.",
        ]
    )


def _recipe(origin: Origin, folder: Path) -> str:
    """The settings, the commits of the code and the overrides."""
    settings = _table(("setting", "value"), list(_settings(origin, folder)))
    return "\n\n".join([settings, _commits(origin.starts), _overrides(origin.starts)])


def _commits(starts: Sequence[Start]) -> str:
    found = list(dict.fromkeys(map(_commit, starts))) or [NOT_RECORDED]
    if len(found) == 1:
        return f"Commit of the code: {found[0]}."
    return f"Commits of the code, in the order of the run's starts: {'; '.join(found)}."


def _commit(start: Start) -> str:
    changed = ", with uncommitted changes" if start.dirty else ""
    return f"`{start.commit}`{changed}" if start.commit else NOT_RECORDED


def _overrides(starts: Sequence[Start]) -> str:
    """Those of the last start, as in the recipe."""
    given = [start.overrides for start in starts] or [None]
    title = "Overrides of the training command" + (", at its last start" if given != given[-1:] * len(given) else "")
    if not given[-1]:
        return f"{title}: {NOT_RECORDED if given[-1] is None else 'none'}."
    return "\n".join([f"{title}:", "", "```text", *map(without_folders, given[-1]), "```"])


def _settings(origin: Origin, folder: Path) -> Iterator[tuple[str, str]]:
    stage = origin.stage
    yield "stage", f"{stage.number}, {stage.title}" if stage else NOT_RECORDED
    yield "size", f"{_in_words(_parameters(folder))} parameters"
    yield "weights", _number_format(folder)
    step, total = (NOT_RECORDED if count is None else f"{count:,}" for count in (origin.step, origin.total_steps))
    yield "steps done", step if NOT_RECORDED == step == total else f"{step} of {total}"
    for title, (form, *keys) in SETTINGS[stage.number].items() if stage else ():
        values = [_value(origin, key) for key in keys]
        yield title, form.format(*values) if set(values) != {NOT_RECORDED} else NOT_RECORDED


def _value(origin: Origin, key: str) -> str:
    value = recorded(origin.recipe, key)
    if value is None:
        return NOT_RECORDED
    return str(value).lower() if isinstance(value, bool) else without_folders(str(value))


def _parameters(folder: Path) -> int:
    """The number of parameters in the safetensors files. Scales of quantized weights are none."""
    shapes = (read_tensor_shapes(path).items() for path in folder.glob("*.safetensors"))
    return sum(prod(shape) for tensors in shapes for name, shape in tensors if not name.endswith("_scale"))


def _number_format(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quantized = config.get("quantization_config")
    return f"quantized by {quantized.get('quant_method', 'an unnamed method')}" if quantized else config["dtype"]


def _in_words(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.2f} million"


def _prompts(rows: Rows | None) -> str:
    """The prompts of the training rows; if they are not recorded, those of our tools."""
    if rows is None:
        begin = "The prompts of the training rows are not recorded. EGM's tools ask as follows."
        titles = {name: f"`{name}`" for name in USUAL_PROMPTS}
    else:
        begin = "The training rows ask as follows."
        titles = {name: f"`{name}`, {count:,} rows" for name, count in rows.by_prompt.items() if name != OTHER_PROMPT}
    titles |= {name: f"{title} {WHOLE}" for name, title in titles.items() if name in AMODAL_PROMPTS}
    other = rows.by_prompt.get(OTHER_PROMPT) if rows else None
    return "\n\n".join(
        [
            f"{begin} `{{sent}}` stands for the expression. The image comes before the text.",
            *(f"{title}:\n\n```text\n{PROMPTS[name]}\n```" for name, title in titles.items()),
            *([f"{other:,} rows ask with a prompt that is not one of EGM's."] if other else []),
        ]
    )


def _answers(origin: Origin) -> str:
    parser = OmegaConf.select(origin.recipe, PARSER)
    read = f"The reward read boxes with the parser `{parser}`" if parser else "EGM reads boxes with the parser `strict`"
    return (
        f"The reasoning ends with `</think>`. The answer comes after it:\n\n"
        f"{answer_text(EXAMPLE_BOX_1000, EXAMPLE)}\n\n"
        "`bbox_2d` is the box as xyxy: left, top, right and bottom, each in 0..1000 of the image's width or height. "
        f"{read} (`qwen3vl_rl/grounding/parse.py`)."
    )


def _use(name: str) -> str:
    return (
        f"In a checkout of EGM, with this folder as `{name}`:\n\n"
        f"```bash\nbash scripts/serve.sh {shlex.quote(name)}\n"
        f'python -m qwen3vl_rl.locate photo.jpg "{EXAMPLE}"\n```\n\n'
        "The first command starts an OpenAI-compatible server. The second one, in another terminal, prints the "
        "reasoning and the box, and draws the box."
    )


def _licence(base: Base) -> str:
    known = f": {base.licence}" if base.licence else ""
    return f"The code of EGM is under Apache-2.0. The licence of the weights is that of the base model{known}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells])
