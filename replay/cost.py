"""What a run costs, what it earns and what is left, overall and by tier: every number from prices and tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from replay import pipeline
from replay.attribution import input_share
from replay.energy import J_PER_KWH, energy_kwh
from replay.fabric import FRONT_END, KINDS
from replay.kv import DISK, DRAM, Kv
from replay.life import node_paid_s, paid_s
from replay.metrics import ARRIVED, FINISHED, SCHEDULED, SPAN_S, Value
from replay.prices import Prices
from replay.slo import Slo, Tier

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.session import Session

GIB, TIB, GB = 2.0**30, 2.0**40, 1e9
MILLION, S_PER_HOUR = 1e6, 3600.0
OF_A_SPAN = ("cost_usd", "input_cost_usd", "output_cost_usd", "usd_per_million_tokens", "usd_per_million_input_tokens",
             "usd_per_million_output_tokens")
Tally = Mapping[str, int]  # names of `TALLIED` -> tokens or requests


def _tokens(column: str, where: pl.Expr | None = None) -> pl.Expr:
    tokens = pl.col(column).cast(pl.Int64)
    return tokens if where is None else tokens * where


_MET = pl.col("slo_met") & ARRIVED
# What a request counts for, summed over those of a tier.
TALLIED: dict[str, pl.Expr] = {
    "requests": pl.lit(1, pl.Int64),
    "computed_tokens": (_tokens("prompt_tokens") - pl.col("hit_tokens")) * SCHEDULED,
    "generated_tokens": _tokens("generated_tokens"),
    "finished_input_tokens": _tokens("prompt_tokens", FINISHED),
    "finished_output_tokens": _tokens("generated_tokens", FINISHED),
    "sold_input_tokens": _tokens("prompt_tokens", _MET),
    "sold_cached_tokens": _tokens("hit_tokens", _MET),
    "sold_output_tokens": _tokens("generated_tokens", _MET),
    "missed": (ARRIVED & pl.col("slo_met").not_()).cast(pl.Int64),
}


def numbers(session: "Session", requests: pl.DataFrame) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return what a run adds to the summary about money and energy: overall, and by tier as "gold.cost_usd".

    session  : its cluster, prices, objectives and state, read only
    requests : one row a request
    returns  : usd_per_hour and usd_per_million_tokens, None where nothing has a price; what `cost`, `revenue` and
               `margin` say where there is a price; energy_kwh and joules_per_output_token where power is known
    """
    tallies = tally(requests)
    whole = total(tallies)
    cluster, prices = session.cluster, session.prices
    span_s = requests.select(SPAN_S).item() or 0.0
    instances = session.state.instances[: len(cluster.instances)]
    on_s = paid_s(session)
    kwh = energy_kwh(cluster, instances["busy_ps"], span_s if on_s is None else on_s, prices.pue)
    on = None if on_s is None or span_s <= 0 else on_s / span_s
    nodes_on = {role: paid / span_s for role, paid in node_paid_s(session).items()} if span_s > 0 else {}
    rates = usd_per_hour(cluster, prices, on, nodes_on)
    if span_s > 0:
        rates["network"] += traffic_usd(session, whole["generated_tokens"]) * S_PER_HOUR / span_s
        rates["electricity"] = (kwh or 0.0) * prices.electricity_usd_per_kwh * S_PER_HOUR / span_s
    found: dict[str, Value] = {"usd_per_hour": None, "usd_per_million_tokens": None}
    costs: dict[str, float] = {}
    if any(rates.values()):
        found |= cost(rates, span_s, input_share(cluster, instances, requests, on), whole)
        if found["cost_usd"] is not None:
            costs = by_tier(found["input_cost_usd"], found["output_cost_usd"], tallies)  # type: ignore[arg-type]
    earned = revenue(session.slo, tallies)
    found |= _balance(found.get("cost_usd"), sum(earned.values()) if earned else None)
    if kwh is not None:
        tokens = whole["finished_output_tokens"]
        found |= {"energy_kwh": kwh, "joules_per_output_token": kwh * J_PER_KWH / tokens if tokens else None}
    tiers = {f"{name}.{key}": value for name in session.slo.names
             for key, value in _balance(costs.get(name, 0.0) if costs else None, earned.get(name)).items()}  # fmt: skip
    return found, tiers


