"""Random hierarchies below the HBM of a scenario's instances: tiny stores, tiny links, few places, much change."""

from dataclasses import replace
from random import Random

from replay.cluster import Cluster
from replay.kv import DISK, DRAM, Change, Index, Kv, Lsm, Medium, Store
from replay.policy import Chosen
from tests import odd_fetch
from tests.odd_fetch import chosen

DRAMS, DISKS = ("none", "shared", "private", "both"), ("none", "local", "store")
BELIEFS = ("exact", "lagged", "routed")
SPEEDS_FS = (0, 1, 999, 5000, 20_000, 20_000, 150_000, 777_777, 30_000_000)  # a block


def random_kv(random: Random, cluster: Cluster, end_ps: int) -> Kv:
    """Draw a hierarchy for a cluster.

    end_ps : when the last request arrives; what expires or changes does so on this scale
    """
    shared, stores = random_stores(random, cluster)
    scale_ps = end_ps + random.choice([1000, 20_000, 300_000])
    ttl_ps = random.choice([0, 0, 0, 0, 0, 150, 5000, max(1, scale_ps // 10), max(1, scale_ps)])
    gc_ps = max(random.choice([300, 3001, 50_000]), scale_ps // 100) if random.random() < 0.8 else 0
    bt = cluster.block_tokens
    return Kv(
        stores=tuple(stores),
        shared_nodes=shared,
        block_bytes=1000 * bt,
        lsm=random_lsm(random),
        index=random_index(random, scale_ps),
        prefetch=random.random() < 0.7,
        overlap=random.random() < 0.5,
        promote=random.random() < 0.7,
        lookahead=random.random() < 0.3,
        in_flight=random.choice([1, 1, 2, 8]),
        writes=random.choice([1, 2, 3, 50, 50]),
        replicate_after=random.choice([0, 0, 1, 3]),
        key_blocks=random.choice([1, 1, 2, 4]),
        bound=random.choice([1.0, 1.25, 2.0, 50.0]),
        virtual_nodes=random.choice([1, 2, 5]),
        ttl_ps=ttl_ps,
        refresh=random.random() < 0.5,
        gc_ps=gc_ps if ttl_ps else 0,
        unit_tokens=random.choice([0, 0, 0, 0, 0, 0, bt, 2 * bt, 3 * bt, 4 * bt]),
        isolate=False,
        changes=random_changes(random, stores, shared, scale_ps),
        samples=0,
    )


def random_stores(random: Random, cluster: Cluster) -> tuple[int, list[Store]]:
    """Draw the stores: DRAM shared or private, disks below or instead of it; returns how many are shared, and all."""
    dram, disk = random.choice(DRAMS), random.choice(DISKS)
    ample = random.random() < 0.6
    if dram == disk == "none":
        dram = "shared"
    shared = random.randint(1, 4) if dram in ("shared", "both") else 0
    owners = [index for index, instance in enumerate(cluster.instances) if instance.role != "decode"]
    nodes = [(node, -1) for node in range(shared)]
    if dram in ("private", "both"):
        nodes += [(shared + place, owner) for place, owner in enumerate(owners)]
    drams = [random_store(random, DRAM, node, owner, ample) for node, owner in nodes]
    if disk == "none":
        return shared, drams
    if disk == "store":
        below = [len(drams)] * len(drams)
        disks = [random_store(random, DISK, -1, -1, ample)]
    else:
        below = [len(drams) + place for place in range(len(drams))]
        disks = [random_store(random, DISK, node, owner, ample) for node, owner in nodes or list(enumerate(owners))]
    return shared, [*(replace(store, below=place) for store, place in zip(drams, below, strict=True)), *disks]


def random_store(random: Random, tier: int, node: int, server: int, ample: bool) -> Store:
    """Draw a store: too small and too slow, or ample, so that there is something to load."""
    blocks = random.choice([10, 20, 40, 1000] if ample else [1, 2, 5, 8, 20])
    if tier == DISK:
        return Store(DISK, node, server, random.choice([blocks, 4 * blocks]), -1, 0, 0, 0)
    read_fs, write_fs = random.choice(SPEEDS_FS), random.choice(SPEEDS_FS[:5] if ample else SPEEDS_FS)
    return Store(DRAM, node, server, blocks, -1, read_fs, write_fs, random.choice([0, 0, 7, 900]))


def random_lsm(random: Random) -> Lsm:
    """Draw how disks work: memtables of a few blocks on one to three media."""
    media = tuple(
        Medium(
            name=f"medium {number}",
            op_ps=random.choice([0, 5, 400]),
            read_block_fs=random.choice(SPEEDS_FS),
            write_block_fs=random.choice(SPEEDS_FS),
            latency_ps=random.choice([0, 3, 500]),
        )
        for number in range(random.randint(1, 3))
    )
    return Lsm(
        media=media,
        memtable_blocks=random.choice([1, 2, 3, 7, 40]),
        levelled=random.random() < 0.5,
        fanout=random.choice([2, 2, 3]),
        levels=random.randint(2, 4),
        share=random.choice([1, 100, 500, 999]),
    )


def random_index(random: Random, scale_ps: int) -> Index:
    """Draw an index: none, or a few slow shards; what it says may be late."""
    return Index(
        shards=random.choice([0, 0, 1, 2, 5]),
        lookup_ps=random.choice([0, 1, 50, 2000]),
        node_ps=random.choice([0, 3, 100]),
        gc_node_ps=random.choice([0, 11, 700]),
        exact=random.random() < 0.15,
        belief=random.choice(BELIEFS),
        lag_ps=random.choice([0, 1, 300, max(1, scale_ps // 5)]),
    )


def random_changes(random: Random, stores: list[Store], shared: int, scale_ps: int) -> tuple[Change, ...]:
    """Draw what leaves and comes back, also at equal times and where it makes no sense."""
    disks = [store.node for store in stores if store.tier == DISK and store.node >= 0]
    changes = []
    for _ in range(random.choice([0, 0, 0, 1, 2, 4, 8]) if shared or disks else 0):
        at_ps = random.choice([0, random.randint(0, scale_ps), scale_ps // 2])
        if not shared or (disks and random.random() < 0.4):
            changes.append(Change(at_ps, random.choice(["fail_disk", "repair_disk"]), random.choice(disks), at_ps))
            continue
        what = random.choice(["leave", "drain", "drain", "join", "join"])
        deadline_ps = at_ps + random.choice([0, 10, 1000, scale_ps])
        changes.append(Change(at_ps, what, random.randrange(shared), deadline_ps))
    return tuple(changes)


def random_movement(random: Random) -> dict[str, Chosen]:
    """Draw policies for loads and writes, and often one that looks twice at what it evicts."""
    found = {
        "fetch": random.choice(
            [
                chosen("fetch", odd_fetch.everything, tier=random.choice([1, 2, 2])),
                chosen("fetch", odd_fetch.everything, wait_s=random.choice([1e-12, 3e-10, 2e-8])),
                chosen("fetch", odd_fetch.faithful, tier=random.choice([1, 2, 2])),
                chosen("fetch", odd_fetch.odd_fetch, unit_s=random.choice([1e-10, 1e-8])),
            ]
        ),
        "write": random.choice(
            [
                chosen("write", odd_fetch.always_write),
                chosen("write", odd_fetch.always_write),
                chosen("write", odd_fetch.on_publish, start=random.choice([0, 0, 3])),
                chosen("write", odd_fetch.on_evict, uses=random.choice([0, 1, 2])),
                chosen("write", odd_fetch.odd_write, most=random.choice([1, 2, 3])),
            ]
        ),
    }
    if random.random() < 0.5:
        functions = [(odd_fetch.odd_clock, {"deep": random.random() < 0.5}), (odd_fetch.odd_second, {})]
        functions.append((odd_fetch.second_chance, {}))
        function, values = random.choice(functions)
        found["evict"] = chosen("evict", function, **values)
    return found
