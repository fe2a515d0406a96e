"""What a replay says of its KV hierarchy: columns of `requests`, numbers of the summary, tables of stores and media."""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from replay.engine.disks import amplifications
from replay.metrics import PS_PER_S, Value

if TYPE_CHECKING:
    from replay.session import Session

NAMES = ("hbm", "dram", "disk")
COLUMNS = (
    "lookup_s", "load_s", "exposed_load_s", "prefill_s", "transfer_s", "hit_tokens_hbm", "hit_tokens_dram",
    "hit_tokens_disk",
)  # fmt: skip
GB = 1e9


def columns(session: "Session") -> dict[str, pl.Series]:
    """Return the columns that a hierarchy adds to `requests`; none without one.

    lookup_s        : time in the index, queue included
    load_s          : from the start of its load to the end, 0 without one
    exposed_load_s  : what of that the request waited for, not hidden behind its queue or its prefill
    prefill_s       : from its first admission to its first token: with queue_s this is ttft_s
    transfer_s      : from its first token until its KV is on a decode instance, 0 where it stays
    hit_tokens_*    : hit_tokens by where they were when the request was routed
    """
    if session.cluster.kv is None:
        return {}
    loads, hits = session.state.hierarchy.loads, session.state.jobs["hit_tokens"]
    found: dict[str, Any] = {name: loads[f"{name[:-2]}_ps"] / PS_PER_S for name in ("lookup_s", "load_s")}
    found["exposed_load_s"] = loads["exposed_ps"] / PS_PER_S
    jobs = session.state.jobs
    found["prefill_s"] = _span_s(jobs["scheduled_ps"], jobs["first_token_ps"])
    moved = (jobs["decode_instance"] >= 0) & (jobs["decode_instance"] != jobs["prefill_instance"])
    found["transfer_s"] = np.where(moved, _span_s(jobs["first_token_ps"], jobs["deliver_ps"]), 0.0)
    found["hit_tokens_dram"], found["hit_tokens_disk"] = loads["dram_tokens"], loads["disk_tokens"]
    found["hit_tokens_hbm"] = hits - loads["dram_tokens"] - loads["disk_tokens"]
    return {name: pl.Series(name, np.ascontiguousarray(found[name])) for name in COLUMNS}


def _span_s(start_ps: np.ndarray, end_ps: np.ndarray) -> np.ndarray:
    """Return end - start in seconds, 0 where one of them did not happen."""
    happened = (start_ps >= 0) & (end_ps >= start_ps)
    return np.where(happened, (end_ps - start_ps) / PS_PER_S, 0.0)


def where(session: "Session", request: int) -> list[dict[str, Any]]:
    """List where the KV of a request's prompt lies now, as the index has it: holder by holder, leaf to root.

    returns : rows of holder (instance, or store counted from 0), tier, node of the trie, blocks of it there; on a disk
              a row a fragment, with its segment (-1: the memtable) and offset [blocks]
    """
    state, rows = session.state, []
    first = len(session.cluster.instances)
    for c in range(state.cache.slot_of.shape[1]):
        store = c - len(state.prefill_views)
        i = c if store < 0 else first + store
        name, tier = f"instance {i}" if store < 0 else f"store {store}", NAMES[int(state.instances["tier"][i])]
        node = int(state.jobs["leaf"][request])
        while node >= 0:
            s = int(state.cache.slot_of[node, c])
            if s != -1:
                slot = state.cache.slots[s if s >= 0 else -2 - s]
                rows += _places({"holder": name, "tier": tier, "node": node}, slot, state.hierarchy.fragments)
            node = int(state.cache.nodes["parent"][node])
    return rows


