"""The way into the twin: a trace, a cluster and policies in, lists in trace order out."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from predictors import Predictions, given
from replay.cluster import Cluster
from replay.engine.life_rows import plan_of
from replay.hardware.units import ps
from replay.policy import Chosen
from replay.slo import Slo
from tests.twin.asking import Desk
from tests.twin.learning import Seer
from tests.twin.lives import Lives
from tests.twin.model import Twin
from tests.twin.network import Network
from tests.twin.reading import requests_of
from tests.twin.stages import Stages
from traces.schema import Trace


def run(
    trace: Trace,
    cluster: Cluster,
    policies: Mapping[str, Chosen],
    seed: int = 0,
    tiers: Sequence[str] = (),
    predictions: Predictions | Sequence[int] | None = None,
    slo: Slo | None = None,
) -> dict[str, Any]:
    """Replay a trace naively.

    policies    : slot -> Chosen, all six slots of instances; `fetch` and `write` load and write everything if absent
    tiers       : tier labels by urgency; empty gives every request tier 0
    predictions : Predictions, or predicted output tokens by row
    slo         : targets of the tiers, shares of the tenants; None promises nothing
    returns     : the fields of requests.parquet and HIERARCHY_FIELDS in ps, lists in trace order; `gaps` by tier,
                  sorted; `events`; `stores`: name -> list in the order of the stores, empty without `Cluster.kv`
    """
    predicted = given(predictions)
    twin = Twin(cluster, requests_of(trace, cluster, seed, tiers, predicted), policies, max(1, len(tiers)))
    twin.seer = Seer(twin, trace, predicted, 0 if predicted is None else ps(predicted.inference_s))
    twin.desk = Desk(twin, slo, policies["order"], list(trace.labels("tenant")) if "tenant" in trace else [])
    if cluster.fabric is not None:
        twin.network = Network(cluster.fabric, twin, seed, longest_bytes(trace, cluster))
    if cluster.life is not None:
        failures = plan_of(cluster.life, cluster, trace, seed)
        twin.lives = Lives(twin, cluster.life, failures, least_targets(slo))
    twin.stages = Stages(twin, trace, cluster.stages) if cluster.stages else None
    while twin.step():
        twin.check()
    twin.check_end()
    return twin.results()


def least_targets(slo: Slo | None) -> tuple[float, float]:
    """Return the least TTFT target of any tier, and the least of a mean time a token, inf for none."""
    tiers = list(slo.tiers) if slo is not None else []
    ttft = [tier.ttft_s for tier in tiers if tier.ttft_s is not None]
    token = [value for tier in tiers for value in (tier.tpot_s, tier.itl_s) if value is not None]
    return min(ttft, default=inf), min(token, default=inf)


def longest_bytes(trace: Trace, cluster: Cluster) -> int:
    """Return the most bytes that a transfer of a run can have, as FABRIC.md says."""
    fabric = cluster.fabric
    assert fabric is not None
    context = int((trace.column("prompt_tokens") + trace.column("output_tokens")).max())
    token_bytes = max(instance.profile.kv_token_bytes for instance in cluster.instances)
    sizes = [2**20, context * token_bytes, context * fabric.request_token_bytes]
    sizes += [background.bytes for background in fabric.background]
    if fabric.exchange_group > 1:
        budget = max(*(instance.token_budget for instance in cluster.instances), context)
        sizes.append(budget * fabric.exchange_token_bytes)
    return max(sizes)
