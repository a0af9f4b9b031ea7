"""Findings about a checkpoint, its answers or a file of boxes: what is wrong, what it causes, and how to fix it."""

from collections.abc import Iterable
from dataclasses import dataclass

NEEDS_ATTENTION = 1  # exit code


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `means` and `change` are empty if nothing is wrong."""

    name: str
    found: str
    means: str = ""
    change: str = ""

    @property
    def is_fine(self) -> bool:
        return not self.means


def show(findings: Iterable[Finding]) -> int:
    """Print each finding as soon as it is known. Returns how many need attention."""
    problems = 0
    for finding in findings:
        print(f"{'ok' if finding.is_fine else '!!':<4}{finding.name:<18} {finding.found}", flush=True)
        if not finding.is_fine:
            problems += 1
            print(f"      means  {finding.means}\n      fix    {finding.change}", flush=True)
    return problems
