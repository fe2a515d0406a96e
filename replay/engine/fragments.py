"""Fragments of nodes on disks: rows of `hierarchy.fragments`, by slot, and by memtable or run.

Blocks of a node are added at its end and die from its end. So the fragments of a slot tile its blocks [0, blocks)
without a gap, newer ones hold higher blocks, and the list from `slots[s].fragment` by `older` descends by `first`; a
merge joins neighbours of that list and moves nothing in it. A fragment that is wholly dead leaves both its lists and
its row at once: every row in a list holds living blocks, and of dead blocks only the count remains (RUN, DISK).
"""

from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE


@inlined
def rows_left(hierarchy):
    """Return how many fragments can still be made; `append` takes one row at most."""
    return hierarchy.free[2]


@inlined
def take_fragment(hierarchy):
    """Take a free row of fragments, which the caller knows to be there; returns it."""
    f = hierarchy.free[0]
    hierarchy.free[0] = hierarchy.fragments[f].next
    hierarchy.free[2] -= 1
    return f


@inlined
def free_fragment(hierarchy, f):
    """Give a row of fragments back, modified in place."""
    hierarchy.fragments[f].blocks = 0
    hierarchy.fragments[f].next = hierarchy.free[0]
    hierarchy.free[0] = f
    hierarchy.free[2] += 1


@kernel
def append(hierarchy, slots, d, s, first, blocks):
    """Write blocks [first, first + blocks) of the node of slot s, its next ones, into the memtable of disk d, in place.

    They lengthen the newest fragment if that is in the memtable, as a flush would join the two.
    """
    hierarchy.disks[d].memtable_blocks += blocks
    newest = slots[s].fragment
    if newest >= 0 and hierarchy.fragments[newest].run < 0:
        hierarchy.fragments[newest].blocks += blocks
        return
    f = take_fragment(hierarchy)
    fragment = hierarchy.fragments[f]
    fragment.offset = 0
    fragment.node = slots[s].node
    fragment.first = first
    fragment.blocks = blocks
    fragment.run = NONE
    fragment.older = newest
    slots[s].fragment = f
    after = hierarchy.disks[d].memtable
    fragment.previous = NONE
    fragment.next = after
    if after >= 0:
        hierarchy.fragments[after].previous = f
    hierarchy.disks[d].memtable = f


@kernel
def trim(hierarchy, slots, s, d, blocks):
    """Let the last `blocks` blocks of slot s, on disk d, die in their fragments, modified in place. O(fragments gone).

    They are in the newest fragments (see above). When all of them die, slots[s].fragment is -1.
    """
    while blocks > 0:
        f = slots[s].fragment
        fragment = hierarchy.fragments[f]
        dead = fragment.blocks if fragment.blocks < blocks else blocks
        blocks -= dead
        fragment.blocks -= dead
        if fragment.run >= 0:
            hierarchy.runs[fragment.run].live_blocks -= dead
            hierarchy.disks[d].dead_blocks += dead
        if fragment.blocks == 0:
            slots[s].fragment = fragment.older
            _unlink(hierarchy, d, f)
            free_fragment(hierarchy, f)


@inlined
def _unlink(hierarchy, d, f):
    """Take fragment f out of its run, or out of the memtable of disk d, modified in place."""
    before = hierarchy.fragments[f].previous
    after = hierarchy.fragments[f].next
    if after >= 0:
        hierarchy.fragments[after].previous = before
    if before >= 0:
        hierarchy.fragments[before].next = after
    elif hierarchy.fragments[f].run >= 0:
        hierarchy.runs[hierarchy.fragments[f].run].head = after
    else:
        hierarchy.disks[d].memtable = after


@inlined
def medium_of(hierarchy, d, level):
    """Return the row of `media` that a level of disk d lies on."""
    last = hierarchy.disks[d].media_count - 1
    return hierarchy.disks[d].media + (level if level < last else last)


@kernel
def begin_read(hierarchy, d):
    """Forget the read that was planned on disk d, modified in place."""
    disk = hierarchy.disks[d]
    disk.last_run = NONE
    disk.last_offset = NONE
    for m in range(disk.media, disk.media + disk.media_count):
        hierarchy.media[m].part_ops = 0
        hierarchy.media[m].part_blocks = 0


@kernel
def read_cost(hierarchy, slots, d, s, first, blocks):
    """Add what reading blocks [first, first + blocks) of the node of slot s costs to the parts of the media of disk d.

    A path is given node by node from the leaf to the root, as its links go, and here fragments from high to low: one
    operation a part, unless it ends just where the part looked at before begins. The number of operations by medium is
    that of the way from the root to the leaf: one for each stretch of offsets in a run that is read without a break.
    """
    disk = hierarchy.disks[d]
    end = first + blocks
    f = slots[s].fragment
    while f >= 0 and hierarchy.fragments[f].first + hierarchy.fragments[f].blocks > first:
        fragment = hierarchy.fragments[f]
        low = max(first, fragment.first)
        high = min(end, fragment.first + fragment.blocks)
        if high > low and fragment.run >= 0:
            medium = hierarchy.media[medium_of(hierarchy, d, hierarchy.runs[fragment.run].level)]
            start = fragment.offset + low - fragment.first
            if fragment.run != disk.last_run or start + high - low != disk.last_offset:
                medium.part_ops += 1
            medium.part_blocks += high - low
            disk.last_run = fragment.run
            disk.last_offset = start
        f = fragment.older


@inlined
def _before(fragments, a, b):
    """Whether fragment a comes before fragment b in a run."""
    if fragments[a].node != fragments[b].node:
        return fragments[a].node < fragments[b].node
    return fragments[a].first < fragments[b].first


@inlined
def _cut(fragments, f):
    """End the list after the ascending stretch that begins at f, modified in place; returns what follows."""
    after = fragments[f].next
    while after >= 0 and _before(fragments, f, after):
        f = after
        after = fragments[f].next
    fragments[f].next = NONE
    return after


@kernel
def sort(fragments, head):
    """Sort a list of fragments by (node, first) along `next`, modified in place; returns its head. `previous` is stale.

    cost   : O(n log(ascending stretches)): sources of a merge are ascending
    source : natural merge sort on links; Knuth, The Art of Computer Programming 3, 5.2.4, algorithm L
    """
    merges = 2
    while merges > 1:
        merges = 0
        rest = head
        head = NONE
        tail = NONE
        while rest >= 0:
            merges += 1
            a = rest
            b = _cut(fragments, a)
            rest = NONE
            if b >= 0:
                rest = _cut(fragments, b)
            while a >= 0 or b >= 0:
                if b < 0 or (a >= 0 and _before(fragments, a, b)):
                    f = a
                    a = fragments[a].next
                else:
                    f = b
                    b = fragments[b].next
                if tail < 0:
                    head = f
                else:
                    fragments[tail].next = f
                tail = f
    return head


@kernel
def merge_two(fragments, a, b):
    """Merge two ascending lists of fragments along `next`, modified in place; returns the head. O(n)."""
    if a < 0 or b < 0:
        return b if a < 0 else a
    if _before(fragments, b, a):
        a, b = b, a
    head = a
    while b >= 0:  # fragment a comes before b, and is the last of those that are merged
        after = fragments[a].next
        if after >= 0 and _before(fragments, after, b):
            a = after
        else:
            fragments[a].next = b
            a = b
            b = after
    return head
