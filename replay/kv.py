"""The KV hierarchy of a cluster: stores below the HBM, the index over them, and how KV moves.

`replay/engine/HIERARCHY.md` says what each of these does; `replay/kv_config.py` builds them from a configuration.
"""

from dataclasses import dataclass

DRAM, DISK = 1, 2


@dataclass(frozen=True)
class Medium:
    """What a level of a disk's segments lies on.

    op_ps : one operation; read_block_fs, write_block_fs : one block, compressed, writes times their copies
    """

    name: str
    op_ps: int
    read_block_fs: int
    write_block_fs: int
    latency_ps: int


@dataclass(frozen=True)
class Store:
    """A place for KV blocks below the HBM.

    tier   : DRAM or DISK
    node   : number of its pool node: the shared ones, then one an instance for private stores; -1 for the common store
    server : instance it is private to, -1 if shared by all
    below  : index of the disk that takes what it evicts, -1 for none
    read_block_fs, write_block_fs : one block over its card; of a disk 0 (its media count)
    """

    tier: int
    node: int
    server: int
    blocks: int
    below: int
    read_block_fs: int
    write_block_fs: int
    latency_ps: int


@dataclass(frozen=True)
class Lsm:
    """How disks keep their blocks; share in thousandths."""

    media: tuple[Medium, ...]
    memtable_blocks: int
    levelled: bool
    fanout: int
    levels: int
    share: int


@dataclass(frozen=True)
class Index:
    """The prefix index; shards = 0 looks up in no time."""

    shards: int
    lookup_ps: int
    node_ps: int
    gc_node_ps: int
    exact: bool
    belief: str
    lag_ps: int


@dataclass(frozen=True)
class Change:
    """A pool node or local disk that comes or goes at a time; `deadline_ps` ends a drain."""

    at_ps: int
    what: str
    node: int
    deadline_ps: int


@dataclass(frozen=True, eq=False)
class Kv:
    """The hierarchy of a cluster: all DRAM stores (shared ones first, by node), then disks."""

    stores: tuple[Store, ...]
    shared_nodes: int  # the first so many stores are the shared DRAM nodes
    block_bytes: int
    lsm: Lsm
    index: Index
    prefetch: bool
    overlap: bool
    promote: bool
    lookahead: bool
    in_flight: int
    writes: int
    replicate_after: int
    key_blocks: int
    bound: float
    virtual_nodes: int
    ttl_ps: int
    refresh: bool
    gc_ps: int
    unit_tokens: int
    isolate: bool
    changes: tuple[Change, ...]
    samples: int
    disk_servers: int = 1  # of the store that all share: each carries an equal part of its bandwidth

    @property
    def nodes(self) -> dict[str, int]:
        """How many shared DRAM nodes there are, and servers of the store for all."""
        common = any(store.tier == DISK and store.node < 0 for store in self.stores)
        return {"memory": self.shared_nodes, "storage": self.disk_servers if common else 0}
