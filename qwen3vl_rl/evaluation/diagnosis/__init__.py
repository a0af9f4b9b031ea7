"""The first contact with a checkpoint: what this project assumes of it, what it is, and what it answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `means` and `change` are empty where it is as expected."""

    name: str
    found: str
    means: str = ""
    change: str = ""

    @property
    def is_fine(self) -> bool:
        return not self.means
