"""The scores of an exported checkpoint in its model card: those of a finished evaluation of the same weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import yaml

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.tables import accuracy_table, render
from qwen3vl_rl.evaluation.scoring.results import Result, read_result
from qwen3vl_rl.evaluation.serving.checkpoints import fingerprint
from qwen3vl_rl.grounding import parser_name

PARTS = MappingProxyType({"weights": "weights", "inputs": "tokenizer, chat template, processor or configuration"})


@dataclass(frozen=True, slots=True)
class CardScores:
    """The evaluation in `folder`. `config`: the content of its config.yaml."""

    folder: Path
    result: Result
    config: Mapping

    @classmethod
    def read(cls, folder: Path) -> "CardScores":
        """Raises InputError if `folder` is not a finished evaluation."""
        if folder.is_file():
            raise InputError(f"{folder}: expected the folder of a finished evaluation, found a file")
        result = read_result(folder)
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        if not {"server", "settings"} <= config.keys():
            raise InputError(f"{folder / 'config.yaml'}: expected the fields that an evaluation writes")
        return cls(folder, result, config)

    def markdown(self, name: str, checkpoint: Path) -> str:
        """The accuracy table, its notes, and how the evaluation asked. `name`: of the model in the table.

        Raises InputError if another checkpoint was evaluated. An evaluation of a running server does not know it.
        """
        if not self._of_a_server:
            self._check_fingerprint(checkpoint)
        results = [replace(self.result, name=name)]
        return f"{render([accuracy_table(results)], results, 'markdown')}\n\n{self._how()}"

    @property
    def _of_a_server(self) -> bool:
        return "endpoint" in self.config["server"]

    def _check_fingerprint(self, checkpoint: Path) -> None:
        ours = fingerprint(checkpoint)
        for part, words in PARTS.items():
            if self.config.get(part) != ours[part]:
                raise InputError(
                    f"{self.folder}: expected an evaluation of the exported weights, found one of another checkpoint "
                    f"({words} differ)"
                )

    def _how(self) -> str:
        server, settings = self.config["server"], self.config["settings"]
        engine = "a running server" if self._of_a_server else f"{server['engine']} {server['version']}"
        asked = (
            f"prompt `{settings['prompt']}`, temperature {settings['temperature']}, at most {settings['max_tokens']} "
            f"tokens, parser `{parser_name(settings['parser'])}`"
        )
        unchecked = " The evaluation did not record whether the server had these weights." if self._of_a_server else ""
        return f"± is half the width of the 95 % interval. Answers of {engine}: {asked}.{unchecked}"
