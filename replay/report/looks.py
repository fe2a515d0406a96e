"""How the runs of one page are told apart: what varies in its figures, and in which colour."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from replay.report.folders import Run
from replay.report.style import INK, run_styles, tier_colours
from replay.report.windows import Windows, length_ps, windows

ALL = "all"
HOURS_FROM_S = 3 * 3600.0


@dataclass(frozen=True, eq=False)
class Looks:
    """Runs that are drawn together, the windows of each, all as long, and colours that stay theirs throughout.

    cuts   : run -> windows
    tiers  : tier -> colour
    styles : run -> colour and dash
    """

    runs: Sequence[Run]
    cuts: dict[str, Windows]
    tiers: dict[str, str]
    styles: dict[str, tuple[str, str]]

    @property
    def alone(self) -> bool:
        """Whether there is one run, drawn by tier; several are drawn by run."""
        return len(self.runs) == 1

    def groups(self, run: Run) -> list[tuple[str, str, str, pl.DataFrame]]:
        """Return what figures of one run tell apart: name, colour, dash, rows; the tiers of a single run, or all."""
        if not self.alone:
            return [(run.label, *self.styles[run.label], run.requests)]
        parts = [(tier, self.tiers[tier], "solid", run.requests.filter(pl.col("tier") == tier)) for tier in run.tiers]
        return parts if len(parts) == 1 else [(ALL, INK, "dot", run.requests), *parts]

    @property
    def colours(self) -> dict[str, str]:
        """Name -> colour, of tiers and runs."""
        return self.tiers | ({} if self.alone else {label: colour for label, (colour, _) in self.styles.items()})

    def time(self, seconds: Sequence[float] | np.ndarray | pl.Series) -> np.ndarray:
        """Return times in the unit of the time axes."""
        return np.asarray(seconds, np.float64) / (3600.0 if self.in_hours else 1.0)

    def steps(self, part: pl.DataFrame, column: str) -> tuple[np.ndarray, list[float | None]]:
        """Return a column by window as steps, each from its start to its end, with a gap where there is no value.

        part : rows with window_s, length_s and the column, in the order of time
        """
        x: list[float] = []
        y: list[float | None] = []
        end = None
        for start, length, value in part.select("window_s", "length_s", column).iter_rows():
            if end is not None and (value is None or start > end + 1e-6 * length):  # the step before ends in a gap
                x, y, end = [*x, end, end], [*y, y[-1], None], None
            if value is not None:
                x.append(start)
                y.append(float(f"{value:.5g}"))
                end = start + length
        if end is not None:
            x.append(end)
            y.append(y[-1])
        return self.time(x), y

    @property
    def in_hours(self) -> bool:
        """Whether time axes are in hours."""
        return max((cut.end_ps - cut.first_ps) / 1e12 for cut in self.cuts.values()) > HOURS_FROM_S

    @property
    def window(self) -> str:
        """How long windows are: "30 s"."""
        return span(next(iter(self.cuts.values())).length_ps / 1e12)

    @property
    def time_title(self) -> str:
        """Title of time axes."""
        return f"time of the trace ({'h' if self.in_hours else 's'})"


def look(runs: Sequence[Run], most_windows: int) -> Looks:
    """Choose windows and colours for runs that are drawn together.

    most_windows : into which their time is cut
    """
    tiers = dict.fromkeys(tier for run in runs for tier in run.tiers)
    length = length_ps([run.requests for run in runs], most_windows)
    cuts = {run.label: windows(run.requests, length) for run in runs}
    return Looks(runs, cuts, tier_colours(tiers), run_styles(run.label for run in runs))


def span(seconds: float) -> str:
    """Write a length of time: "30 s", "2 min", "0.5 ms"."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
