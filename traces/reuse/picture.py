"""The picture of hit rates against capacity: one HTML file that needs no network, made by Plotly."""

from typing import Any

import numpy as np

from traces.errors import TraceError
from traces.reuse.curve import Curve
from traces.reuse.published import Comparison
from traces.reuse.report import Reuse

POINTS = 1500
COLOURS = {"lru": "#1f5fa8", "fifo": "#8a8a8a", "lfu": "#c77c11", "belady": "#2d8a4e"}
PUBLISHED, CORRECTED = "#b3263a", "#6f4aa8"


def check_plotly() -> None:
    """Raise TraceError unless Plotly is installed."""
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise TraceError("a picture needs Plotly, which is not installed: pip install 'kvreplay[report]'.") from None


def picture(name: str, reuse: Reuse, comparison: Comparison | None = None) -> str:
    """Return an HTML page with the LRU curve, the other policies' points, and published points in their unit.

    Infinite capacities have no place on the axis; the curve's right end shows them.

    name   : of the trace, for the title
    raises : TraceError without Plotly
    """
    check_plotly()
    from plotly.subplots import make_subplots

    apart = comparison is not None and comparison.published.unit == "tokens"
    titles = ["one cache of blocks", "published points: one LRU cache of tokens"] if apart else None
    figure = make_subplots(rows=1, cols=2 if apart else 1, subplot_titles=titles)
    _add_policies(figure, reuse)
    if comparison is not None:
        _add_published(figure, comparison, 2 if apart else 1)
    figure.update_xaxes(type="log", title_text="capacity (blocks)", row=1, col=1)
    figure.update_yaxes(rangemode="tozero", tickformat=".2f")
    figure.update_yaxes(title_text="hit blocks / blocks", row=1, col=1)
    if apart:
        figure.update_xaxes(type="log", title_text="capacity (tokens)", row=1, col=2)
        figure.update_yaxes(title_text="hit tokens / prompt tokens", row=1, col=2)
    figure.update_layout(title=f"{name}: hit rate against cache capacity", template="plotly_white", height=560)
    return figure.to_html(include_plotlyjs=True, full_html=True, div_id="reuse")


def sample(curve: Curve, least: float, most: float) -> tuple[list[float], list[float]]:
    """Return exact points of a curve, evenly spaced on a logarithmic axis: capacities and hit rates."""
    sizes = np.unique(np.round(np.geomspace(max(least, 1.0), max(most, least, 2.0), POINTS))).tolist()
    return sizes, [curve.rate(size) for size in sizes]


def _add_policies(figure: Any, reuse: Reuse) -> None:
    sizes, rates = sample(reuse.curve, 1.0, 1.5 * float(reuse.curve.capacity[-1]))
    line = {"color": COLOURS["lru"], "width": 2}
    figure.add_scatter(x=sizes, y=rates, mode="lines", name="lru", line=line, row=1, col=1)
    shown = [place for place, size in enumerate(reuse.capacities) if size != float("inf")]
    for policy in (name for name in reuse.rates if name != "lru"):
        figure.add_scatter(
            x=[reuse.capacities[place] for place in shown],
            y=[reuse.rates[policy][place] for place in shown],
            mode="markers+lines",
            line={"color": COLOURS[policy], "width": 1, "dash": "dot"},
            name=policy,
            row=1,
            col=1,
        )


def _add_published(figure: Any, comparison: Comparison, column: int) -> None:
    published = comparison.published
    finite = [size for size in published.capacity if 0 < size < float("inf")] or [1.0]
    curves = [("lru, plain", comparison.plain, COLOURS["lru"]), ("lru, corrected", comparison.corrected, CORRECTED)]
    if column > 1:
        for name, curve, colour in curves:
            if curve is not None:
                sizes, rates = sample(curve, min(finite), max(finite))
                line = {"color": colour, "width": 2}
                figure.add_scatter(x=sizes, y=rates, mode="lines", name=name, line=line, row=1, col=column)
    marker = {"color": PUBLISHED, "size": 10, "symbol": "x"}
    points = [(size, rate) for size, rate in zip(published.capacity, published.rate, strict=True) if size in finite]
    x, y = [size for size, _ in points], [rate for _, rate in points]
    name = f"published: {published.column}"
    figure.add_scatter(x=x, y=y, mode="markers", name=name, marker=marker, row=1, col=column)
