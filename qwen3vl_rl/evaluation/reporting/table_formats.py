"""Tables for a terminal, and in Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_LATEX = str.maketrans(
    {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "\N{MINUS SIGN}": "$-$", "<": "$<$", ">": "$>$"}
)


@dataclass(frozen=True, slots=True)
class Table:
    """The first `texts` columns hold words, the others numbers. A first cell equal to the one above is left blank."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


def text(table: Table) -> str:
    """Columns two spaces apart, words to the left and numbers to the right, a rule under the header."""
    rows = [list(table.header), *_without_repeats(table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [*map(str.ljust, row[: table.texts], widths), *map(str.rjust, row[table.texts :], widths[table.texts :])]
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, lines[0], "─" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def markdown(table: Table) -> str:
    header, *body = [f"| {' | '.join(row)} |" for row in [table.header, *_without_repeats(table.rows)]]
    rule = "|".join(["---"] * table.texts + ["--:"] * (len(table.header) - table.texts))
    return "\n".join([f"**{table.title}**", "", header, f"|{rule}|", *body])


def latex(table: Table) -> str:
    """A `tabular` with the rules of the package booktabs."""
    lines = [
        " & ".join(cell.translate(_LATEX) for cell in row) for row in [table.header, *_without_repeats(table.rows)]
    ]
    columns = "l" * table.texts + "r" * (len(table.header) - table.texts)
    begin = [f"% {table.title}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{lines[0]} \\", r"\midrule"]
    return "\n".join([*begin, *(rf"{line} \\" for line in lines[1:]), r"\bottomrule", r"\end{tabular}"])


def comma_separated(table: Table) -> str:
    """Header and rows, with no cell left blank."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([table.header, *table.rows])
    return file.getvalue().removesuffix("\n")


FORMATS = {"text": text, "markdown": markdown, "latex": latex, "csv": comma_separated}


def _without_repeats(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    first = [list(row) for row in rows[:1]]
    return first + [["" if b[0] == a[0] else b[0], *b[1:]] for a, b in pairwise(rows)]