def _places(place: dict[str, Any], slot: np.void, fragments: np.ndarray) -> list[dict[str, Any]]:
    if place["tier"] != "disk":
        return [{**place, "blocks": int(slot["blocks"])}]
    rows, f = [], int(slot["fragment"])
    while f >= 0:
        part = fragments[f]
        where_in = {"segment": int(part["run"]), "offset": int(part["offset"])}
        rows.append({**place, "blocks": int(part["blocks"]), **where_in})
        f = int(part["older"])
    return rows


def numbers(session: "Session", requests: pl.DataFrame) -> dict[str, Value]:
    """Return what a hierarchy adds to the summary; nothing without one.

    hit_rate_*      : hit tokens by tier / prompt tokens, over admitted requests; they add up to hit_rate
    loads_used      : loads that brought hit tokens; the others came too late, or what they extend was gone
    hidden_share    : share of the load time of these that no request waited for; None if there is none
    *_gb            : bytes moved by path: loads from DRAM and from disk, writes to stores, spills from DRAM to disk,
                      flushes, compactions
    *_amplification : write: bytes written to media / flushed bytes; space: bytes in segments / living bytes;
                      read: operations a load from disk
    """
    kv = session.cluster.kv
    if kv is None:
        return {}
    admitted = requests.filter(pl.col("scheduled_ps").is_not_null())
    prompt = _total(admitted["prompt_tokens"])
    found: dict[str, Value] = {
        f"hit_rate_{name}": _total(admitted[f"hit_tokens_{name}"]) / prompt if prompt else None for name in NAMES
    }
    loaded = requests.filter(pl.col("load_s") > 0)
    used = loaded.filter(pl.col("hit_tokens_dram") + pl.col("hit_tokens_disk") > 0)
    total_s, exposed_s = float(used["load_s"].sum()), float(used["exposed_load_s"].sum())
    found |= {
        "loads": len(loaded),
        "loads_used": len(used),
        "load_s_mean": loaded["load_s"].mean(),  # type: ignore[dict-item]
        "load_s_p99": loaded["load_s"].quantile(0.99, "linear"),
        "exposed_load_s_mean": loaded["exposed_load_s"].mean(),  # type: ignore[dict-item]
        "hidden_share": 1.0 - exposed_s / total_s if total_s else None,
        "lookup_s_mean": requests["lookup_s"].mean(),  # type: ignore[dict-item]
        "lookup_s_p99": requests["lookup_s"].quantile(0.99, "linear"),
    }
    found |= _moved(session, kv.block_bytes)
    return found


def _total(tokens: pl.Series) -> int:
    return int(tokens.cast(pl.Int64).sum())


def _moved(session: "Session", block_bytes: int) -> dict[str, Value]:
    hierarchy, cluster = session.state.hierarchy, session.state.cluster
    rows, media = hierarchy.stores, hierarchy.media
    there = rows["tier"] > 0
    dram, disk = there & (rows["tier"] == 1), there & (rows["tier"] == 2)
    gb = block_bytes / GB
    found: dict[str, Value] = {
        "load_dram_gb": float(rows["read_blocks"][dram].sum() * gb),
        "load_disk_gb": float(rows["read_blocks"][disk].sum() * gb),
        "write_gb": float(rows["written_blocks"][there].sum() * gb),
        "write_dropped_gb": float(rows["dropped_blocks"][there].sum() * gb),
        "spill_gb": float(rows["spilled_blocks"][there].sum() * gb),
        "flush_gb": float(media["flush_blocks"].sum() * gb),
        "compaction_read_gb": float(media["compact_read_blocks"].sum() * gb),
        "compaction_write_gb": float(media["compact_write_blocks"].sum() * gb),
        "lost_gb": float(rows["lost_blocks"][there].sum() * gb),
        "gc_nodes": int(cluster["gc_nodes"][0]),
    }
    moved = ("load_disk_gb", "flush_gb", "compaction_read_gb", "compaction_write_gb")
    found["disk_io_tb"] = sum(float(found[name] or 0.0) for name in moved) / 1000.0
    write, space = amplifications(media, hierarchy.disks)
    loads = int(rows["reads"][disk].sum())
    found |= {
        "write_amplification": write,
        "space_amplification": space,
        "read_amplification": int(media["read_ops"].sum()) / loads if loads else None,
    }
    return found


