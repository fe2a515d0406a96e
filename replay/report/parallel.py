"""Parallel coordinates: each trial a line through its keys and objectives, coloured by the first objective."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from replay.report.parts import Figure, Section
from replay.report.style import GRID, INK, finish, plain, plotly

MOST_LINES = 300
SHADES = ("#fde725", "#7ad151", "#22a884", "#2a788e", "#414487", "#440154")  # viridis, dark is best


def coordinates(trials: pl.DataFrame, keys: Sequence[str], objectives: Mapping[str, int], front: pl.Series) -> Section:
    """Return the section of parallel coordinates of the trials kept.

    trials : with the column fate, of `replay.report.tuning`
    front  : Boolean, the trials to draw on top, wider
    """
    axes = [*keys, *objectives]
    rows = trials.with_columns(front).filter(pl.col("fate") == "kept").drop_nulls(list(axes))
    if rows.height < 2 or not keys:
        return Section("Parallel coordinates", "", [])
    first = next(iter(objectives))
    goodness = rows[first].rank("average", descending=objectives[first] < 0) / rows.height
    rows = rows.with_columns(goodness=goodness).sort("goodness")
    step = max(1, -(-rows.height // MOST_LINES))
    rows = pl.concat([rows.filter(~pl.col("front")).gather_every(step), rows.filter("front")])
    heights, ticks = zip(*(_scaled(rows[axis]) for axis in axes), strict=True)
    lines = np.stack(heights, axis=1)
    shade = np.minimum((rows["goodness"].to_numpy() * len(SHADES)).astype(int), len(SHADES) - 1)
    plot = plotly().graph_objects.Figure()
    bold = rows["front"].to_numpy()
    for group in range(len(SHADES)):
        for wide in (False, True):
            chosen = lines[(shade == group) & (bold == wide)]
            if len(chosen):
                _draw(plot, chosen, SHADES[group], wide)
    for place, (axis, marks) in enumerate(zip(axes, ticks, strict=True)):
        _axis(plot, place, axis, marks)
    finish(plot, 340, margin={"l": 60, "r": 90, "t": 56, "b": 20}, hovermode=False)
    plot.update_xaxes(visible=False, range=[-0.2, len(axes) - 0.6], fixedrange=True)
    plot.update_yaxes(visible=False, range=[-0.06, 1.2], fixedrange=True)
    says = (
        f"Each line is a trial that kept its constraints, through its keys and objectives; the darker, the better its "
        f"{short(first)}. Wide lines are best: on the Pareto front."
    )
    return Section("Parallel coordinates", says, [Figure("parallel coordinates", plot)])


def _scaled(column: pl.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return the height of each value, 0 to 1, and what stands at some heights; words take even steps."""
    if not column.dtype.is_numeric():
        words = sorted({str(value) for value in column})
        at = {word: place / max(1, len(words) - 1) for place, word in enumerate(words)}
        return np.array([at[str(value)] for value in column]), [(height, word) for word, height in at.items()]
    values = column.cast(pl.Float64).to_numpy()
    low, high = float(values.min()), float(values.max())
    logarithmic = spreads(values)
    bent = np.log(values) if logarithmic else values
    span = (bent.max() - bent.min()) or 1.0
    middle = (low * high) ** 0.5 if logarithmic else 0.5 * (low + high)
    return (bent - bent.min()) / span, [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]


def short(column: str) -> str:
    """Return the name of a column of trials without what it is and that it is a policy's: "route.weight"."""
    return column.partition(".")[2].removeprefix("policy/").removeprefix("policy.")


def spreads(values: np.ndarray) -> bool:
    """Tell whether values ask for a logarithmic axis: above 0, over two powers of ten, and most of them small."""
    wide = len(values) > 0 and values.min() > 0 and values.max() > 100 * values.min()
    return bool(wide and np.median(values) < 0.25 * values.max())


def _draw(plot: Any, chosen: np.ndarray, colour: str, wide: bool) -> None:
    """Draw lines as one trace, a gap between each and the next."""
    places = np.append(np.arange(chosen.shape[1], dtype=np.float32), np.nan)
    x = np.tile(places, len(chosen))
    y = np.column_stack([chosen, np.full(len(chosen), np.nan)]).ravel()
    plot.add_scatter(
        x=[None if np.isnan(v) else float(v) for v in x],
        y=[None if np.isnan(v) else round(float(v), 4) for v in y],
        mode="lines",
        showlegend=False,
        opacity=0.95 if wide else 0.35,
        line={"color": colour, "width": 2.4 if wide else 1.0},
    )


def _axis(plot: Any, place: int, axis: str, marks: Sequence[tuple[float, str]]) -> None:
    plot.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": INK, "width": 1}, layer="above")
    name = plain(short(axis))
    fits = name if len(name) <= 26 else "…" + name[-25:]
    plot.add_annotation(
        x=place, y=1.07 + 0.07 * (place % 2), text=f"<b>{fits}</b>", showarrow=False, textangle=0, font={"size": 11}
    )
    for height, text in marks:
        plot.add_annotation(
            x=place,
            y=height,
            text=plain(text),
            showarrow=False,
            xanchor="left",
            xshift=4,
            font={"size": 10.5},
            bgcolor="rgba(255,255,255,0.75)",
            bordercolor=GRID,
            borderpad=1,
        )
