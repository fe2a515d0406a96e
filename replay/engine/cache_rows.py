"""Build the empty prefix caches of all holders, and what oracles may know of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine import schema
from replay.engine.schema import NONE, Cache
from replay.engine.state import in_lines
from replay.policy import Chosen
from traces.trie import Trie
from traces.trie_kernels import depths

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from traces import Trace


def cache_of(trie: Trie, cluster: "Cluster", instances: np.ndarray, views: np.ndarray, num_prefill: int,
             known: tuple[np.ndarray, ...]) -> Cache:
    """Return empty caches of all holders; a trace block is a whole number of cluster blocks."""
    num_instances, one = len(cluster.instances), np.zeros(1, np.int64)
    classes = np.zeros(schema.TURNS * known[3], schema.GROUP)
    holders = np.r_[0:num_prefill, num_instances : len(views)]
    if not cluster.prefix_cache or len(trie.parent) == 0:
        return Cache(np.zeros(1, schema.NODE), np.full((1, len(holders)), NONE, np.int32), np.zeros(1, schema.SLOT),
                     np.zeros(1, schema.PAST), np.zeros(1, schema.PREFIX), np.zeros(1, np.int32), one, one,
                     one, classes, np.full(1, NONE, np.int32))
    scale = trie.block_tokens // cluster.block_tokens
    nodes = np.zeros(len(trie.parent), schema.NODE)
    nodes["parent"] = trie.parent
    nodes["blocks"] = np.asarray(trie.blocks) * scale
    nodes["start_blocks"] = np.asarray(trie.start_blocks) * scale
    capacity = np.minimum(len(nodes), views["total_blocks"][holders].astype(np.int64))
    instances["slot_first"][holders] = instances["slots_used"][holders] = np.cumsum(capacity) - capacity
    nodes["depth"] = depths(np.asarray(trie.parent))
    slot_of = np.full((len(nodes), len(holders)), NONE, np.int32)
    total = int(capacity.sum())
    next_use = known[2] if len(known[2]) == len(nodes) else np.zeros(1, np.int64)
    return Cache(nodes, slot_of, in_lines(total, schema.SLOT), np.zeros(total, schema.PAST),
                 np.zeros(1, schema.PREFIX), np.zeros(total, np.int32), next_use, known[0], known[1], classes,
                 np.full(1, NONE, np.int32) if trie.tails is None else trie.tails)


def foresight(trace: "Trace", chosen: Mapping[str, Chosen], options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what only an oracle may know: next_row, path_first and next_use of `Cache`; and the number of kinds."""
    kinds = 1 + (int(trace.codes("kind").max(initial=-1)) + 1 if "kind" in trace else 0)
    one = np.zeros(1, np.int64)
    trie = options["trie"]
    if "next_use" not in chosen["evict"].policy.reads or len(trie.parent) == 0:
        return one, one, one, kinds
    from traces.trie import next_uses

    return (*next_uses(trie), kinds)
