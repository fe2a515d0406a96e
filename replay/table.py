"""Show results in a terminal: the metrics of one run by tier, and the comparison of many."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from replay.columns import (
    COLUMNS,
    COMPARED,
    COMPARED_FABRIC,
    COMPARED_FAILURES,
    COMPARED_LIFE,
    COMPARED_NODES,
    COMPARED_SPECULATION,
    COMPARED_STAGES,
    COMPARED_TIERS,
    LEAST_PART,
    PARTS,
    SOLD,
)
from replay.fabric import KINDS
from replay.metrics import HIGHER, Value, better

PIPED_WIDTH = 100


def number(value: Any, factor: float = 1) -> str:
    """Write a number with about three significant digits, a count with all; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) and factor == 1:
        return f"{value:,}"
    scaled = value * factor
    if scaled == 0 or abs(scaled) >= 100:
        return f"{scaled:,.0f}"
    if abs(scaled) >= 10:
        return f"{scaled:.1f}"
    return f"{scaled:.3f}" if abs(scaled) >= 0.01 else f"{scaled:.2g}"


def by_tier(summary: Mapping[str, Value]) -> Table:
    """Make the table of one run: a row for all requests, then one for each tier.

    summary : as `replay.metrics.summary` returns
    """
    table = plain_table(gap=1)
    table.add_column("tier", no_wrap=True)
    table.add_column("requests", justify="right", no_wrap=True)
    columns = COLUMNS + (SOLD if "revenue_usd" in summary else ())
    for heading, _, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    tiers = [key.removesuffix(".requests") for key in summary if key.endswith(".requests")]
    for label, prefix in [("all", ""), *((tier, f"{tier}.") for tier in tiers if len(tiers) > 1)]:
        cells = [number(summary.get(prefix + key), factor) for _, key, factor in columns]
        table.add_row(label, f"{summary[prefix + 'requests']:,}", *cells)
    return table


def hierarchy(summary: Mapping[str, Value]) -> list[RenderableType]:
    """Say what the tiers of a KV hierarchy did for a run; nothing without one."""
    if "hit_rate_hbm" not in summary:
        return []
    rates = ", ".join(f"{number(summary[f'hit_rate_{name}'])} from {label}" for name, label in
                      (("hbm", "HBM"), ("dram", "DRAM"), ("disk", "disk")))  # fmt: skip
    lines = [f"hit rate {number(summary['hit_rate'])}: {rates}"]
    if summary["loads"]:
        hidden = summary["hidden_share"]
        share = f", {100 * hidden:.1f} % of their time hidden" if isinstance(hidden, float) else ""
        came = f"{summary['loads_used']:,} in time"
        lines[0] += f"; {summary['loads']:,} loads of {number(summary['load_s_mean'])} s on average, {came}{share}"
    moved = (("load_dram_gb", "loaded from DRAM"), ("load_disk_gb", "loaded from disk"), ("write_gb", "written"),
             ("spill_gb", "spilled to disk"), ("compaction_write_gb", "rewritten by compaction"),
             ("write_dropped_gb", "not written (links busy)"), ("lost_gb", "lost"))  # fmt: skip
    parts = [f"{number(summary[key])} GB {label}" for key, label in moved if summary[key]]
    amplified = [f"{name} amplification {number(summary[f'{name}_amplification'])}"
                 for name in ("write", "space", "read") if summary[f"{name}_amplification"]]  # fmt: skip
    if summary["lookup_s_p99"]:
        mean, most = (number(summary[f"lookup_s_{name}"], 1e6) for name in ("mean", "p99"))
        parts.append(f"lookups {mean} us, p99 {most} us")
    return ["", *lines, *([", ".join(parts + amplified)] if parts else [])]


def money(summary: Mapping[str, Value]) -> list[RenderableType]:
    """Say what a run cost and earned, where something has a price, and what energy it took, where power is known."""
    lines = [""]
    if summary.get("cost_usd") is not None:
        hourly = float(summary["usd_per_hour"] or 0.0)
        paid = [f"{label} {number(rate)}" for part, label in PARTS.items()
                if (rate := float(summary.get(f"usd_per_hour_{part}") or 0.0)) >= LEAST_PART * hourly]  # fmt: skip
        of = f": {', '.join(paid)}" if len(paid) > 1 else ""
        tokens = [f"${number(summary[f'usd_per_million_{kind}_tokens'])} for 1M {kind} tokens"
                  for kind in ("input", "output") if summary[f"usd_per_million_{kind}_tokens"] is not None]  # fmt: skip
        lines.append(", ".join([f"cost ${number(summary['cost_usd'])} (${number(hourly)} an hour{of})", *tokens]))
    left = []
    if summary.get("margin_usd") is not None:
        usd, share = float(summary["margin_usd"] or 0.0), number(summary["margin_of_cost"], 100)
        left.append(f"margin {'-' if usd < 0 else ''}${number(abs(usd))}, {share} % of cost")
    if summary.get("joules_per_output_token") is not None:
        left.append(f"{number(summary['energy_kwh'])} kWh, {number(summary['joules_per_output_token'])} J for an "
                    f"output token")  # fmt: skip
    lines += ["; ".join(left)] if left else []
    return list(lines) if len(lines) > 1 else []


