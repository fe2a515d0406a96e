"""Row types of the KV hierarchy in the kernel's state: stores, loads, writes, events, the index, disks.

Times are int64 picoseconds (`_ps`), indices are -1 for none, as in `replay.engine.schema`.
"""

from typing import NamedTuple

import numpy as np

# a store below the HBM: DRAM of a pool node, or a disk
STORE = np.dtype([
    ("read_block_fs", "i8"), ("write_block_fs", "i8"), ("latency_ps", "i8"),
    ("read_free_ps", "i8"), ("write_free_ps", "i8"), ("read_busy_ps", "i8"), ("write_busy_ps", "i8"),
    ("read_blocks", "i8"), ("written_blocks", "i8"),      # sent for loads; sent for writes
    ("cut_blocks", "i8"), ("void_blocks", "i8"), ("dropped_blocks", "i8"),  # not read; written in vain; not written
    ("spilled_blocks", "i8"), ("drained_blocks", "i8"), ("lost_blocks", "i8"), ("expired_blocks", "i8"),
    ("reads", "i8"), ("written", "i8"), ("dropped", "i8"),
    ("deadline_ps", "i8"),
    ("tier", "i4"), ("node", "i4"), ("server", "i4"), ("below", "i4"), ("above", "i4"),
    ("disk", "i4"), ("epoch", "i4"),
    ("writes_end", "i4"),          # no row of its writes from here on is used
    ("cursor", "i4"), ("moving", "i4"), ("moving_end", "i4"), ("moving_to", "i4"), ("moving_epoch", "i4"),
    ("back_ps", "i8"),             # of the store for all that failed: when it is there again
    ("full_write_block_fs", "i8"),  # of it, with all its servers
    ("present", "i1"), ("leaving", "i1"),
    ("fate", "i1"),                # what a failure or its end has in store for it: see FATES
], align=True)
STAYS, GOES, COMES, DRAINS = range(4)  # FATES

# what a request loads from stores: its parts are rows 4 r to 4 r + 3 of `parts`
NOT_PLANNED, PENDING_LOAD, LOADING, LOAD_OVER = range(4)
MOST_PARTS = 4
LOAD = np.dtype([
    ("ready_ps", "i8"), ("issued_ps", "i8"), ("end_ps", "i8"),
    ("lookup_ps", "i8"), ("load_ps", "i8"), ("exposed_ps", "i8"),
    ("timer", "i8"),               # sequence of the event that ends it
    ("timeout", "i8"),             # and of the event that ends the wait for it
    ("stopped_ps", "i8"),          # how long its shard had failed in all as it was looked up there
    ("base_blocks", "i4"), ("upto_blocks", "i4"), ("counted_blocks", "i4"),  # in HBM; in all; a hit while loading
    ("landed_blocks", "i4"),       # -1 until it landed or was counted
    ("dram_tokens", "i4"), ("disk_tokens", "i4"),
    ("next", "i4"),                # pending list of the instance
    ("instance", "i4"), ("shard", "i4"),  # to which it goes; where the request was looked up
    ("state", "i1"), ("count", "i1"), ("waits", "i1"), ("under_way", "i1"), ("tier", "i1"),
    # with a fabric: an iteration in progress waits for it; transfers under way (end_ps is then that of its media);
    # how often it was started, modulo 256
    ("awaited", "i1"), ("transfers", "i1"), ("starts", "i1"),
    ("listed", "i1"),              # it is in the pending list of its instance
    ("anew", "i1"),                # the request was lost with an instance, and not admitted since
], align=True)
PART = np.dtype([
    ("start_ps", "i8"), ("end_ps", "i8"), ("card_ps", "i8"),
    ("store", "i4"), ("card", "i4"), ("from_blocks", "i4"), ("upto_blocks", "i4"), ("pin", "i4"), ("epoch", "i4"),
    ("transfer", "i4"),            # with a fabric: what carries it, -1 for none or when it came
], align=True)

WRITE = np.dtype([
    ("node", "i4"), ("upto_blocks", "i4"), ("base_blocks", "i4"), ("pin", "i4"), ("epoch", "i4"),
    ("source", "i4"), ("wipes", "i4"),  # from which instance, and how often that had been emptied
    ("used", "i1"), ("whole", "i1"),
], align=True)
SPILL = np.dtype([("holder", "i4"), ("node", "i4"), ("end_blocks", "i4"), ("whole", "i4")], align=True)
CHANGE = np.dtype([("time_ps", "i8"), ("node", "i4"), ("instance", "i4"), ("blocks", "i4")], align=True)
TIMER = np.dtype([("time_ps", "i8"), ("sequence", "i8"), ("kind", "i4"), ("what", "i4")], align=True)
LOOKED_UP, LOADED, TIMEOUT, WRITTEN, DRAINED, DEADLINE, CLOCK, COLLECT, SAMPLE = range(9)
CLOCK_ENTRY = np.dtype([("what", "i4"), ("store", "i4"), ("deadline_ps", "i8")], align=True)
LEAVE, DRAIN, JOIN = range(3)
# consistent hashing: ring 0 has the index shards as owners, ring 1 the shared DRAM nodes
SHARDS, NODES = 0, 1
RING = np.dtype([("first_point", "i4"), ("points", "i4"), ("first_owner", "i4"), ("owners", "i4")], align=True)
POINT = np.dtype([("point", "u8"), ("owner", "i4")], align=True)
OWNER = np.dtype([("free_ps", "i8"), ("busy_ps", "i8"), ("wait_ps", "i8"), ("lookups", "i8"),
                  ("down_ps", "i8"), ("stopped_ps", "i8"),  # of a shard: until when it fails, and how long in all
                  ("held", "i4"), ("epoch", "i4"), ("takes", "i1")], align=True)