def tally(requests: pl.DataFrame) -> dict[str, Tally]:
    """Count what cost and revenue depend on, tier by tier.

    requests : one row a request: tier, status, arrival_ps, scheduled_ps, slo_met, prompt, hit and generated tokens
    returns  : tier -> names of `TALLIED`; tokens computed and generated count for every request that ran, sold ones
               for requests that met their targets
    """
    rows = requests.select("tier", **TALLIED).group_by("tier").sum().to_dicts()
    return {row.pop("tier"): row for row in rows}


def total(tallies: Mapping[str, Tally]) -> Tally:
    """Add the tallies of all tiers."""
    return {name: sum(one[name] for one in tallies.values()) for name in TALLIED}


def usd_per_hour(cluster: "Cluster", prices: Prices, on: np.ndarray | None = None,
                 nodes_on: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:  # fmt: skip
    """Return what a cluster costs an hour whatever it does, part by part; nodes that leave by kv.changes are paid for.

    on      : time that each instance was paid, as a share of the span; None for all of it
    nodes_on : the same of shared DRAM nodes ("memory") and of servers of the store for all ("storage")
    gpu     : instances, as their hardware says
    cpu     : cores of GPUs' hosts, of shared DRAM nodes, storage servers and index shards
    dram    : of the blocks that shared nodes and hosts hold below the HBM
    ssd     : local SSDs and the store for all, as large as configured: copies and compression change nothing, nor do
              the servers that are on
    network : ports of the fabric
    stages  : servers of the stages beside the transformer, only where there are any
    """
    kv, fabric = cluster.kv, cluster.fabric
    shares = np.ones(len(cluster.instances)) if on is None else on
    cores = prices.cores_per_gpu * sum(share * instance.profile.gpus
                                       for share, instance in zip(shares.tolist(), cluster.instances, strict=True))
    below = _below_hbm(kv, prices, nodes_on or {}) if kv is not None else {"cores": 0.0, "dram": 0.0, "ssd": 0.0}
    cores += below.pop("cores")
    stages = {"stages": pipeline.usd_per_hour(cluster.stages, prices.cpu_usd_per_core_hour)} if cluster.stages else {}
    return stages | {
        "gpu": sum(share * instance.profile.price_per_hour
                   for share, instance in zip(shares.tolist(), cluster.instances, strict=True)),
        "cpu": cores * prices.cpu_usd_per_core_hour,
        **below,
        "network": fabric.price_per_hour if fabric is not None else 0.0,
        "electricity": 0.0,
    }


def _below_hbm(kv: Kv, prices: Prices, nodes_on: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return what the hierarchy costs an hour: its cores, and its DRAM and SSDs in USD."""
    shares = {role: nodes_on.get(role, np.ones(count)) for role, count in kv.nodes.items()}
    found = {"cores": (prices.cores_per_dram_node * float(shares["memory"].sum())
                       + prices.cores_per_storage_server * float(shares["storage"].sum())
                       + prices.cores_per_index_shard * kv.index.shards), "dram": 0.0, "ssd": 0.0}  # fmt: skip
    for store in kv.stores:
        size_bytes = float(store.blocks * kv.block_bytes)
        own = store.server < 0 <= store.node  # its node may be off
        paid_bytes = size_bytes * (float(shares["memory"][store.node]) if own else 1.0)
        if store.tier == DRAM:
            price = prices.dram_usd_per_gib_hour if store.server < 0 else prices.host_dram_usd_per_gib_hour
            found["dram"] += price * paid_bytes / GIB
        elif store.tier == DISK:
            price = prices.store_usd_per_tib_hour if store.node < 0 else prices.ssd_usd_per_tib_hour
            found["ssd"] += price * paid_bytes / TIB
    return found


def traffic_usd(session: "Session", generated_tokens: int) -> float:
    """Return what the bytes of a run cost: text sent to users, and the cluster's traffic on a front-end network."""
    prices = session.prices
    usd = prices.egress_usd_per_gb * generated_tokens * prices.token_bytes / GB
    if prices.front_end_usd_per_gb and session.cluster.fabric is not None:
        sent = sum(int(row["delivered_bytes"]) for kind, row in zip(KINDS, session.state.wires.kinds, strict=True)
                   if kind != "background" and row["network"] == FRONT_END)  # fmt: skip
        usd += prices.front_end_usd_per_gb * sent / GB
    return usd


def cost(rates: Mapping[str, float], span_s: float, share: float, whole: Tally) -> dict[str, Value]:
    """Return the cost of a run and of its tokens.

    rates   : USD an hour by part, what was paid by use spread over the span
    share   : of the cost that input tokens caused, as `input_share`
    returns : usd_per_hour and its parts, cost_usd = input_cost_usd + output_cost_usd, usd_per_million_tokens (all of
              it for a million output tokens), and what a million input tokens (cached ones too) and output tokens cost
              by the split; tokens are those of finished requests. None where nothing finished
    """
    hourly = sum(rates.values())
    found: dict[str, Value] = {"usd_per_hour": hourly}
    found |= {f"usd_per_hour_{part}": rate for part, rate in rates.items()}
    if span_s <= 0:
        return found | dict.fromkeys(OF_A_SPAN)
    whole_usd = hourly * span_s / S_PER_HOUR
    input_usd = whole_usd * share
    output_usd = whole_usd - input_usd
    inputs, outputs = whole["finished_input_tokens"], whole["finished_output_tokens"]
    per_million = [usd / tokens * MILLION if tokens else None
                   for usd, tokens in ((whole_usd, outputs), (input_usd, inputs), (output_usd, outputs))]  # fmt: skip
    return found | dict(zip(OF_A_SPAN, (whole_usd, input_usd, output_usd, *per_million), strict=True))


def by_tier(input_usd: float, output_usd: float, tallies: Mapping[str, Tally]) -> dict[str, float]:
    """Return the cost of each tier: input by prompt tokens computed, output by tokens generated, finished or not.

    Where no token was computed, or none generated, that part is shared by number of requests.
    """
    costs = dict.fromkeys(tallies, 0.0)
    for usd, name in ((input_usd, "computed_tokens"), (output_usd, "generated_tokens")):
        by = name if any(one[name] for one in tallies.values()) else "requests"
        whole = sum(one[by] for one in tallies.values())
        for tier, one in tallies.items():
            costs[tier] += usd * one[by] / whole if whole else 0.0
    return costs


def revenue(slo: Slo, tallies: Mapping[str, Tally]) -> dict[str, float]:
    """Return what each tier earned, USD; nothing where no tier has a price or a penalty.

    A request that met its targets pays input_price_usd for a million prompt tokens, cached_price_usd for those of them
    that were found cached, and price_usd for a million output tokens; every other one that arrived costs penalty_usd.
    """
    if not any(_sells(tier) for tier in slo.tiers):
        return {}
    none = dict.fromkeys(TALLIED, 0)
    return {tier.name: _earned(tier, tallies.get(tier.name, none)) for tier in slo.tiers}


def _sells(tier: Tier) -> bool:
    return bool(tier.price_usd or tier.penalty_usd or tier.input_price_usd or tier.cached_price_usd)


def _earned(tier: Tier, sold: Tally) -> float:
    cached_price_usd = tier.input_price_usd if tier.cached_price_usd is None else tier.cached_price_usd
    paid = (tier.price_usd * sold["sold_output_tokens"] + cached_price_usd * sold["sold_cached_tokens"]
            + tier.input_price_usd * (sold["sold_input_tokens"] - sold["sold_cached_tokens"]))  # fmt: skip
    return paid / MILLION - tier.penalty_usd * sold["missed"]


def _balance(cost_usd: Any, revenue_usd: float | None) -> dict[str, Value]:
    """Return cost, revenue and what is left, those that are known; margin is a share of revenue."""
    found: dict[str, Value] = {} if cost_usd is None else {"cost_usd": cost_usd}
    if revenue_usd is None:
        return found
    found["revenue_usd"] = revenue_usd
    if cost_usd is None:
        return found
    left = revenue_usd - cost_usd
    return found | {"margin_usd": left, "margin": left / revenue_usd if revenue_usd > 0 else None,
                    "margin_of_cost": left / cost_usd if cost_usd > 0 else None}  # fmt: skip
