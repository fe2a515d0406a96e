"""Build the kernel's state from a trace, a cluster and policies."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine import schema
from replay.engine.adapters import tunables
from replay.engine.asking_rows import CHANGING, asking_of, count_waiting, note_questions
from replay.engine.cache_rows import cache_of, foresight
from replay.engine.drafting_rows import copy_drafting, drafting_of
from replay.engine.hierarchy import extend, hierarchy_of, no_hierarchy, settings_of
from replay.engine.learning_schema import LEARNING
from replay.engine.life_rows import CHANGING as CHANGING_LIVES
from replay.engine.life_rows import lives_of, no_lives
from replay.engine.request_rows import jobs_of, requests_of
from replay.engine.schema import NEVER_PS, NONE, Cost, State
from replay.engine.stage_rows import copy_pipeline, no_pipeline, pipeline_of
from replay.engine.state import in_lines
from replay.engine.tree import empty_tree, plain_set_event
from replay.engine.wires import copy_wires, no_wires, wires_of
from replay.errors import PolicyError
from replay.hardware import nominal
from replay.hardware.units import fs, ps
from replay.policy import MAX_TUNABLES, Chosen
from traces.jit import INTERPRETED

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.slo import Slo
    from traces import Trace

LOG_CAPACITY = 1 << 16
EVICT_READS = frozenset({"first_used_ps", "score", "tier", "examined", "clock", "total_blocks", "inserted_blocks",
                         "evicted_blocks", "next_use", "group_share", "group_reuse_s", "uses_since"})
LINK_SIGNALS = frozenset({"transfer_s", "link_flows", "link_utilisation"})
COUNTS = frozenset({"free_blocks", "cached_blocks", "kv_tokens", "in_flight"})
PACE = frozenset({"kv_tokens", "least_itl_s", "slack_s"})


def state_of(
    trace: "Trace", cluster: "Cluster", chosen: Mapping[str, Chosen], slo: "Slo", options: Mapping[str, Any]
) -> State:
    """Return the state before the first event.

    options : seed, leap, events, gaps, predictions (output tokens expected per request, or None), trie
    raises  : TraceError for a closed loop whose parent is not an earlier row
    """
    requests, jobs = requests_of(trace, slo, options), jobs_of(trace, options["trie"], cluster.prefix_cache)
    views, instances, cost = _instances(cluster)
    num_instances, num_prefill = len(views), int((views["role"] != schema.DECODE).sum())
    views, instances = extend(cluster, views, instances)  # the rows after the instances are the stores
    tiered = cluster.kv is not None
    first_decode = int((views["role"] == schema.PREFILL).sum())
    widest = max(instance.max_batch for instance in cluster.instances)
    num_tiers = max(1, len(slo.names))
    leaves = 1
    more = 3 + num_instances if cluster.migrate_ps else 2 if cluster.fabric is not None else tiered
    more = 4 + num_instances if cluster.life is not None else more
    more = 5 + num_instances if cluster.stages else more
    while leaves < 2 * num_instances + more:
        leaves *= 2
    row = _cluster(trace, cluster, chosen, options, (num_instances, num_prefill, first_decode))
    asking = asking_of(trace, slo, row, views[:num_instances], options)
    shown = asking.told if row["signals"][0] else views
    state = State(
        cluster=row,
        requests=requests,
        jobs=jobs,
        views=views,
        prefill_views=shown[:num_prefill],
        decode_views=shown[first_decode:num_instances],
        instances=instances,
        batch=np.zeros((num_instances, 4, widest), np.int64),
        growth=np.zeros((num_instances, cluster.block_tokens), np.int32),
        tiers=np.zeros((num_instances, num_tiers), np.int32),
        tree=empty_tree(leaves),
        histogram=np.zeros((num_tiers, schema.BINS), np.int64),
        gaps=np.zeros(_gaps(jobs) if options["gaps"] else 1, np.int64),
        gap_first=_gap_first(jobs) if options["gaps"] else np.zeros(1, np.int64),
        tunables=tunables(dict(chosen), len(asking.shares) - 1),
        log=np.zeros(LOG_CAPACITY if options["events"] else 1, schema.EVENT),
        cache=cache_of(options["trie"], cluster, instances, views, num_prefill, foresight(trace, chosen, options)),
        cost=cost,
        hierarchy=no_hierarchy(),
        wires=no_wires(),
        asking=asking,
        lives=no_lives(),
        pipeline=pipeline_of(trace, cluster.stages, options["seed"], num_tiers) if cluster.stages else no_pipeline(),
        speculation=drafting_of(cluster.speculation, len(trace)),
        policies=None,
    )
    if tiered:
        state = state._replace(hierarchy=hierarchy_of(trace, cluster, state, options))
    if cluster.fabric is not None:
        state = state._replace(wires=wires_of(trace, cluster, state, {**options, **_reads_links(chosen)}))
    if cluster.life is not None:
        ttft_s, tpot_s, itl_s = (float(asking.targets[name].min()) for name in ("ttft_s", "tpot_s", "itl_s"))
        targets = (ttft_s, min(tpot_s, itl_s))
        state = state._replace(lives=lives_of(trace, cluster, state, {"seed": options["seed"], "targets": targets}))
    if cluster.migrate_ps:
        plain_set_event(state.tree, 3 * num_instances + 2, cluster.migrate_ps)
    mark_special(state.cluster)
    return _records(state) if INTERPRETED else state


def _gaps(jobs: np.ndarray) -> int:
    """Return how many gaps between tokens there will be if every request finishes."""
    return max(1, int((jobs["output_tokens"].astype(np.int64) - 1).sum()))


def _gap_first(jobs: np.ndarray) -> np.ndarray:
    """Return where the gaps of each request begin, int64 (num_requests,)."""
    counts = jobs["output_tokens"].astype(np.int64) - 1
    return np.cumsum(counts) - counts


def _records(state: State) -> State:
    """Give the arrays attribute access, as compiled code has it."""
    def view(array: Any) -> Any:
        if isinstance(array, tuple):
            return type(array)(*map(view, array))
        return array.view(np.recarray) if array is not None and array.dtype.names else array

    return view(state)


def copy(state: State) -> State:
    """Return a state that goes its own way: every array copied, read-only ones shared."""
    views = state.views.copy()
    num_prefill, num_decode = len(state.prefill_views), len(state.decode_views)
    changed = {name: getattr(state, name).copy() for name in
               ("cluster", "requests", "jobs", "instances", "batch", "growth", "tiers", "tree", "histogram", "log",
                "tunables", "gaps")}
    own = ("slot_of", "pasts", "prefix", "queue", "next_use", "classes")
    slots = in_lines(len(state.cache.slots), schema.SLOT).view(type(state.cache.slots))
    slots[:] = state.cache.slots
    cache = state.cache._replace(slots=slots, **{name: getattr(state.cache, name).copy() for name in own})
    hierarchy = type(state.hierarchy)(*(array.copy() for array in state.hierarchy))
    wires = copy_wires(state.wires)
    pipeline = copy_pipeline(state.pipeline)
    asking = state.asking._replace(**{name: getattr(state.asking, name).copy() for name in CHANGING})
    lives = state.lives._replace(**{name: getattr(state.lives, name).copy() for name in CHANGING_LIVES})
    shown = asking.told if state.cluster["signals"][0] else views
    num_instances = int(state.cluster["num_instances"][0])
    return state._replace(**changed, views=views, prefill_views=shown[:num_prefill], hierarchy=hierarchy, wires=wires,
                          decode_views=shown[num_instances - num_decode : num_instances], cache=cache, asking=asking,
                          lives=lives, pipeline=pipeline, speculation=copy_drafting(state.speculation))


def _cluster(trace: "Trace", cluster: "Cluster", chosen: Mapping[str, Chosen], options: Mapping[str, Any],
             counts: tuple[int, int, int]) -> np.ndarray:
    row = np.zeros(1, schema.CLUSTER)
    row["num_requests"] = len(trace)
    row["num_instances"], row["num_prefill"], row["first_decode"] = counts
    for name in ("passed", "held", "turns", "stop_at", "forced"):
        row[name] = NONE
    row["leap"], row["log"], row["gaps"] = options["leap"], options["events"], options["gaps"]
    row["cache"] = cluster.prefix_cache and len(options["trie"].parent) > 0
    row["outputs"] = row["cache"][0] and cluster.cache_outputs
    block_tokens = cluster.block_tokens
    row["block_shift"] = block_tokens.bit_length() - 1 if block_tokens.bit_count() == 1 else NONE
    row["layerwise"] = cluster.layerwise
    row["fabric"] = cluster.fabric is not None
    row["signals"], row["signal_lag_ps"] = cluster.signal_lag_ps > 0, cluster.signal_lag_ps
    row["in_step"], row["plans_ahead"] = cluster.ranks > 1, cluster.plan_ahead
    row["pooled"], row["staged"] = cluster.mixed_pool, bool(cluster.stages)
    row["lives"] = cluster.life is not None
    row["draft_tokens"] = cluster.speculation.draft_tokens if cluster.speculation is not None else 0
    row["migrates"], row["migrate_ps"] = cluster.migrate_ps > 0, cluster.migrate_ps
    row["plain_lookup"] = 1
    row["common_store"] = NONE
    if cluster.kv is not None:
        for name, value in settings_of(cluster.kv, cluster.block_tokens).items():
            row[name] = value
    _reads(row, chosen)
    return row


def mark_special(row: np.ndarray) -> None:
    """Say whether any mechanism beside the plain loop is on, in the CLUSTER row, in place."""
    row["special"] = any(bool(row[name][0]) for name in schema.SPECIAL)


def _reads(row: np.ndarray, chosen: Mapping[str, Chosen]) -> None:
    """Note which of the costly signals the chosen policies read: the engine keeps only these exact at every moment."""
    arrival = chosen["admit"].policy.reads | chosen["route"].policy.reads
    row["reads_hits"] = "hit_tokens" in arrival
    row["reads_blocks"] = bool(arrival & COUNTS)
    row["admit_reads_decodes"] = "decodes" in chosen["admit"].policy.extras
    row["decode_reads_blocks"] = bool(chosen["decode"].policy.reads & COUNTS)
    evict, write = chosen["evict"].policy, chosen["write"].policy
    row["evict_reads"] = bool(evict.reads & EVICT_READS)
    row["second_look"] = "examined" in evict.reads
    row["foresees"] = "next_use" in evict.reads
    row["classes"] = bool(evict.reads & {"group_share", "group_reuse_s", "uses_since"})
    stores = bool(row["tiered"][0])
    # a write policy that does not look at `evicting` is not asked then
    row["spills"] = stores and "evicting" in write.uses
    row["tracked"] = stores
    row["exact_evictions"] = row["spills"] | row["lagged"] | row["second_look"] | row["foresees"]
    batch = chosen["batch"].policy
    # now_ps is an argument, so it is a local name: a batch policy that uses it sees each iteration
    restless = "memory" in batch.extras or "now_ps" in batch.uses
    row["batch_reads_blocks"] = bool(batch.reads & (COUNTS | PACE)) or restless
    row["batch_reads_pace"] = bool(batch.reads & PACE)
    note_questions(row, chosen)


def _reads_links(chosen: Mapping[str, Chosen]) -> dict[str, bool]:
    """Return whether policies read what the links of a fabric carry: decode, and admit or route."""
    arrival = chosen["admit"].policy.reads | chosen["route"].policy.reads
    return {"reads_links": bool(chosen["decode"].policy.reads & LINK_SIGNALS),
            "route_reads_links": bool(arrival & LINK_SIGNALS)}  # fmt: skip


def with_policies(
    state: State, chosen: Mapping[str, Chosen], trace: "Trace", slo: "Slo", options: Mapping[str, Any]
) -> State:
    """Return a state under other policies, its arrays modified in place; requests that wait keep the keys they have.

    What nobody read before is kept from now on: spells begin now, and tenants have had nothing.

    options : trie, predictions
    raises  : PolicyError for an oracle of the cache, which has to count from the beginning
    """
    foresaw = bool(state.cluster["foresees"][0])
    before = {name: bool(state.cluster[name][0]) for name in ("spelled", "fair", "reads_prefix_keys")}
    _reads(state.cluster, chosen)
    if state.cluster["foresees"][0] and not foresaw:
        raise PolicyError("an evict policy that knows the next use of a prefix must be there from the beginning, but "
                          "was chosen for a fork. Choose it for the session.")
    for name, reads in _reads_links(chosen).items():
        state.wires.net[name] = reads
    table = tunables(dict(chosen), len(state.asking.shares) - 1)
    kept = min(table.shape[1], state.tunables.shape[1])
    table[:, MAX_TUNABLES:kept] = state.tunables[:, MAX_TUNABLES:kept]
    asking = asking_of(trace, slo, state.cluster, state.views[: int(state.cluster["num_instances"][0])], options)
    same = [name for name, there in before.items() if there]
    kept_names = {"spelled": ("spells",), "fair": ("accounts", "ledgers"), "reads_prefix_keys": ("prefix_keys",)}
    learned = ("quantiles", *LEARNING) if state.cluster["learns"][0] else ()
    as_it_was = {name: getattr(state.asking, name) for name in ("told", "moving", "workers", *learned)}
    asking = asking._replace(**as_it_was, **{
        array: getattr(state.asking, array) for name in same for array in kept_names[name]})
    if "spelled" not in same:
        asking.spells["since_ps"] = state.cluster["now_ps"][0]
    if "fair" not in same and state.cluster["fair"][0]:
        count_waiting(state, asking)
    state = state._replace(tunables=table, asking=asking)
    mark_special(state.cluster)
    return _records(state) if INTERPRETED else state


def _instances(cluster: "Cluster") -> tuple[np.ndarray, np.ndarray, Cost]:
    count = len(cluster.instances)
    views, instances = np.zeros(count, schema.VIEW), np.zeros(count, schema.INSTANCE)
    lists = ("prefill_head", "prefill_tail", "link_head", "link_tail", "lru_head", "lru_tail")
    for name in ("queue", "slot_free", *lists):
        instances[name] = NONE
    instances["end_ps"] = NEVER_PS
    instances["clock"] = -1e308
    rows: dict[Any, int] = {}
    profiles: list[Any] = []
    tables: list[np.ndarray] = []
    for k, instance in enumerate(cluster.instances):
        key = (id(instance.profile), instance.nic_bytes_per_s, instance.nic_latency_s)
        if key not in rows:
            rows[key] = len(profiles)
            profiles.append(_profile(instance, cluster.layers, tables))
        instances["profile"][k] = rows[key]
        instances["first_rank"][k], instances["ranks"][k] = k - k % cluster.ranks, cluster.ranks
        _view(views[k : k + 1], instance)
    cost = Cost(np.concatenate(profiles), np.concatenate(tables).astype(schema.SEGMENT))
    return views, instances, cost


def _profile(instance: Any, layers: int, tables: list[np.ndarray]) -> np.ndarray:
    profile, row = instance.profile, np.zeros(1, schema.PROFILE)
    for name in ("prefill_token_ps", "prefill_token_sq_fs", "decode_request_ps", "mixed_request_ps"):
        row[name] = getattr(profile, name)
    row["transfer_token_fs"] = fs(profile.kv_token_bytes / instance.nic_bytes_per_s, "transfer time of a token")
    row["transfer_latency_ps"] = ps(instance.nic_latency_s, "nic_latency_s")
    row["layers"] = layers
    decode_table = profile.token_table if profile.decode_table is None else profile.decode_table
    mixed_table = profile.kv_table if profile.mixed_kv_table is None else profile.mixed_kv_table
    together = (("together", profile.together_table), ("fullest", profile.fullest_table),
                ("captured", profile.captured_table))  # fmt: skip
    for name, table in (("token", profile.token_table), ("decode", decode_table), ("kv", profile.kv_table),
                        ("mixed", mixed_table), *(pair for pair in together if pair[1] is not None)):  # fmt: skip
        row[f"{name}_first"] = sum(map(len, tables))
        row[f"{name}_count"] = len(table)
        tables.append(table)
    return row


def _view(view: np.ndarray, instance: Any) -> None:
    view["role"] = schema.ROLES.index(instance.role)
    view["home"] = schema.ROLES.index(instance.home or instance.role)
    for name in ("max_batch", "token_budget", "block_tokens"):
        view[name] = getattr(instance, name)
    view["total_blocks"] = view["free_blocks"] = instance.kv_blocks
    for name, value in nominal(instance.profile).items():
        view[name] = value
    view["transfer_token_s"] = instance.profile.kv_token_bytes / instance.nic_bytes_per_s
    view["transfer_latency_s"] = instance.nic_latency_s
