"""The baseline of stage 1: transformers' Trainer on flattened batches, as in the release."""

import math
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MethodType

import torch
import transformers
from omegaconf import DictConfig
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl
from transformers.utils import is_flash_attn_2_available

from qwen3vl_rl.models.families import read_family
from qwen3vl_rl.models.families.interface import Prompts
from qwen3vl_rl.models.parameters import freeze_vision_encoder

# verl replaces these forward methods for the whole process; the baseline restores them in its own model.
FORWARDS = {c: c.forward for c in (qwen3_vl.Qwen3VLModel, qwen3_vl.Qwen3VLForConditionalGeneration)}


class MasterAdamW(torch.optim.AdamW):
    """AdamW on 32-bit copies of bfloat16 weights, as DeepSpeed's ZeRO keeps them."""

    def __init__(self, parameters: list[torch.nn.Parameter], **options):
        self.low = parameters
        self.high = [torch.nn.Parameter(p.detach().float()) for p in parameters]
        super().__init__(self.high, **options)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for low, high in zip(self.low, self.high, strict=True):
            high.grad = None if low.grad is None else low.grad.float()
        super().step(closure)
        torch._foreach_copy_(self.low, self.high)
        super().zero_grad()


class StepTimer(transformers.TrainerCallback):
    """Seconds from the end of the first update to the end of training."""

    start = seconds = math.nan

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 1:
            synchronize()
            self.start = time.perf_counter()

    def on_train_end(self, args, state, control, **_):
        synchronize()
        self.seconds = time.perf_counter() - self.start


class Trainer:
    """transformers' Trainer: bfloat16 weights, 32-bit master weights, gradient checkpointing. `change` is empty,
    `padded` or `no-checkpointing`."""

    def __init__(
        self, config: DictConfig, batches: list[list[dict]], change: str, micro: int, bf16_state: bool, device: str
    ):
        padded = change == "padded"
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            config.model.path, dtype=torch.bfloat16, attn_implementation="sdpa" if padded else flash_implementation()
        )
        if not padded and flash_implementation() == "sdpa":
            use_varlen_as_flash(model)
        for module in model.modules():
            if type(module) in FORWARDS:
                module.forward = MethodType(FORWARDS[type(module)], module)
        family = read_family(Path(config.model.path))
        freeze_vision_encoder(model, family.parts)
        model.config.use_cache = model.config.text_config.use_cache = False
        self.model = model.to(device)
        trained = [p for p in model.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW if bf16_state else MasterAdamW
        self.optimizer = adamw(trained, lr=config.optim.lr, weight_decay=0.0, fused=True)
        collate = pad if padded else flatten
        image_processor = transformers.AutoProcessor.from_pretrained(config.model.path).image_processor
        batches = [with_floats(batch, family.prompts, image_processor) for batch in batches]
        self.rows = [collate(b[i : i + micro]) for b in batches for i in range(0, len(b), micro)]
        self.accumulation = len(batches[0]) // micro
        self.device, self.checkpointing = device, change != "no-checkpointing"

    def run(self, steps: int) -> tuple[float, float]:
        rows = [self.rows[i % len(self.rows)] for i in range((steps + 1) * self.accumulation)]
        timer = StepTimer()
        with TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                max_steps=steps + 1,
                per_device_train_batch_size=1,  # a row holds a whole micro-batch
                gradient_accumulation_steps=self.accumulation,
                gradient_checkpointing=self.checkpointing,
                gradient_checkpointing_kwargs={"use_reentrant": False},
                max_grad_norm=1.0,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
                disable_tqdm=True,
                dataloader_pin_memory=self.device == "cuda",
                use_cpu=self.device == "cpu",
            )
            trainer = transformers.Trainer(
                model=self.model,
                args=arguments,
                train_dataset=rows,
                data_collator=lambda features: features[0],
                callbacks=[timer],
                optimizers=(self.optimizer, torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)),
            )
            trainer.remove_callback(transformers.PrinterCallback)
            result = trainer.train()
        return timer.seconds, result.training_loss


def flash_implementation() -> str:
    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def use_varlen_as_flash(model: torch.nn.Module) -> None:
    """Attend with torch's FlashAttention-2 kernels in the way transformers calls the package: each layer computes the
    lengths of texts from position ids on the GPU, so the host does not know them beforehand."""
    from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

    from qwen3vl_rl.models.packed_attention import packed_attention, register

    def attend(module, query, key, value, attention_mask, scaling, position_ids=None, **options):
        if position_ids is not None:
            (ends, _), (longest, _) = prepare_fa_kwargs_from_position_ids(position_ids)
            options |= {"cu_seq_lens_q": ends, "max_length_q": longest}
        return packed_attention(module, query, key, value, attention_mask, scaling, **options)

    register("varlen_as_flash", attend)
    visual = getattr(model.model, "visual", None)  # other families attend within tiles, which transformers batches
    for part in filter(None, (visual, model.model.language_model)):
        part.config._attn_implementation = "varlen_as_flash"


def with_floats(batch: list[dict], prompts: Prompts, image_processor) -> list[dict]:
    """Samples of our data set, which have pixels as bytes, with those that the image processor returns."""
    found = []
    for sample in batch:
        inputs = sample["multi_modal_inputs"]
        pixels = prompts.restore_pixels(inputs["pixel_values"], image_processor)
        found.append(sample | {"multi_modal_inputs": inputs | {"pixel_values": pixels}})
    return found


def labels(sample: dict) -> torch.Tensor:
    return sample["input_ids"].masked_fill(sample["loss_mask"] == 0, -100)


def images(batch: list[dict]) -> dict[str, torch.Tensor]:
    inputs = [sample["multi_modal_inputs"] for sample in batch]
    return {
        name: torch.cat([one[name] for one in inputs])
        for name in ("pixel_values", "image_grid_thw")
        if name in inputs[0]
    }


def flatten(batch: list[dict]) -> dict[str, torch.Tensor]:
    """All samples in one row; position ids restart at each sample."""
    return images(batch) | {
        "input_ids": torch.cat([sample["input_ids"] for sample in batch])[None],
        "labels": torch.cat([labels(sample) for sample in batch])[None],
        "position_ids": torch.cat([sample["position_ids"] for sample in batch], dim=-1).unsqueeze(-2),
    }


def pad(batch: list[dict]) -> dict[str, torch.Tensor]:
    stack = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return images(batch) | {
        "input_ids": stack([sample["input_ids"] for sample in batch]),
        "labels": stack([labels(sample) for sample in batch], padding_value=-100),
        "attention_mask": stack([torch.ones_like(sample["input_ids"]) for sample in batch]),
        "position_ids": pad_positions([sample["position_ids"] for sample in batch]),
    }


def pad_positions(positions: list[torch.Tensor]) -> torch.Tensor:
    """(samples, length) of positions (length), or (axes, samples, length) of (axes, length)."""
    if positions[0].dim() == 1:
        return torch.nn.utils.rnn.pad_sequence(positions, batch_first=True)
    return torch.stack([pad_positions(list(axis)) for axis in zip(*positions, strict=True)])


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
