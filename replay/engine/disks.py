"""Rows of disks before the first event, and what is reported of them."""

from typing import TYPE_CHECKING

import numpy as np

from replay.engine import tier_schema
from replay.engine.schema import NONE
from replay.engine.tier_schema import Hierarchy

if TYPE_CHECKING:
    from replay.kv import Lsm


def empty_disks(lsm: "Lsm", count: int, fragments: int) -> dict[str, np.ndarray]:
    """Return the arrays of `count` empty disks, by the names that they have in Hierarchy.

    fragments : rows for all disks together; at least one for each slot of a disk, and the nodes of a longest path more
    """
    disks = np.zeros(count, tier_schema.DISK)
    disks["memtable_limit"] = lsm.memtable_blocks
    for name in ("fanout", "levels", "levelled"):
        disks[name] = getattr(lsm, name)
    for name in ("memtable", "runs", "last_run", "last_offset"):
        disks[name] = NONE
    disks["media"] = np.arange(count) * len(lsm.media)
    disks["media_count"] = len(lsm.media)
    media = np.zeros(len(lsm.media), tier_schema.MEDIUM)
    for name in ("op_ps", "read_block_fs", "write_block_fs", "latency_ps"):
        media[name] = [getattr(medium, name) for medium in lsm.media]
        if name != "latency_ps":
            media[f"full_{name}"] = media[name]
    media["share"] = lsm.share
    # a level has fewer than `fanout` runs, but while it is being merged; and one run is being written
    runs = _free_rows(count * (lsm.levels * lsm.fanout + 1), tier_schema.RUN)
    rows = _free_rows(fragments, tier_schema.FRAGMENT)
    free = np.array([0, 0, len(rows), len(runs)])
    return {"fragments": rows, "runs": runs, "media": np.tile(media, count), "disks": disks, "free": free}


def _free_rows(count: int, dtype: np.dtype) -> np.ndarray:
    rows = np.zeros(count, dtype)
    rows["next"] = np.arange(1, count + 1)
    rows["next"][-1] = NONE
    return rows


def amplifications(media: np.ndarray, disks: np.ndarray) -> tuple[float | None, float | None]:
    """Return write and space amplification of disks, None before the first flush.

    media, disks : MEDIUM and DISK rows of the same disks
    returns      : blocks written by flushes and merges, for each block flushed; blocks in runs, for each that lives
    """
    flushed, written = int(media["flush_blocks"].sum()), int(disks["written_blocks"].sum())
    living = written - int(disks["dead_blocks"].sum())
    rewritten = int(media["compact_write_blocks"].sum())
    return (flushed + rewritten) / flushed if flushed else None, written / living if living else None


def disk_figures(hierarchy: Hierarchy, d: int) -> dict[str, float]:
    """Return the totals of the media of disk d, and write_ and space_amplification, 0 before the first flush."""
    disk = hierarchy.disks[d]
    media = hierarchy.media[int(disk["media"]) : int(disk["media"] + disk["media_count"])]
    names = ("read_ops", "read_blocks", "flush_blocks", "compact_read_blocks", "compact_write_blocks", "busy_ps")
    figures: dict[str, float] = {name: int(media[name].sum()) for name in names}
    write, space = amplifications(media, hierarchy.disks[d : d + 1])
    figures |= {"write_amplification": write or 0.0, "space_amplification": space or 0.0}
    return figures
