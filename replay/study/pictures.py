"""Pictures of predictors, as one self-contained HTML page each, through Plotly where that is installed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from predictors.evaluation import Evaluated, curve
from predictors.metrics import LEVEL_OF

MOST_POINTS = 3000  # of a scatter
HEIGHT, WIDTH = 420, 560


def plotly_subplots() -> Any:
    """Return Plotly's module of panels, None where it is not installed."""
    try:
        from plotly import subplots
    except ImportError:
        return None
    return subplots


def evaluation(
    name: str, found: Mapping[str, Evaluated], groups: pl.DataFrame, regret: pl.DataFrame | None
) -> str | None:
    """Return a page with calibration curves, coverage and width by method, predicted against true, and regret.

    returns : None without Plotly
    """
    subplots = plotly_subplots()
    if subplots is None:
        return None
    last = list(found)[-1]
    titles = (
        "share of outputs below each quantile",
        "coverage of nominal 90 % intervals, by origin",
        f"predicted against true output tokens ({last})",
        "E2E mean by predictor (s)",
    )
    figure = subplots.make_subplots(rows=2, cols=2, subplot_titles=titles)
    levels = list(LEVEL_OF.values())
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "grey"}, showlegend=False, row=1, col=1
    )
    for key, one in found.items():
        below = curve(one.tested)
        figure.add_scatter(
            x=levels, y=[below[quantile] for quantile in LEVEL_OF], mode="lines+markers", name=key, row=1, col=1
        )
    every = groups.filter((pl.col("by") == "all") & (pl.col("predictor") == last))
    for (method,), rows in every.group_by("conformal", maintain_order=True):
        figure.add_scatter(
            x=rows["origin"].to_list(),
            y=rows["coverage"].to_list(),
            mode="lines+markers",
            name=f"{last}, {method}",
            row=1,
            col=2,
        )
    figure.add_hline(y=0.9, line_dash="dot", line_color="grey", row=1, col=2)
    tested = found[last].tested
    step = max(1, tested.height // MOST_POINTS)
    figure.add_scatter(
        x=tested["output_tokens"][::step].to_list(),
        y=np.round(tested["p50"].to_numpy()[::step]).tolist(),
        mode="markers",
        marker={"size": 3, "opacity": 0.4},
        showlegend=False,
        row=2,
        col=1,
    )
    figure.update_xaxes(type="log", title_text="true", row=2, col=1)
    figure.update_yaxes(type="log", title_text="predicted", row=2, col=1)
    figure.update_xaxes(title_text="nominal", row=1, col=1)
    figure.update_xaxes(title_text="origin", dtick=1, row=1, col=2)
    if regret is not None:
        figure.add_bar(
            x=regret["predictor"].to_list(), y=regret["e2e_s_mean"].to_list(), showlegend=False, row=2, col=2
        )
    figure.update_layout(
        title=f"{name}: predicted output length", template="plotly_white", height=2 * HEIGHT, width=2 * WIDTH
    )
    return str(figure.to_html(include_plotlyjs=True, full_html=True, div_id="evaluation"))


def gain(rows: pl.DataFrame) -> str | None:
    """Return a page with what each order policy gains over first come, first served, against tau: one column a trace.

    rows    : trace, load, order, tau, gain
    returns : None without Plotly
    """
    subplots = plotly_subplots()
    if subplots is None:
        return None
    names = rows["trace"].unique(maintain_order=True).to_list()
    orders = rows["order"].unique(maintain_order=True).to_list()
    objectives = dict(zip(rows["order"], rows["objective"], strict=True))
    figure = subplots.make_subplots(
        rows=len(orders), cols=len(names), shared_xaxes=True, horizontal_spacing=0.08, vertical_spacing=0.12,
        subplot_titles=[f"{order}: {objectives[order]}" for order in orders for _ in names],
    )  # fmt: skip
    colours = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd")
    loads = rows["load"].unique(maintain_order=True).to_list()
    for (trace, order, load), part in rows.group_by("trace", "order", "load", maintain_order=True):
        figure.add_scatter(
            x=part["tau"].to_list(),
            y=part["gain"].to_list(),
            mode="lines+markers",
            name=f"rate x {load:g}",
            legendgroup=f"{load:g}",
            showlegend=trace == names[0] and order == orders[0],
            line={"color": colours[loads.index(load) % len(colours)]},
            row=1 + orders.index(order),
            col=1 + names.index(trace),
        )
    figure.add_hline(y=0.0, line_dash="dot", line_color="grey")
    figure.update_xaxes(title_text="Kendall tau-b of the predictions", row=len(orders))
    figure.update_yaxes(title_text="gain over FCFS", tickformat=".0%")
    figure.update_layout(
        title="What predicted lengths are worth: " + ", ".join(names),
        template="plotly_white",
        height=340 * len(orders) + 60,
        width=60 + 520 * len(names),
    )
    return str(figure.to_html(include_plotlyjs=True, full_html=True, div_id="gain"))


def variability(table: pl.DataFrame) -> str | None:
    """Return a page with what each workload takes more than training, by part of a request, beside Kingman's wait.

    table   : of `replay.study.variability_table.rows_of`
    returns : None without Plotly
    """
    subplots = plotly_subplots()
    if subplots is None:
        return None
    figure = subplots.make_subplots()
    names = table["workload"].to_list()
    for part, colour in (("queue", "#1f77b4"), ("prefill", "#ff7f0e"), ("decode", "#2ca02c")):
        figure.add_bar(x=names, y=table[f"more_{part}_s"].to_list(), name=part, marker={"color": colour})
    figure.add_scatter(
        x=names, y=table["kingman_s"].to_list(), mode="markers", name="Kingman's wait of one server as fast",
        marker={"symbol": "diamond-open", "size": 10, "color": "black"},
    )  # fmt: skip
    figure.update_yaxes(title_text="mean time more than in training (s)")
    figure.update_layout(
        title="Where variability goes: equal mean work, equal rate", barmode="relative", template="plotly_white",
        height=HEIGHT + 60, width=2 * WIDTH - 160,
    )  # fmt: skip
    return str(figure.to_html(include_plotlyjs=True, full_html=True, div_id="variability"))
