"""How figures look: colours that stay with a tier or a run, small multiples, one legend, light grids."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from replay.errors import ConfigError

# Okabe and Ito's order of colours that most eyes tell apart, the yellow made darker.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B", "#7A4EAB", "#555555")
DASHES = ("solid", "dash", "dot", "dashdot")
METALS = {"gold": "#D4A000", "silver": "#7C93AD", "bronze": "#A0522D"}
INK, PALE, GRID, GOOD, BAD = "#1f2933", "#9aa5b1", "#e4e7eb", "#009E73", "#D55E00"
BLUES = ((0.0, "#f7fbff"), (0.15, "#d6e6f4"), (0.4, "#8fc2de"), (0.7, "#3a8ac2"), (1.0, "#08306b"))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PANEL_PX, HEAD_PX, BARE_PX, FOOT_PX = 250, 66, 52, 44  # of a panel, above it with and without a legend, below it


def plotly() -> Any:
    """Return Plotly's modules, loaded when first needed: graph_objects, subplots, offline.

    raises : ConfigError if it is not installed
    """
    try:
        import plotly.graph_objects
        import plotly.offline
        import plotly.subplots
    except ImportError:
        raise ConfigError(
            "a report needs Plotly, which is not installed. Get it with: pip install 'kvreplay[report]'."
        ) from None
    return plotly


def tier_colours(tiers: Iterable[str]) -> dict[str, str]:
    """Give each tier its colour: metals look like themselves, other names take the palette in turn."""
    rest = iter(PALETTE * 20)
    return {tier: METALS.get(tier) or next(rest) for tier in tiers}


def run_styles(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Give each run its colour and dash; dashes change when the colours are used up."""
    size = len(PALETTE)
    return {label: (PALETTE[k % size], DASHES[k // size % len(DASHES)]) for k, label in enumerate(labels)}


def plain(text: str) -> str:
    """Write a name so that Plotly shows it as it is."""
    return html.escape(text, quote=False)


def floats(values: Any) -> np.ndarray:
    """Return numbers as Plotly should keep them: half the size of doubles, more digits than a screen has."""
    return np.asarray(values, np.float32)


class Panels:
    """A figure of small panels with one legend; lines of one name share its colour and their place in the legend."""

    def __init__(self, titles: Sequence[str], columns: int = 2, panel_px: int = PANEL_PX, **more: Any) -> None:
        """Make empty panels, row by row.

        more : of plotly.subplots.make_subplots
        """
        self.columns = min(columns, len(titles))
        self.rows = -(-len(titles) // self.columns)
        self.panels_px = panel_px * self.rows - FOOT_PX
        given = {
            "horizontal_spacing": 0.085 if self.columns > 1 else 0.0,
            "vertical_spacing": min(0.9 / max(1, self.rows - 1), 72 / self.panels_px) if self.rows > 1 else 0.0,
        }
        self.plot = plotly().subplots.make_subplots(
            rows=self.rows,
            cols=self.columns,
            subplot_titles=[f"<b>{plain(title)}</b>" for title in titles],
            **{**given, **more},
        )
        self._named: set[str] = set()
        self.plot.update_annotations(font={"size": 12.5, "color": INK})

    def place(self, panel: int) -> dict[str, int]:
        """Return Plotly's row and column of a panel."""
        return {"row": panel // self.columns + 1, "col": panel % self.columns + 1}

    def line(self, panel: int, name: str, x: Any, y: Any, **style: Any) -> None:
        """Add a line; style: color, dash, width, and whatever a scatter trace takes."""
        line = {key: style.pop(key) for key in ("color", "dash", "width", "shape") if key in style}
        self.add(
            panel, name, "scatter", x=x, y=y, mode=style.pop("mode", "lines"), line={"width": 1.8, **line}, **style
        )

    def add(self, panel: int, name: str, kind: str, **given: Any) -> None:
        """Add a trace of any kind; a name stands in the legend once."""
        new = bool(name) and name not in self._named
        self._named |= {name} if name else set()
        for axis in ("x", "y"):
            if isinstance(given.get(axis), np.ndarray) and given[axis].dtype.kind == "f":
                given[axis] = floats(given[axis])
        trace = {"name": plain(name), "legendgroup": name, "showlegend": new, **given}
        getattr(self.plot, f"add_{kind}")(**trace, **self.place(panel))

    def axes(self, panel: int, x: Mapping[str, Any] | None = None, y: Mapping[str, Any] | None = None) -> None:
        """Set what Plotly's axes of a panel take."""
        self.plot.update_xaxes(**dict(x or {}), **self.place(panel))
        self.plot.update_yaxes(**dict(y or {}), **self.place(panel))

    def finish(self, **layout: Any) -> Any:
        """Give the figure its looks, and return it."""
        return finish(self.plot, self.panels_px, **layout)


def finish(plot: Any, panels_px: int, **layout: Any) -> Any:
    """Give a figure its looks, modified in place, and return it.

    panels_px : height of what is drawn, without legend and title
    layout    : of Plotly's layout, on top
    """
    legend = any(trace.showlegend for trace in plot.data)
    head_px = HEAD_PX if legend else BARE_PX
    height_px = panels_px + head_px + FOOT_PX
    plot.update_layout(
        template="none",
        height=height_px,
        showlegend=legend,
        font={"family": FONT, "size": 12, "color": INK},
        margin={"l": 64, "r": 24, "t": head_px, "b": FOOT_PX},
        paper_bgcolor="white",
        plot_bgcolor="white",
        legend={"orientation": "h", "x": 0, "y": 1 + 26 / panels_px, "yanchor": "bottom", "font": {"size": 12}},
        hoverlabel={"font": {"size": 12}},
        hovermode="closest",
    )
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": PALE,
        "showline": True,
        "ticks": "outside",
        "tickcolor": PALE,
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 12}},
    }
    plot.update_xaxes(**axis, hoverformat=".4~g")
    plot.update_yaxes(**axis, hoverformat=".4~g")
    plot.update_layout(**layout)
    return plot


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis with few ticks in plain digits: powers of ten, or 1, 2 and 5 where those are few.

    low, high : of the values, above 0
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    near = [tick for tick in ticks if 0.5 * low <= tick <= 2.0 * high]
    return {"type": "log", "tickmode": "array", "tickvals": near, "ticktext": [f"{tick:,.10g}" for tick in near]}