KEY = np.dtype([("hash", "u8"), ("key", "i4"), ("shard", "i4"), ("home", "i4"), ("home_epoch", "i4"),
                ("reads", "i4")], align=True)

# what the hierarchy is asked to do (replay/engine/tiers.py), and what it asks the event loop to do
(OP_LOOK_UP, OP_BELIEVE, OP_PLAN, OP_CONCLUDE, OP_PUBLISHED, OP_SPILL, OP_EVENT, OP_LAND, OP_NEXT, OP_CUT, OP_LEAVE,
 OP_COLLECT, OP_ROUTED, OP_SAMPLE, OP_ABANDON, OP_DROP, OP_BACK, OP_DRAIN) = range(18)
NOTHING, CONSIDER, LAND, ENQUEUE, DEPART, COLLECT_ALL, SAMPLE_ALL = range(7)

# how a disk keeps blocks: fragments of nodes in sorted runs (the segments of a log-structured merge tree)
FRAGMENT = np.dtype([
    ("offset", "i8"),              # where it begins in its run [blocks]
    ("node", "i4"), ("first", "i4"), ("blocks", "i4"),  # blocks [first, first + blocks) of a trie node that live in it
    ("run", "i4"),                 # -1 in the memtable
    ("older", "i4"),               # next older fragment of the same slot: it holds the blocks just before
    ("previous", "i4"), ("next", "i4"),  # in the list of its run or of the memtable; next free row
], align=True)
RUN = np.dtype([
    ("blocks", "i8"), ("live_blocks", "i8"),  # written, and of these not dead
    ("head", "i4"), ("level", "i4"), ("next", "i4"),  # first fragment; next older run of its disk, or next free row
], align=True)
MEDIUM = np.dtype([
    ("op_ps", "i8"), ("read_block_fs", "i8"), ("write_block_fs", "i8"), ("latency_ps", "i8"),
    ("share", "i8"),               # of background work, in thousandths
    ("free_ps", "i8"), ("background_ps", "i8"),  # until when it serves reads, and flushes and compactions
    ("read_ops", "i8"), ("read_blocks", "i8"),   # for loads
    ("flush_ops", "i8"), ("flush_blocks", "i8"),
    ("compact_ops", "i8"), ("compact_read_blocks", "i8"), ("compact_write_blocks", "i8"),
    ("busy_ps", "i8"),             # time at full rate that all its work takes
    ("part_ops", "i8"), ("part_blocks", "i8"),   # of the read being planned
    ("asked_ps", "i8"),            # busy_ps as the scale policy was asked last
    # with all servers of the store that all share; above with those that are on
    ("full_op_ps", "i8"), ("full_read_block_fs", "i8"), ("full_write_block_fs", "i8"),
], align=True)
DISK = np.dtype([
    ("memtable_blocks", "i8"), ("memtable_limit", "i8"),    # appended since the last flush, dead ones too
    ("written_blocks", "i8"), ("dead_blocks", "i8"),        # that its runs hold, and of these dead
    ("last_offset", "i8"),         # of the read being planned: where the part looked at last begins
    ("flushes", "i8"), ("compactions", "i8"), ("fanout", "i8"),
    ("memtable", "i4"),            # first fragment of the memtable
    ("runs", "i4"),                # first run, newest first
    ("last_run", "i4"),            # and the run that it lies in
    ("media", "i4"), ("media_count", "i4"),  # rows of `media`
    ("levels", "i4"), ("levelled", "i1"),
], align=True)


class Hierarchy(NamedTuple):
    """Stores below the HBM and what moves between them; one row each, unused, without `Cluster.kv`."""

    stores: np.ndarray  # STORE (num_stores,)
    loads: np.ndarray  # LOAD (num_requests,)
    parts: np.ndarray  # PART (num_requests * MOST_PARTS,)
    offer: np.ndarray  # OFFER (1,)
    writes: np.ndarray  # WRITE (num_stores * writes,)
    timer_heap: np.ndarray  # TIMER (capacity,)
    clock: np.ndarray  # CLOCK_ENTRY (changes,)
    spills: np.ndarray  # SPILL (capacity,)
    changes: np.ndarray  # CHANGE (capacity,): a ring
    known: np.ndarray  # int64 (num_nodes, num_caching): what belief says
    needed: np.ndarray  # int32 (num_nodes, num_caching): waiting requests that need a node
    rings: np.ndarray  # RING (2,)
    points: np.ndarray  # POINT (all points,)
    owners: np.ndarray  # OWNER (shards + nodes,)
    keys: np.ndarray  # KEY (num_nodes,)
    occupancy: np.ndarray  # int64 (samples, 1 + holders): time, then resident blocks of each column
    fragments: np.ndarray  # FRAGMENT (capacity,)
    runs: np.ndarray  # RUN (capacity,)
    media: np.ndarray  # MEDIUM (disks * media,)
    disks: np.ndarray  # DISK (disks,)
    free: np.ndarray  # int64 (4,): first free row of `fragments` and of `runs`, number of free rows of each