def tables(session: "Session") -> dict[str, pl.DataFrame]:
    """Return stores, media, shards and occupancy as frames, those that there are: files of the run directory."""
    kv = session.cluster.kv
    if kv is None:
        return {}
    found = {"stores": _stores(session, kv.block_bytes)} if kv.stores else {}
    hierarchy = session.state.hierarchy
    if any(store.tier == 2 for store in kv.stores):
        found["media"] = _media(session, kv.block_bytes)
    if kv.index.shards:
        owners = hierarchy.owners[: kv.index.shards]
        found["shards"] = pl.DataFrame({
            "shard": np.arange(kv.index.shards), "keys": owners["held"], "lookups": owners["lookups"],
            "busy_s": owners["busy_ps"] / PS_PER_S, "wait_s": owners["wait_ps"] / PS_PER_S,
        })  # fmt: skip
    if kv.samples:
        rows = hierarchy.occupancy[: int(session.state.cluster["samples"][0])]
        names = [f"hbm_{i}" for i in range(len(session.state.prefill_views))]
        names += [f"{NAMES[store.tier]}_{s}" for s, store in enumerate(kv.stores)]
        found["occupancy"] = pl.DataFrame({"time_s": rows[:, 0] / PS_PER_S} | {
            f"{name}_blocks": rows[:, 1 + k] for k, name in enumerate(names)
        })  # fmt: skip
    return found


def _stores(session: "Session", block_bytes: int) -> pl.DataFrame:
    state, kv = session.state, session.cluster.kv
    assert kv is not None
    first, rows = len(session.cluster.instances), state.hierarchy.stores
    views, holders = state.views[first:], state.instances[first:]
    table: dict[str, Any] = {
        "store": np.arange(len(rows)), "tier": [NAMES[tier] for tier in rows["tier"]], "node": rows["node"],
        "server": rows["server"], "present": rows["present"] != 0,
    }  # fmt: skip
    blocks = {
        "capacity": views["total_blocks"], "resident": holders["pinned_blocks"] + views["cached_blocks"],
        "inserted": holders["inserted_blocks"], "evicted": holders["evicted_blocks"],
        **{name: rows[f"{name}_blocks"] for name in
           ("read", "written", "void", "dropped", "spilled", "drained", "lost", "expired")},
    }  # fmt: skip
    table |= {f"{name}_gb": np.asarray(value, np.float64) * block_bytes / GB for name, value in blocks.items()}
    table |= {"reads": rows["reads"], "writes": rows["written"], "writes_dropped": rows["dropped"]}
    table |= {f"{name}_busy_s": rows[f"{name}_busy_ps"] / PS_PER_S for name in ("read", "write")}
    return pl.DataFrame({name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
                         for name, value in table.items()})  # fmt: skip


def _media(session: "Session", block_bytes: int) -> pl.DataFrame:
    state, kv = session.state, session.cluster.kv
    assert kv is not None
    disks = [s for s, store in enumerate(kv.stores) if store.tier == 2]
    rows = state.hierarchy.media
    table: dict[str, Any] = {
        "store": np.repeat(disks, len(kv.lsm.media)), "medium": [medium.name for medium in kv.lsm.media] * len(disks),
        "read_ops": rows["read_ops"], "flush_ops": rows["flush_ops"], "compaction_ops": rows["compact_ops"],
        "busy_s": rows["busy_ps"] / PS_PER_S,
    }  # fmt: skip
    for name in ("read", "flush", "compact_read", "compact_write"):
        table[f"{name}_gb"] = rows[f"{name}_blocks"] * block_bytes / GB
    return pl.DataFrame({name: np.ascontiguousarray(value) for name, value in table.items()})
