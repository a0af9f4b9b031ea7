"""Checks rows of the SFT parquet with a model's chat template and tokenizer."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoConfig, AutoProcessor

from qwen3vl_rl.data.expressions import own_tokens
from qwen3vl_rl.data.parquet import write_rows
from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import answer_opening
from qwen3vl_rl.models.families import find_family

PIXELS = Path(__file__).parent / "config" / "pixels.yaml"
MARK = "<image>"


class TokenCheck:
    """Counts tokens without opening images, and compares the tokens of whole rows with those of generation."""

    def __init__(self, model: str, max_length: int):
        """`model`: a checkpoint folder or a name on the hub. Raises InputError if it has no suitable template."""
        try:
            self.processor = AutoProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--processor: expected a checkpoint with a processor, got {model} ({reason})") from None
        self.own_tokens = own_tokens(self.processor.tokenizer.get_added_vocab())
        self.max_length = max_length
        self.processor.config = AutoConfig.from_pretrained(model)  # as verl does
        self.family = find_family(self.processor.config.to_dict())
        pixels = yaml.safe_load(PIXELS.read_text())["sft"]  # of size=8b; other families have their processor's limits
        self.pixels = pixels if pixels.keys() <= set(self.family.limit_names) else {}
        self.limits = self.family.picture_limits(Path(model).expanduser(), self.pixels)
        self.opening = answer_opening(self._render("x"))
        if self.family.opens_thinking and self.opening:
            raise InputError(f"--processor: expected a Thinking model, whose template opens <think>, got {model}")

    def length(self, row: dict, width: int, height: int) -> int:
        """Tokens of a row with an image of `width` x `height` px, and with a newline at the end (`loss_span: turn`)."""
        user, target = (message["content"] for message in row["messages"])
        text = len(self._tokenize(self._render(user.removeprefix(MARK)))) + len(self._target(target))
        picture = self.family.picture_tokens(width, height, self.limits)
        return text + picture  # minus the placeholder, plus the newline

    def checked(self, rows: Iterable[dict], schema, count: int) -> Iterator[dict]:
        """`rows` unchanged, after comparing the first `count` of them. Raises InputError for a difference."""
        rows = iter(rows)
        first = list(islice(rows, count))
        if first:
            self._compare(first, schema)
        yield from first
        yield from rows

    def _compare(self, rows: list[dict], schema) -> None:
        from sft.dataset import ThinkingSFTDataset  # imports verl, which takes seconds

        with TemporaryDirectory() as folder:
            parquet = Path(folder) / "rows.parquet"
            write_rows(parquet, rows, schema)
            settings = {
                "pad_mode": "no_padding",
                "max_length": self.max_length,
                "apply_chat_template_kwargs": {"processor_kwargs": self.pixels},
            }
            dataset = ThinkingSFTDataset(
                str(parquet), self.processor.tokenizer, OmegaConf.create(settings), self.processor
            )
            for number, row in enumerate(rows):
                self._compare_one(row, dataset[number])

    def _compare_one(self, row: dict, trained: dict) -> None:
        user, target = (message["content"] for message in row["messages"])
        image = open_picture(row["images"][0])
        seen = self._chat(user.removeprefix(MARK), image, tokenize=True, return_dict=True, processor_kwargs=self.pixels)
        seen, written = list(seen["input_ids"][0]), self._target(target)
        expected = seen + written, [0] * len(seen) + [1] * len(written)
        if (trained["input_ids"].tolist(), trained["loss_mask"].tolist()) != expected:
            raise InputError(f"{row['images'][0]}: expected the tokens of generation, got others")
        if len(expected[0]) + 1 != (length := self.length(row, *image.size)):
            raise InputError(
                f"{row['images'][0]}: expected {length - 1} tokens from the image's size, got {len(expected[0])}"
            )

    def _render(self, prompt: str) -> str:
        return self._chat(prompt, None, tokenize=False)

    def _chat(self, prompt: str, image: Image.Image | None, **options):
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        message = {"role": "user", "content": content}
        return self.processor.apply_chat_template([message], add_generation_prompt=True, **options)

    def _target(self, text: str) -> list[int]:
        return self._tokenize(self.opening + text + self.processor.tokenizer.eos_token)

    def _tokenize(self, text: str) -> list[int]:
        return self.processor.tokenizer.encode(text, add_special_tokens=False)
