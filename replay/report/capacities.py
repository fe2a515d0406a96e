"""Sections about capacity: what each configuration carries, and SLO attainment against the rate and against the SLO."""

from typing import Any

import polars as pl

from replay.report.folders import Study
from replay.report.names import shortened
from replay.report.parts import Column, Figure, Folded, Section, Table
from replay.report.style import Panels, run_styles, tier_colours

CARRIED = {
    "requests_per_s": "requests a second",
    "requests_per_s_per_gpu": "requests a second for each GPU",
    "requests_per_usd": "requests for each USD",
    "rate_scale": "times the trace's rate",
}
ATTAINMENT = "slo_attainment"
MOST_TIER_PANELS = 8


def sections(study: Study) -> list[Section]:
    """Return the sections of a capacity study, of those tables that it has."""
    study, same = shortened(study)
    names = dict.fromkeys(
        name for frame in study.tables.values() if "configuration" in frame.columns for name in frame["configuration"]
    )
    styles = run_styles(names)
    texts = [Folded(name, text) for name, text in study.texts.items()]
    return [
        _carried(study.tables["capacities"], styles, same),
        _curve(study, styles),
        _by_tier(study),
        _slo_curve(study, styles),
        Section("Configuration", "Files of the study; they open on a click.", texts),
    ]


def _carried(found: pl.DataFrame, styles: dict[str, tuple[str, str]], same: str) -> Section:
    shown = [key for key in CARRIED if key in found.columns and found[key].drop_nulls().len()]
    if len(shown) > 3 and "rate_scale" in shown:
        shown.remove("rate_scale")
    headings = {
        "configuration": "configuration",
        "rate_scale": "rate\nscale",
        "requests_per_s": "requests\n/s",
        "requests_per_s_per_gpu": "/s for\na GPU",
        "requests_per_usd": "requests\na USD",
    }
    columns = [Column(key, headings.get(key, key)) for key in found.columns]
    parts: list[Any] = [Table("capacities", found, columns, best=True)]
    if shown and "configuration" in found.columns:
        panels = Panels([CARRIED[key] for key in shown], columns=len(shown), panel_px=max(150, 60 + 30 * found.height))
        for panel, key in enumerate(shown):
            panels.add(
                panel,
                "",
                "bar",
                x=found[key].to_numpy(),
                y=found["configuration"].to_list(),
                orientation="h",
                marker={"color": [styles[name][0] for name in found["configuration"]]},
            )
            panels.axes(
                panel, {"rangemode": "tozero", "nticks": 5}, {"autorange": "reversed", "showticklabels": panel == 0}
            )
        parts.insert(0, Figure("capacity", panels.finish(bargap=0.35)))
    says = (
        "The highest rate at which each configuration keeps the share of requests that must meet their SLO; the "
        f"best of a column is bold.{same}"
    )
    return Section("Capacity", says, parts)


def _lines(
    panels: Panels, panel: int, found: pl.DataFrame, axes: tuple[str, str], styles: dict[str, tuple[str, str]]
) -> None:
    for name, (colour, dash) in styles.items():
        part = found.filter(pl.col("configuration") == name).drop_nulls(list(axes)).sort(axes[0])
        if part.height:
            panels.line(
                panel,
                name,
                part[axes[0]].to_numpy(),
                part[axes[1]].to_numpy(),
                color=colour,
                dash=dash,
                mode="lines+markers",
                marker={"size": 5, "color": colour},
            )


def _share(title: str) -> dict[str, Any]:
    return {"range": [-0.02, 1.04], "tickformat": ".0%", "dtick": 0.25, "title_text": title}


def _curve(study: Study, styles: dict[str, tuple[str, str]]) -> Section:
    found = study.tables.get("curve")
    if found is None or not {"configuration", "rate_scale", ATTAINMENT} <= set(found.columns):
        return Section("Attainment against the rate", "", [])
    panels = Panels(["SLO attainment by rate scale"], panel_px=300)
    _lines(panels, 0, found, ("rate_scale", ATTAINMENT), styles)
    panels.axes(0, {"title_text": "rate, times that of the trace"}, _share("requests that met their SLO"))
    says = (
        "Share of requests that met their SLO while the rate of the trace is scaled; dotted verticals: the capacities."
    )
    capacities = study.tables["capacities"]
    if {"configuration", "rate_scale"} <= set(capacities.columns):
        for name, scale in capacities.select("configuration", "rate_scale").drop_nulls().iter_rows():
            panels.add(
                0,
                "",
                "scatter",
                x=[scale, scale],
                y=[0, 1],
                mode="lines",
                hoverinfo="skip",
                line={"color": styles[name][0], "dash": "dot", "width": 1.2},
            )
    return Section("Attainment against the rate", says, [Figure("attainment by rate", panels.finish(), found)])


def _by_tier(study: Study) -> Section:
    """Return attainment by tier: a panel a configuration."""
    found = study.tables.get("curve")
    columns = [] if found is None else [name for name in found.columns if ATTAINMENT in name and name != ATTAINMENT]
    if found is None or not columns or not {"configuration", "rate_scale"} <= set(found.columns):
        return Section("Attainment by tier", "", [])
    tiers = {name: name.replace(ATTAINMENT, "").strip("._") for name in columns}
    colours = tier_colours(tiers.values())
    names = found["configuration"].unique(maintain_order=True).to_list()[:MOST_TIER_PANELS]
    panels = Panels(names, panel_px=220)
    for panel, name in enumerate(names):
        part = found.filter(pl.col("configuration") == name).sort("rate_scale")
        for column, tier in tiers.items():
            panels.line(
                panel,
                tier,
                part["rate_scale"].to_numpy(),
                part[column].to_list(),
                color=colours[tier],
                mode="lines+markers",
                marker={"size": 4, "color": colours[tier]},
            )
        panels.axes(panel, {"title_text": "rate scale"}, _share(""))
    says = "The same share by tier, a panel a configuration: the tier that falls first bounds what the cluster carries."
    return Section("Attainment by tier", says, [Figure("attainment by tier", panels.finish())])


def _slo_curve(study: Study, styles: dict[str, tuple[str, str]]) -> Section:
    found = study.tables.get("slo_curve")
    if found is None or not {"configuration", "slo_scale", ATTAINMENT} <= set(found.columns):
        return Section("Attainment against the SLO", "", [])
    panels = Panels(["SLO attainment by SLO scale"], panel_px=300)
    _lines(panels, 0, found, ("slo_scale", ATTAINMENT), styles)
    panels.axes(0, {"title_text": "targets, times those of the SLO"}, _share("requests that met the scaled SLO"))
    says = "Share of requests within targets that are scaled: below 1 they are stricter than promised, above 1 laxer."
    return Section("Attainment against the SLO", says, [Figure("attainment by SLO", panels.finish(), found)])
