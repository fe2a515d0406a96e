"""Build the KV hierarchy of a cluster from its configuration node, refusing what cannot be meant with one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from replay.errors import ConfigError
from replay.hardware.fields import choice, count, keys, number
from replay.hardware.units import fs, ps
from replay.kv import DISK, DRAM, Change, Index, Kv, Lsm, Medium, Store

GIB, MIB = 1 << 30, 1 << 20
CHOICES: dict[str, tuple[Any, ...]] = {
    "dram": (None, "shared", "private", "both"), "disk": (None, "local", "store"),
    "compaction": ("tiered", "levelled"), "prefetch": (True, False), "overlap": (True, False),
    "promote": (True, False), "lookahead": (True, False), "ttl_refresh": (True, False), "isolate": (True, False),
}  # fmt: skip
INDEX_CHOICES = {"match": ("prefix", "exact"), "belief": ("exact", "lagged", "routed")}
CHANGES = ("leave", "drain", "join", "fail_disk", "repair_disk")
KEYS = (
    *CHOICES, "dram_nodes", "dram_gib", "dram_bytes_per_s", "dram_latency_s", "private_gib", "private_bytes_per_s",
    "private_latency_s", "disk_gib", "media", "replicas", "compression", "memtable_mib", "fanout", "levels",
    "background_share", "disk_servers", "in_flight", "writes", "replicate_after", "key_blocks", "bound",
    "virtual_nodes", "ttl_s", "gc_s", "unit_tokens", "index", "changes", "samples",
)  # fmt: skip
INDEX_KEYS = (*INDEX_CHOICES, "shards", "lookup_s", "node_s", "gc_node_s", "lag_s")
MEDIUM_KEYS = ("name", "read_bytes_per_s", "write_bytes_per_s", "iops", "latency_s")
MOST_BLOCKS = 1_000_000_000
REMEDY = "Change it, or select another hierarchy, such as kv=dram."


def build_kv(node: Any, instances: Sequence[Any], block_tokens: int) -> Kv | None:
    """Resolve and check the KV hierarchy of a cluster.

    node      : configuration node `kv`
    instances : the cluster's instances, prefill, mixed, decode
    returns   : Kv; None if nothing of it is switched on
    raises    : ConfigError for an unknown key, a bad value, or a hierarchy that cannot be
    """
    if node is None:
        return None
    if not isinstance(node, Mapping):
        raise ConfigError(f"kv must be a configuration node, but is {node!r}. Select one: kv=dram.")
    keys(node, KEYS, ("name",), "kv")
    for name, allowed in CHOICES.items():
        choice(node[name], allowed, f"kv.{name}", REMEDY)
    index = _index(node["index"])
    ttl_ps = _lasting_ps(node["ttl_s"], "kv.ttl_s")
    unit_tokens = _unit(node["unit_tokens"], block_tokens)
    samples = count(node["samples"], "kv.samples", 0, 1 << 20)
    plain = index.shards == 0 and not index.exact and index.belief == "exact" and not ttl_ps and not unit_tokens
    if plain and not (node["dram"] or node["disk"] or node["isolate"] or node["lookahead"] or samples):
        return None
    block_bytes = _block_bytes(instances, block_tokens)
    stores, shared = _stores(node, instances, block_bytes)
    return Kv(
        stores=stores, shared_nodes=shared, block_bytes=block_bytes, lsm=_lsm(node, block_bytes), index=index,
        prefetch=node["prefetch"], overlap=node["overlap"], promote=node["promote"], lookahead=node["lookahead"],
        in_flight=count(node["in_flight"], "kv.in_flight"), writes=count(node["writes"], "kv.writes", 1, 4096),
        replicate_after=count(node["replicate_after"], "kv.replicate_after", 0),
        key_blocks=count(node["key_blocks"], "kv.key_blocks"),
        bound=number(node["bound"], "kv.bound", least=1.0, most=1e6),
        virtual_nodes=count(node["virtual_nodes"], "kv.virtual_nodes", 1, 65536), ttl_ps=ttl_ps,
        refresh=node["ttl_refresh"],
        gc_ps=_lasting_ps(node["gc_s"], "kv.gc_s"),
        unit_tokens=unit_tokens, isolate=node["isolate"], changes=_changes(node["changes"], stores), samples=samples,
        disk_servers=count(node["disk_servers"], "kv.disk_servers", 1, 4096),
    )  # fmt: skip


def _lasting_ps(value: Any, place: str) -> int:
    """Return a time that is not 0, which null stands for."""
    return 0 if value is None else ps(number(value, place, least=1e-12), place)


def _unit(value: Any, block_tokens: int) -> int:
    if value is None:
        return 0
    unit_tokens = count(value, "kv.unit_tokens")
    if unit_tokens % block_tokens and block_tokens % unit_tokens:
        raise ConfigError(f"kv.unit_tokens must be a multiple of a KV block or divide it, but is {unit_tokens}, and a "
                          f"block is {block_tokens} tokens. Set it, or cluster.block_tokens.")
    return max(unit_tokens, block_tokens)


def _block_bytes(instances: Sequence[Any], block_tokens: int) -> int:
    sizes = {instance.profile.kv_token_bytes for instance in instances}
    if len(sizes) > 1:
        raise ConfigError(f"a KV hierarchy needs one size of KV for all instances, but a token takes "
                          f"{', '.join(map(str, sorted(sizes)))} bytes. Use one model, or kv=none.")
    if 0 in sizes:
        raise ConfigError("a KV hierarchy needs KV that takes memory, but hardware.kv_token_bytes is 0. Set it, or "
                          "kv=none.")
    return sizes.pop() * block_tokens


def _index(node: Any) -> Index:
    if not isinstance(node, Mapping):
        raise ConfigError(f"kv.index must be a configuration node, but is {node!r}. Set its keys, as in "
                          f"kv.index.shards=4.")
    keys(node, INDEX_KEYS, (), "kv.index")
    for name, allowed in INDEX_CHOICES.items():
        choice(node[name], allowed, f"kv.index.{name}", REMEDY)
    times = {name: ps(number(node[f"{name}_s"], f"kv.index.{name}_s"), f"kv.index.{name}_s")
             for name in ("lookup", "node", "gc_node", "lag")}  # fmt: skip
    return Index(
        shards=count(node["shards"], "kv.index.shards", 0, 4096), lookup_ps=times["lookup"], node_ps=times["node"],
        gc_node_ps=times["gc_node"], exact=node["match"] == "exact", belief=node["belief"], lag_ps=times["lag"],
    )  # fmt: skip


def _blocks(gib: Any, block_bytes: int, place: str) -> int:
    blocks = _most_blocks(number(gib, place, above=0.0) * GIB, block_bytes)
    if blocks < 1:
        raise ConfigError(f"{place} must hold at least one KV block of {block_bytes:,} bytes, but is {gib!r} GiB. "
                          f"Give it more.")
    return blocks


def _most_blocks(size_bytes: float, block_bytes: int) -> int:
    return int(min(size_bytes, float(MOST_BLOCKS * block_bytes)) // block_bytes)


def _stores(node: Mapping[str, Any], instances: Sequence[Any], block_bytes: int) -> tuple[tuple[Store, ...], int]:
    """Return the stores, shared DRAM nodes first, and how many these are."""
    servers = [i for i, instance in enumerate(instances) if instance.role != "decode"]
    shared = count(node["dram_nodes"], "kv.dram_nodes", 1, 4096) if node["dram"] in ("shared", "both") else 0
    drams = [_dram(node, "dram", k, -1, block_bytes) for k in range(shared)]
    if node["dram"] in ("private", "both"):
        drams += [_dram(node, "private", shared + i, i, block_bytes) for i in servers]
    if node["disk"] is None:
        return tuple(drams), shared
    blocks = _blocks(node["disk_gib"], block_bytes, "kv.disk_gib")
    disk = {"tier": DISK, "blocks": blocks, "below": -1, "read_block_fs": 0, "write_block_fs": 0, "latency_ps": 0}
    if node["disk"] == "store":
        below, disks = [len(drams)] * len(drams), [Store(node=-1, server=-1, **disk)]
    elif drams:
        below = [len(drams) + k for k in range(len(drams))]
        disks = [Store(node=dram.node, server=dram.server, **disk) for dram in drams]
    else:
        below, disks = [], [Store(node=i, server=i, **disk) for i in servers]
    if not drams:  # written from the HBM: over the medium's own link
        carry_fs = _block_fs(block_bytes, _media(node)[0], "write", 0)
        disks = [Store(**{**one.__dict__, "write_block_fs": carry_fs}) for one in disks]
    return (*(Store(**{**one.__dict__, "below": below[k]}) for k, one in enumerate(drams)), *disks), shared


def _dram(node: Mapping[str, Any], kind: str, number_of: int, server: int, block_bytes: int) -> Store:
    speed = f"kv.{kind}_bytes_per_s"
    carry_fs = fs(block_bytes / number(node[f"{kind}_bytes_per_s"], speed, above=0.0), f"a KV block by {speed}")
    return Store(
        tier=DRAM, node=number_of, server=server, blocks=_blocks(node[f"{kind}_gib"], block_bytes, f"kv.{kind}_gib"),
        below=-1, read_block_fs=carry_fs, write_block_fs=carry_fs,
        latency_ps=ps(number(node[f"{kind}_latency_s"], f"kv.{kind}_latency_s"), f"kv.{kind}_latency_s"),
    )  # fmt: skip


def _media(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    media = node["media"]
    if not isinstance(media, list | tuple) or not media or not all(isinstance(medium, Mapping) for medium in media):
        raise ConfigError(f"kv.media must list what the levels of a disk lie on, {{{', '.join(MEDIUM_KEYS)}}} each, "
                          f"hottest first, but is {media!r}. {REMEDY}")
    for k, medium in enumerate(media):
        keys(medium, MEDIUM_KEYS, (), f"kv.media[{k}]")
        for name in ("read_bytes_per_s", "write_bytes_per_s", "iops"):
            number(medium[name], f"kv.media[{k}].{name}", above=0.0)
    return list(media)


def _block_fs(size_bytes: float, medium: Mapping[str, Any], way: str, k: int) -> int:
    return fs(size_bytes / medium[f"{way}_bytes_per_s"], f"a KV block by kv.media[{k}].{way}_bytes_per_s")


def _lsm(node: Mapping[str, Any], block_bytes: int) -> Lsm:
    if node["disk"] is None:
        return Lsm((), 1, False, 2, 1, 500)
    compression = number(node["compression"], "kv.compression", least=1.0)
    replicas = count(node["replicas"], "kv.replicas", 1, 16)
    media = tuple(
        Medium(
            name=str(medium["name"]), op_ps=ps(1.0 / medium["iops"], f"an operation by kv.media[{k}].iops"),
            read_block_fs=_block_fs(block_bytes / compression, medium, "read", k),
            write_block_fs=_block_fs(replicas * block_bytes / compression, medium, "write", k),
            latency_ps=ps(number(medium["latency_s"], f"kv.media[{k}].latency_s"), f"kv.media[{k}].latency_s"),
        )
        for k, medium in enumerate(_media(node))
    )  # fmt: skip
    share = number(node["background_share"], "kv.background_share", least=0.001, most=0.999)
    memtable_blocks = _most_blocks(number(node["memtable_mib"], "kv.memtable_mib", above=0.0) * MIB, block_bytes)
    return Lsm(
        media=media, memtable_blocks=max(1, memtable_blocks),
        levelled=node["compaction"] == "levelled", fanout=count(node["fanout"], "kv.fanout", 2, 64),
        levels=count(node["levels"], "kv.levels", 1, 16), share=round(share * 1000),
    )  # fmt: skip


def _changes(rows: Any, stores: Sequence[Store]) -> tuple[Change, ...]:
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError(f"kv.changes must be a list of {{at_s, what, node}}, but is {rows!r}. Write "
                          f"kv.changes=[{{at_s: 600, what: leave, node: 0}}].")
    changes = []
    for k, row in enumerate(rows):
        place = f"kv.changes[{k}]"
        keys(row, ("at_s", "what", "node"), ("until_s",), place)
        what = choice(row["what"], CHANGES, f"{place}.what", REMEDY)
        at_ps = ps(number(row["at_s"], f"{place}.at_s"), f"{place}.at_s")
        tier = DISK if what.endswith("disk") else DRAM
        common = tier == DISK and any(store.tier == DISK and store.node < 0 for store in stores)
        known = sorted({store.node for store in stores if store.tier == (DRAM if common else tier)})
        if isinstance(row["node"], bool) or row["node"] not in known:
            kind = "disk" if tier == DISK else "DRAM node"
            raise ConfigError(f"{place}.node must be a {kind} of the hierarchy, one of {known}, but is "
                              f"{row['node']!r}. Change it, or kv.dram and kv.disk.")
        until_s = row.get("until_s")
        if (what == "drain") != (until_s is not None):
            raise ConfigError(f"{place} must have until_s if it drains, and only then, but is {dict(row)!r}. "
                              f"Say until when it drains.")
        if common:
            continue  # the node has no disk of its own: what it would lose is in the store
        deadline_ps = at_ps if until_s is None else ps(
            number(until_s, f"{place}.until_s", least=row["at_s"]), f"{place}.until_s")
        changes.append(Change(at_ps, what, int(row["node"]), deadline_ps))
    return tuple(sorted(changes, key=lambda change: change.at_ps))
