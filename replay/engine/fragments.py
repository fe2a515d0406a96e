"""Fragments: runs of a node's blocks that were written to a disk together, in its memtable or in a segment (a RUN row).

The fragments of a slot tile its blocks; its list has the highest first, and what is appended is always higher still.
"""

from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE


@kernel
def append(hierarchy, slots, d, s, first, blocks):
    """Write `blocks` new blocks of slot s, the first of them its `first`, to the memtable of disk d. Modified in place."""
    fragments = hierarchy.fragments
    f = hierarchy.free[0]
    hierarchy.free[0] = fragments[f].next
    fragment = fragments[f]
    fragment.offset = 0
    fragment.node = slots[s].node
    fragment.first = first
    fragment.blocks = blocks
    fragment.run = NONE
    fragment.slot = s
    fragment.older = slots[s].fragment
    slots[s].fragment = f
    disk = hierarchy.disks[d]
    fragment.next = disk.memtable
    disk.memtable = f
    disk.memtable_blocks += blocks
    disk.written_blocks += blocks


@kernel
def trim(hierarchy, slots, s, d, blocks):
    """Let the last `blocks` blocks of slot s on disk d die, modified in place. A dead fragment leaves with its run."""
    fragments = hierarchy.fragments
    hierarchy.disks[d].dead_blocks += blocks
    while blocks > 0:
        f = slots[s].fragment
        fragment = fragments[f]
        dead = min(blocks, fragment.blocks)
        fragment.blocks -= dead
        blocks -= dead
        if fragment.run >= 0:
            hierarchy.runs[fragment.run].live_blocks -= dead
        if fragment.blocks == 0:
            slots[s].fragment = fragment.older
            fragment.slot = NONE


@inlined
def begin_read(hierarchy, d):
    """Forget the read planned before on disk d, modified in place."""
    disk = hierarchy.disks[d]
    disk.last_run = NONE
    disk.last_offset = 0
    for m in range(disk.media, disk.media + disk.media_count):
        hierarchy.media[m].part_ops = 0
        hierarchy.media[m].part_blocks = 0


@inlined
def medium_of(hierarchy, d, level):
    """Return the row of `media` that a level of disk d lies on."""
    disk = hierarchy.disks[d]
    return disk.media + min(level, disk.media_count - 1)


@kernel
def read_cost(hierarchy, slots, d, s, first, blocks):
    """Add to the read planned on disk d the blocks [first, first + blocks) of slot s, modified in place.

    An operation reads on from where the one before ended; what is in the memtable costs nothing.
    """
    fragments = hierarchy.fragments
    disk = hierarchy.disks[d]
    at = first
    end = first + blocks
    while at < end:
        f = slots[s].fragment
        while fragments[f].first > at:
            f = fragments[f].older
        fragment = fragments[f]
        upto = min(fragment.first + fragment.blocks, end)
        offset = fragment.offset + at - fragment.first
        if fragment.run >= 0:
            medium = hierarchy.media[medium_of(hierarchy, d, hierarchy.runs[fragment.run].level)]
            medium.part_blocks += upto - at
            if fragment.run != disk.last_run or offset != disk.last_offset:
                medium.part_ops += 1
            disk.last_run = fragment.run
            disk.last_offset = offset + upto - at
        at = upto
