"""What a page is made of: sections with figures, tables and texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from replay.report.direction import way
from replay.table import HIGHER, number

MOST_ROWS = 200  # of a table on the page; its files hold all


@dataclass(frozen=True)
class Column:
    """A column of a table as shown: key in the frame, heading, factor of the unit shown."""

    key: str
    heading: str
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Table:
    """A table: shown on the page, and written beside it whole.

    columns : those shown, None for all
    best    : mark the best of a column in bold, where its metric says which way that is
    most    : rows on the page
    """

    name: str
    frame: pl.DataFrame = field(repr=False)
    columns: Sequence[Column] | None = None
    best: bool = False
    most: int = MOST_ROWS

    def shown(self) -> list[Column]:
        """Return the columns on the page."""
        return list(self.columns or [Column(name, name) for name in self.frame.columns])

    def marked(self, column: Column) -> Any:
        """Return the best value of a column; None where values do not differ or no way is known."""
        better = way(column.key) if self.best else None
        values = [value for value in self.frame[column.key].to_list() if isinstance(value, int | float)]
        if better is None or len(set(values)) < 2:
            return None
        return max(values) if better == HIGHER else min(values)


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure: Plotly's, its name in the page, and the data it draws, written beside the page."""

    name: str
    plot: Any = field(repr=False)
    data: pl.DataFrame | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Folded:
    """A text that opens on a click: a configuration."""

    title: str
    text: str = field(repr=False)


Part = Figure | Table | Folded


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the page: title, sentences that say what is shown and its unit, parts in order."""

    title: str
    says: str
    parts: Sequence[Part]


def cell(value: Any, factor: float = 1.0) -> str:
    """Write a value of a table: numbers with about three digits, lists joined, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and factor == 1.0:
        return f"{value:,}"
    if isinstance(value, int | float):
        return number(value, factor) if value == value else "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {cell(one)}" for key, one in value.items())
    return ", ".join(map(cell, value)) if isinstance(value, list | tuple) else str(value)
