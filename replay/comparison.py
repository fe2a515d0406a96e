"""The end of a multirun: one table, and comparison.parquet with a row a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from replay.metrics import Value
from replay.table import comparison, show
from replay.write import together


class Comparison:
    """Collects the runs of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: list[dict[str, Any]] = []
        self._overrides: list[dict[str, str]] = []

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The runs so far: run, folder, summary, error."""
        return self._rows

    @property
    def failed(self) -> bool:
        """Whether a run ended with an error."""
        return any(row["error"] is not None for row in self._rows)

    def add(
        self,
        number: int,
        folder: Path,
        overrides: Sequence[str],
        summary: Mapping[str, Value] | None = None,
        error: str | None = None,
    ) -> None:
        """Add a run: its overrides as "key=value", and its summary or the sentence it failed with."""
        self._rows.append({"run": number, "folder": str(folder), **(summary or {}), "error": error})
        pairs = (text.lstrip("+~").partition("=") for text in overrides)
        # Hydra spells a swept truth value True, the command line and the YAML files true.
        self._overrides.append({key: {"True": "true", "False": "false"}.get(value, value) for key, _, value in pairs})

    def varying(self) -> list[str]:
        """Name the overrides that differ between runs, in the order of the command line."""
        names = dict.fromkeys(name for overrides in self._overrides for name in overrides)
        return [name for name in names if len({overrides.get(name) for overrides in self._overrides}) > 1]

    def frame(self) -> pl.DataFrame:
        """Return one row a run: run, the varying overrides as text, the summary, error, folder."""
        rows = []
        for row, overrides in zip(self._rows, self._overrides, strict=True):
            named = {self._column(name): overrides.get(name) for name in self.varying()}
            rest = {key: value for key, value in row.items() if key not in ("run", "folder", "error")}
            rows.append({"run": row["run"], **named, **rest, "error": row["error"], "folder": row["folder"]})
        frame = pl.DataFrame(rows, infer_schema_length=None)
        tail = ["error", "folder"]
        return frame.select([name for name in frame.columns if name not in tail] + tail)

    def close(self) -> None:
        """Print the table and write comparison.parquet into the sweep's folder.

        raises : WriteError when the folder cannot be written
        """
        frame = self.frame()
        with together(self.folder) as place, open(place("comparison.parquet"), "wb") as file:
            frame.write_parquet(file)
        columns = {name: self._column(name) for name in self.varying()}
        show(comparison(frame.to_dicts(), columns))
        for row in self._rows:
            if row["error"] is not None:
                show(f"run {row['run']} failed: {row['error']}")
        show("", f"comparison in {self.folder / 'comparison.parquet'}")

    def _column(self, override: str) -> str:
        """Name the column of an override; `events` and the like are keys of the summary as well."""
        taken = any(override in row for row in self._rows)
        return f"config.{override}" if taken else override
