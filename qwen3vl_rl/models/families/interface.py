"""What a family of models must answer. A third family is a package with these three parts, and an entry in `FAMILIES`:

- `__init__.py`: a `Family`, which knows files and sizes. It imports neither torch nor transformers, because the planner
  and the checks before a start read only files.
- `parts.py`: a module with the functions of `Parts`, for a loaded model.
- `prompts.py`: a module with the functions of `Prompts`, for the processor and what it returns.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from qwen3vl_rl.models.shapes import Shape

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Limits = tuple[int, ...]  # least and most in the unit of the family's image processor, then what else it depends on
Part = Literal["vision encoder", "mergers", "language model"]


class Family(ABC):
    """Files and sizes of a family.

    name: for messages.
    model_type, architecture: in config.json; the architecture is the first of `architectures`.
    sizes: the published shapes, by the name of the config group `size` (`8b`). Names differ between families.
    layer_class, vision_class: transformers' classes of a language layer and of the vision tower, as FSDP wraps them.
    limit_names: the image processor's arguments for the least and the most that it makes of a picture.
    placeholder_keys: keys of config.json with the ids of tokens that stand for a picture or a video. They must not be
        sampled.
    special_tokens: keys of config.json with ids of tokens, and these tokens.
    engines: the rollout engines for stage 2.
    sequence_parallel: whether several GPUs can share a sequence (Ulysses).
    pairs_of_limits: whether a limit of pictures counts only together with the other.
    opens_thinking: whether the chat template of the model that stage 1 starts from opens `<think>`. If it does not,
        stage 1 also trains `<think>`.
    resizes_first: whether training resizes a picture to multiples of two patches before the image processor does, as
        the released code of the recipe does.
    processor_in_verl: whether verl 0.9.1 loads the processor.
    """

    name: str
    model_type: str
    architecture: str
    sizes: Mapping[str, Shape]
    layer_class: str
    vision_class: str
    limit_names: tuple[str, str]
    placeholder_keys: tuple[str, ...]
    special_tokens: Mapping[str, str]
    engines: tuple[str, ...]
    sequence_parallel: bool
    pairs_of_limits: bool
    opens_thinking: bool
    resizes_first: bool
    processor_in_verl: bool

    @abstractmethod
    def shape(self, config: Mapping) -> Shape:
        """The shape of a model with this Hugging Face configuration. Raises KeyError for one of another family."""

    @abstractmethod
    def own_limits(self, folder: Path | None) -> Limits:
        """The limits in the processor's files of a checkpoint; those of the published models if there are none."""

    @abstractmethod
    def picture_tokens(self, width_px: int, height_px: int, limits: Limits | None = None) -> int:
        """Tokens of a picture in a prompt, together with those that mark its begin and end unless `turn` has them.

        None stands for a picture within the limits, or for those of the published models where tokens depend on them.
        """

    @abstractmethod
    def resized_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height in px to which the image processor of the published models resizes a picture."""

    @abstractmethod
    def turn(self, text: str) -> str:
        """A prompt with one picture as the chat template renders it, up to the model's first token. The picture is one
        placeholder token."""

    @abstractmethod
    def pixel_arguments(self, least: int, most: int) -> dict[str, Any]:
        """Arguments with which the image processor keeps pictures between `least` and `most` pixels (areas).

        transformers and vLLM take the same. Raises InputError if the processor has no such limits.
        """

    def picture_limits(self, folder: Path | None, given: Mapping) -> Limits:
        """The limits of pictures with the arguments `given` to the image processor of a checkpoint, or of the
        published models without a folder."""
        least, most, *others = self.own_limits(folder)
        names = zip(self.limit_names, (least, most), strict=True)
        return *(given.get(name, own) for name, own in names), *others

    @abstractmethod
    def settle(self, config: Any) -> None:
        """Correct a loaded Hugging Face configuration where transformers' defaults contradict the checkpoints."""

    @property
    def parts(self) -> "Parts":
        """Imports torch and transformers."""
        return cast(Parts, import_module(f"{type(self).__module__}.parts"))

    @property
    def prompts(self) -> "Prompts":
        """Imports torch."""
        return cast(Prompts, import_module(f"{type(self).__module__}.prompts"))


class Parts(Protocol):
    """Parts of a loaded model, which transformers has built and verl may have patched."""

    def part_of(self, parameter: str) -> Part:
        """The part that a parameter belongs to, by its full name. peft and FSDP may have put prefixes before it."""

    def mergers(self, model: "torch.nn.Module") -> "Sequence[torch.nn.Module]":
        """What projects image features into the language model. The first one makes the image tokens; the others, if
        any, add to the first language layers."""

    def blocks(self, model: "torch.nn.Module") -> "list[torch.nn.Module]":
        """The blocks of the vision tower and of the language model, which `compile_blocks` compiles."""

    def pack_images(self, model: "torch.nn.Module") -> None:
        """Make the vision tower attend over all images of a batch in one call per layer."""

    def place_images(self, model: "torch.nn.Module") -> None:
        """Let the model accept what `add_image_places` returns, so that no forward pass reads from the device."""

    def add_image_places(self, inputs: dict[str, Any], config: Any) -> dict[str, Any]:
        """Inputs of a forward pass over packed text, on the host, with the positions of the image features.

        config: the Hugging Face configuration. Raises ValueError if tokens and features do not match.
        """


class Prompts(Protocol):
    """Pictures and prompts on their way from the processor to the rollout engine and to the trainer."""

    def pixel_bytes(self, pixel_values: "torch.Tensor", image_processor: Any) -> "torch.Tensor":
        """`pixel_values` that were neither rescaled nor normalised, as few bytes (uint8)."""

    def restore_pixels(self, pixels: "torch.Tensor", image_processor: Any) -> "torch.Tensor":
        """What the image processor returns for a picture (float32), from `pixel_bytes`, on their device."""

    def image_inputs(self, processor: Any, images: "Sequence[Image]", options: Mapping) -> dict[str, Any] | None:
        """The trainer's inputs for the images of a prompt; None if verl computes them.

        options: arguments of the image processor (`data.mm_processor_kwargs`).
        """

    def engine_prompt(self, prompt_ids: list[int], processor: Any) -> list[int]:
        """The prompt that vLLM takes, from the processor's tokens of a prompt with images."""