def predicted(summary: Mapping[str, Value]) -> list[RenderableType]:
    """Say how good the predictions were that policies could read; nothing without any."""
    if "prediction_mae_tokens" not in summary:
        return []
    return ["", f"predictions: tau {number(summary['prediction_tau'])}, off by "
                f"{number(summary['prediction_mae_tokens'])} tokens on average"]


def fabric(summary: Mapping[str, Value]) -> list[RenderableType]:
    """Say what a fabric carried for a run; nothing without one."""
    if "fabric_ports" not in summary:
        return []
    lines = [""]
    for kind in (kind for kind in KINDS if f"{kind}_gb" in summary):
        size, took, queued = (number(summary[f"{kind}_{name}"])
                              for name in ("gb", "transfer_s_mean", "queueing_s_mean"))  # fmt: skip
        lines.append(f"{kind}: {size} GB, {took} s a transfer, {queued} s of that queueing")
    hidden = summary["handoff_hidden_share"]
    if isinstance(hidden, float):
        lines.append(f"handoffs expose {number(summary['exposed_handoff_s_mean'])} s on average, "
                     f"{number(summary['exposed_handoff_s_p99'])} s at p99; {100 * hidden:.1f} % of their time hidden")
    used = [f"{key.removesuffix('_utilisation_max')} {number(summary[key])}" for key in summary
            if key.endswith("_utilisation_max")]  # fmt: skip
    lines.append(f"busiest links: {', '.join(used)} of their bandwidth; prefill to decode "
                 f"{number(summary['bisection_gb_per_s'])} GB/s at most")
    return list(lines)


def life(summary: Mapping[str, Value]) -> list[RenderableType]:
    """Say what instances that come, go and fail did in a run; nothing where all are there all the time."""
    if "gpu_hours" not in summary:
        return []
    hours, whole = float(summary["gpu_hours"] or 0.0), float(summary["gpu_hours_all_on"] or 0.0)
    saved = f", {100 * (1 - hours / whole):.1f} % less than all on" if whole else ""
    lines = [f"{number(hours)} GPU-hours{saved}; {summary['instances_started']:,} starts, "
             f"{number(summary['misses_while_starting'])} SLO misses while one was starting; "
             f"{number(summary['cached_tokens_shrunk'])} cached tokens lost by shrinking"]  # fmt: skip
    if summary["instance_failures"]:
        cached = float(summary["cached_tokens_lost"] or 0) - float(summary["cached_tokens_shrunk"] or 0)
        lines.append(f"{summary['instance_failures']:,} failures of instances, availability "
                     f"{number(summary['availability'])}; {summary['lost_requests']:,} requests lost, "
                     f"at most {summary['losses_of_a_failure_max']:,} at once, "
                     f"{number(summary['recovery_s_mean'])} s until they were routed again, "
                     f"{number(summary['recomputed_tokens'])} tokens computed again, "
                     f"{number(summary['restored_tokens'])} restored, "
                     f"{number(summary['regenerated_tokens'])} generated again, {number(cached)} cached ones lost")
    if "memory_node_hours" in summary:
        lines.append(f"{number(summary['memory_node_hours'])} hours of shared DRAM nodes; "
                     f"{number(summary['memory_tokens_shrunk'])} tokens of KV on those that were switched off, "
                     f"{number(summary['memory_tokens_moved'])} sent to others first")
    if "storage_node_hours" in summary:
        lines.append(f"{number(summary['storage_node_hours'])} hours of storage servers")
    return ["", *lines]


