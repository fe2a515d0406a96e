"""The validation page: errors of each run, and recorded against replayed for every request."""

from typing import Any

import numpy as np
import polars as pl

from replay.study.pictures import plotly_subplots

HEIGHT, WIDTH = 360, 400


def page(frame: pl.DataFrame, requests: pl.DataFrame) -> str | None:
    """Return one self-contained HTML page.

    frame    : run, part, metric, statistic, recorded, replayed, error
    requests : run, recorded_* and replayed_* of TTFT, TPOT and E2E
    returns  : None without Plotly
    """
    subplots = plotly_subplots()
    if subplots is None:
        return None
    names = requests["run"].unique(maintain_order=True).to_list()
    metrics = ("ttft_s", "tpot_s", "e2e_s")
    titles = [f"{short(name)}: {metric.removesuffix('_s').upper()} (s)" for name in names for metric in metrics]
    figure = subplots.make_subplots(rows=len(names) + 1, cols=len(metrics), vertical_spacing=0.3 / (len(names) + 1),
                                    subplot_titles=[*titles, *(f"error of {m.removesuffix('_s').upper()} (%)"
                                                               for m in metrics)])  # fmt: skip
    for row, name in enumerate(names, 1):
        own = requests.filter(run=name)
        for column, metric in enumerate(metrics, 1):
            _scatter(figure, own, metric, (row, column))
    parts = frame["part"].unique(maintain_order=True).to_list()
    colours = dict(zip(parts, ("#4477aa", "#ccbb44", "#228833"), strict=False))
    for column, metric in enumerate(metrics, 1):
        for part in parts:
            own = frame.filter(part=part, metric=metric)
            places = [str(names.index(run) + 1) for run in own["run"]]
            figure.add_bar(x=[places, own["statistic"].to_list()], y=(100 * own["error"]).to_list(), name=part,
                           legendgroup=part, showlegend=column == 1, marker_color=colours.get(part),
                           row=len(names) + 1, col=column)  # fmt: skip
    figure.update_layout(title="Recorded runs against their replays", template="plotly_white", barmode="group",
                         height=HEIGHT * (len(names) + 1), width=WIDTH * len(metrics),
                         legend={"orientation": "h", "y": -0.1})  # fmt: skip
    figure.update_annotations(font_size=12)
    figure.update_xaxes(title_text="runs, from the top", row=len(names) + 1)
    return str(figure.to_html(include_plotlyjs=True, full_html=True, div_id="validation"))


def short(name: str) -> str:
    """Shorten the name of a run for the title of a panel."""
    return name.replace("-Instruct", "").replace("-2507", "")


def _scatter(figure: Any, own: pl.DataFrame, metric: str, place: tuple[int, int]) -> None:
    x, y = own[f"recorded_{metric}"].to_numpy(), own[f"replayed_{metric}"].to_numpy()
    low, high = float(np.nanmin([x, y])), float(np.nanmax([x, y]))
    row, col = place
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line={"dash": "dot", "color": "grey"},
                       showlegend=False, row=row, col=col)  # fmt: skip
    figure.add_scatter(x=x.tolist(), y=y.tolist(), mode="markers", marker={"size": 4, "opacity": 0.5,
                       "color": "#4477aa"}, showlegend=False, row=row, col=col)  # fmt: skip
    figure.update_xaxes(title_text="recorded", row=row, col=col)
    figure.update_yaxes(title_text="replayed", row=row, col=col)
