"""Sections about what a run keeps and carries: the KV hierarchy and the fabric, where it has them."""

import polars as pl

from replay.report.folders import Run
from replay.report.looks import Looks
from replay.report.parts import Column, Figure, Section, Table
from replay.report.style import PALETTE, Panels

HOLDERS = {"hbm": "HBM", "dram": "DRAM", "disk": "disk"}
MOST_LINKS = 20


def sections(looks: Looks) -> list[Section]:
    """Return the sections of KV tiers and of the fabric."""
    made = []
    for name, section in (("stores", _hierarchy), ("links", _fabric)):
        having = [run for run in looks.runs if name in run.tables]
        made += [section(run, looks) for run in having]
    return made


def _titled(title: str, run: Run, looks: Looks) -> str:
    return title if looks.alone else f"{title}: {run.label}"


def _hierarchy(run: Run, looks: Looks) -> Section:
    parts: list[Figure | Table] = []
    occupancy = run.tables.get("occupancy")
    if occupancy is not None and occupancy.height:
        panels = Panels(["KV blocks resident, by tier"], panel_px=240)
        for (prefix, name), colour in zip(HOLDERS.items(), PALETTE, strict=False):
            columns = [column for column in occupancy.columns if column.startswith(f"{prefix}_")]
            total = (
                occupancy.select(pl.sum_horizontal(columns)).to_series() if columns else pl.Series([], dtype=pl.Int64)
            )
            if total.sum():
                panels.line(0, name, looks.time(occupancy["time_s"]), total.to_numpy(), color=colour, shape="hv")
        panels.axes(0, {"title_text": looks.time_title}, {"rangemode": "tozero"})
        parts.append(Figure(f"occupancy {run.label}", panels.finish(), occupancy))
    stores = run.tables["stores"]
    sums = [name for name in stores.columns if name.endswith("_gb") or name in ("reads", "writes")]
    shown = ["tier", "stores", *(name for name in sums if stores[name].sum())]
    totals = stores.group_by("tier", maintain_order=True).agg(pl.len().alias("stores"), pl.col(sums).sum())
    parts.append(
        Table(
            f"stores {run.label}", totals.select(shown), [Column(name, name.replace("_gb", "\nGB")) for name in shown]
        )
    )
    says = "What the tiers below the HBM of instances held and moved, in GB, summed over the stores of a tier."
    return Section(_titled("KV hierarchy", run, looks), says, parts)


def _fabric(run: Run, looks: Looks) -> Section:
    parts: list[Figure | Table] = []
    network = run.tables.get("network")
    if network is not None and network.height:
        panels = Panels(["use of the links of a group, share of their bandwidth"], panel_px=240)
        groups = [name for name in network.columns if name.endswith("_utilisation") and network[name].sum()]
        for name, colour in zip(groups, PALETTE * 3, strict=False):
            panels.line(
                0,
                name.removesuffix("_utilisation"),
                looks.time(network["time_s"]),
                network[name].to_numpy(),
                color=colour,
                shape="vh",
                width=1.4,
            )
        panels.axes(0, {"title_text": looks.time_title}, {"rangemode": "tozero", "tickformat": "~%"})
        parts.append(Figure(f"network {run.label}", panels.finish(), network))
    traffic = run.tables.get("traffic")
    if traffic is not None:
        columns = [
            Column("kind", "kind"),
            Column("transfers", "transfers"),
            Column("gb", "GB"),
            Column("mean_s", "mean\nms", 1e3),
            Column("queueing_s", "of that\nqueueing ms", 1e3),
            Column("longest_s", "longest\nms", 1e3),
        ]
        present = [column for column in columns if column.key in traffic.columns]
        busy = traffic.filter(pl.col("transfers") > 0) if "transfers" in traffic.columns else traffic
        parts.append(Table(f"traffic {run.label}", busy, present))
    links = run.tables["links"]
    if {"link", "utilisation"} <= set(links.columns):
        parts.append(Table(f"busiest links {run.label}", links.sort("utilisation", descending=True), most=MOST_LINKS))
    says = f"What the network carried: transfers by kind of traffic, and the {MOST_LINKS} busiest links."
    return Section(_titled("Fabric", run, looks), says, parts)