def stages(summary: Mapping[str, Value]) -> list[RenderableType]:
    """Say what the stages beside the transformer did and which binds; nothing without any."""
    decoder = "stage.decoder.binds_share"
    if decoder not in summary:
        return []
    lines = [""]
    for key in (key.removesuffix(".utilisation") for key in summary if key.startswith("stage.") and ".util" in key):
        queue, service, batch = (number(summary[f"{key}.{name}"])
                                 for name in ("queue_s_mean", "service_s_mean", "batch_mean"))  # fmt: skip
        busy, binds, first = (number(summary[f"{key}.{name}"], 100)
                              for name in ("utilisation", "binds_share", "binds_first_share"))  # fmt: skip
        lines.append(f"stage {key.removeprefix('stage.')}: {busy} % busy, {queue} s in its queue and {service} s in "
                     f"batches of {batch} on average, binds {binds} % of requests and {first} % of first tokens")
    first = number(summary["stage.decoder.binds_first_share"], 100)
    return [*lines, f"the decoder binds {number(summary[decoder], 100)} % and {first} %"]


def speculation(summary: Mapping[str, Value]) -> list[RenderableType]:
    """Say what came of drafted tokens; nothing without any."""
    if not summary.get("draft_tokens"):
        return []
    return ["", f"{number(summary['tokens_per_iteration'])} tokens a request and iteration: of "
                f"{summary['draft_tokens']:,} drafted tokens {number(summary['acceptance_rate'], 100)} % accepted, "
                f"{summary['wasted_draft_tokens']:,} wasted"]


def totals(summary: Mapping[str, Value]) -> str:
    """Say in one line what became of the requests and how fast the replay was."""
    counts = [f"{summary[name]:,} {name}" for name in ("finished", "rejected", "unfinished", "failed") if summary[name]]
    speed = summary["requests_per_s"]
    pace = f"{speed:,.0f} requests/s" if isinstance(speed, float) else "no time measured"
    took = f"{summary['events']:,} events in {number(summary['kernel_s'])} s of kernel time ({pace})"
    return f"{summary['requests']:,} requests: {', '.join(counts) or 'none arrived'}; {took}"


def comparison(rows: Sequence[Mapping[str, Any]], varying: Mapping[str, str]) -> Table:
    """Make the table of a multirun: what varied, then the key metrics, the best of each in bold.

    rows    : one a run: "run", the columns that `varying` names, and the keys of a summary, None for a failed run
    varying : override that differs between the runs -> its column in the rows
    """
    table = plain_table(gap=1)
    table.add_column("run", justify="right", no_wrap=True)
    for name in varying:
        table.add_column(name.replace("policy/", "policy/\n").replace("policy.", "policy.\n"), no_wrap=True)
    compared: tuple[tuple[str, str, float], ...] = COMPARED
    optional = {"hit_rate_hbm": COMPARED_TIERS, "fabric_ports": COMPARED_FABRIC,
                "stage.decoder.binds_share": COMPARED_STAGES, "gpu_hours": COMPARED_LIFE,
                "memory_node_hours": COMPARED_NODES[:1], "storage_node_hours": COMPARED_NODES[1:],
                "draft_tokens": COMPARED_SPECULATION}
    for key, more in optional.items():
        if any(row.get(key) is not None for row in rows):
            compared += tuple(column for column in more if column not in compared)
    if any(row.get("instance_failures") for row in rows):
        compared += tuple(column for column in COMPARED_FAILURES if any(column[1] in row for row in rows))
    for heading, *_ in compared:
        table.add_column(heading, justify="right", no_wrap=True)
    best = {key: _best([row.get(key) for row in rows], better(key)) for _, key, _ in compared}
    for row in rows:
        cells = []
        for _, key, factor in compared:
            value = row.get(key)
            cells.append(Text(number(value, factor), "bold" if value is not None and value == best[key] else ""))
        names = [Text(str(row[name] or "-")) for name in varying.values()]
        table.add_row(str(row["run"]), *names, *cells)
    return table


def show(*parts: RenderableType, stderr: bool = False) -> None:
    """Print to the terminal; a table keeps its full width, so that a pipe or a narrow window never loses a digit."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    width = console.width if console.is_terminal else max(PIPED_WIDTH, shutil.get_terminal_size((0, 0)).columns)
    wide = Console(stderr=stderr, highlight=False, width=10_000)
    for part in parts:
        if isinstance(part, Table):
            width = max(width, Measurement.get(wide, wide.options, part).maximum)
    console.width = width
    for part in parts:
        console.print(part, soft_wrap=not isinstance(part, Table), markup=False)


def plain_table(*headings: str, left: int = 1, gap: int = 2) -> Table:
    """Make an empty table of the look of all: a line below the headings, no cell broken.

    left : columns, the first ones, whose cells stand on the left; numbers stand on the right
    gap  : blanks between columns
    """
    made = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False)
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="left" if place < left else "right", no_wrap=True)
    return made


def _best(values: Sequence[Any], way: int) -> Any:
    """Return the best value, None where the runs do not differ: bold would mean nothing."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return None
    return max(known) if way == HIGHER else min(known)
