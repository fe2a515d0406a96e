"""Log-structured merge of disks: flushes, merges, and how they and reads share the time of a medium.

A run is a segment of HIERARCHY.md. After a whole insert on disk d the caller does, if memtable_full(hierarchy, d):

    flush(hierarchy, d, now_ps)
    while (level := needs_compaction(hierarchy, d)) >= 0:
        ... gc of this disk, with TTL ...
        merge_level(hierarchy, d, level, now_ps)

which without gc is `flush` and `compact`. Before an insert that may need more rows than rows_left(hierarchy), the
caller does `merge_all`: it leaves at most one fragment of each slot.
"""

from replay.engine.fragments import free_fragment, medium_of, merge_two, sort
from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE

MOST_BLOCKS = 1 << 62


@inlined
def scaled(value, factor, divisor):
    """Return value * factor // divisor for divisor up to 1000, exactly though the product may not fit an int64."""
    return value // divisor * factor + value % divisor * factor // divisor


@inlined
def work_ps(op_ps, block_fs, ops, blocks):
    """Return how long a medium works on its own for operations and blocks."""
    return ops * op_ps + scaled(block_fs, blocks, 1000)


@kernel
def serve_times(hierarchy, m, ops, blocks, now_ps):
    """Return when a read from medium m for a load would start and end; for nothing: now, twice."""
    if ops == 0 and blocks == 0:
        return now_ps, now_ps
    medium = hierarchy.media[m]
    work = work_ps(medium.op_ps, medium.read_block_fs, ops, blocks)
    kept = 1000 - medium.share
    start = max(now_ps, medium.free_ps)
    shared_until = max(medium.background_ps, start)
    slow = scaled(shared_until - start, kept, 1000)
    if work <= slow:
        return start, start - scaled(-work, 1000, kept)  # rounded up
    return start, shared_until + work - slow


@kernel
def serve(hierarchy, m, ops, blocks, now_ps):
    """Read for a load from medium m, modified in place; returns its start and end. For nothing nothing changes."""
    start, done = serve_times(hierarchy, m, ops, blocks, now_ps)
    if ops > 0 or blocks > 0:
        medium = hierarchy.media[m]
        medium.free_ps = done
        medium.read_ops += ops
        medium.read_blocks += blocks
        medium.busy_ps += work_ps(medium.op_ps, medium.read_block_fs, ops, blocks)
    return start, done


@kernel
def background(hierarchy, m, blocks, block_fs, now_ps):
    """Give medium m one operation more of the work that has `share` of its time, modified in place."""
    medium = hierarchy.media[m]
    work = work_ps(medium.op_ps, block_fs, 1, blocks)
    medium.background_ps = max(now_ps, medium.background_ps) + scaled(work, 1000, medium.share)
    medium.busy_ps += work


@inlined
def _join(hierarchy, k, before, f):
    """Let fragment f of run k take over the one before it, whose blocks its own go on from, modified in place."""
    fragment = hierarchy.fragments[f]
    earlier = hierarchy.fragments[before]
    fragment.offset = earlier.offset
    fragment.first = earlier.first
    fragment.blocks += earlier.blocks
    fragment.older = earlier.older
    fragment.previous = earlier.previous
    if earlier.previous >= 0:
        hierarchy.fragments[earlier.previous].next = f
    else:
        hierarchy.runs[k].head = f
    free_fragment(hierarchy, before)


@kernel
def _fill(hierarchy, k, head):
    """Make run k of a sorted list: joined, with offsets, modified in place; returns its blocks."""
    offset = 0
    before = NONE
    f = head
    while f >= 0:
        fragment = hierarchy.fragments[f]
        fragment.run = k
        fragment.offset = offset
        fragment.previous = before
        offset += fragment.blocks
        if before >= 0:
            earlier = hierarchy.fragments[before]
            if earlier.node == fragment.node and earlier.first + earlier.blocks == fragment.first:
                _join(hierarchy, k, before, f)
        before = f
        f = fragment.next
    return offset


@kernel
def write_run(hierarchy, d, level, head, now_ps):
    """Write the ascending fragments from head as a new run of a level of disk d, in place; returns its blocks.

    Of no fragments: no run, and no work.
    """
    if head < 0:
        return 0
    disk = hierarchy.disks[d]
    k = hierarchy.free[1]
    run = hierarchy.runs[k]
    hierarchy.free[1] = run.next
    hierarchy.free[3] -= 1
    run.head = head
    run.level = level
    run.next = disk.runs
    disk.runs = k
    blocks = _fill(hierarchy, k, head)
    run.blocks = blocks
    run.live_blocks = blocks
    disk.written_blocks += blocks
    m = medium_of(hierarchy, d, level)
    background(hierarchy, m, blocks, hierarchy.media[m].write_block_fs, now_ps)
    return blocks


@inlined
def memtable_full(hierarchy, d):
    """Whether the memtable of disk d is to be flushed; dead blocks fill it too."""
    return hierarchy.disks[d].memtable_blocks >= hierarchy.disks[d].memtable_limit


@kernel
def flush(hierarchy, d, now_ps):
    """Write what lives in the memtable of disk d as a run of level 0, modified in place; the memtable is empty then."""
    disk = hierarchy.disks[d]
    head = disk.memtable
    disk.memtable = NONE
    disk.memtable_blocks = 0
    disk.flushes += 1
    blocks = write_run(hierarchy, d, 0, sort(hierarchy.fragments, head), now_ps)
    if blocks > 0:
        medium = hierarchy.media[disk.media]
        medium.flush_ops += 1
        medium.flush_blocks += blocks


@kernel
def needs_compaction(hierarchy, d):
    """Return the lowest level of disk d that is over its limit, -1 if none is."""
    disk = hierarchy.disks[d]
    limit = disk.memtable_limit
    for level in range(disk.levels):
        count = 0
        blocks = 0
        k = disk.runs
        while k >= 0:
            if hierarchy.runs[k].level == level:
                count += 1
                blocks += hierarchy.runs[k].blocks
            k = hierarchy.runs[k].next
        limit = limit * disk.fanout if limit < MOST_BLOCKS // disk.fanout else MOST_BLOCKS
        if level == 0 or not disk.levelled:
            if count >= disk.fanout:
                return level
        elif level < disk.levels - 1 and blocks > limit:
            return level
    return NONE


@inlined
def _read_run(hierarchy, d, k, now_ps):
    """Read run k of disk d for a merge: background work, and the disk is rid of its blocks then, modified in place."""
    run = hierarchy.runs[k]
    m = medium_of(hierarchy, d, run.level)
    medium = hierarchy.media[m]
    medium.compact_ops += 1
    medium.compact_read_blocks += run.blocks
    background(hierarchy, m, run.blocks, medium.read_block_fs, now_ps)
    hierarchy.disks[d].written_blocks -= run.blocks
    hierarchy.disks[d].dead_blocks -= run.blocks - run.live_blocks


@inlined
def free_run(hierarchy, k):
    """Give the row of run k back, modified in place; the caller takes it out of every list, and its blocks away."""
    hierarchy.runs[k].next = hierarchy.free[1]
    hierarchy.free[1] = k
    hierarchy.free[3] += 1


@kernel
def merge_sources(hierarchy, first):
    """Merge the ascending fragments of a list of runs along `next`, neighbours by two, in place; returns their head.

    The rows of the runs are free then.
    cost : O(n log(runs)) steps for n fragments
    """
    runs = hierarchy.runs
    while runs[first].next >= 0:
        k = first
        while k >= 0 and runs[k].next >= 0:
            other = runs[k].next
            runs[k].head = merge_two(hierarchy.fragments, runs[k].head, runs[other].head)
            runs[k].next = runs[other].next
            free_run(hierarchy, other)
            k = runs[k].next
    free_run(hierarchy, first)
    return runs[first].head


@kernel
def merge(hierarchy, d, low, high, target, now_ps):
    """Merge all runs of levels low to high of disk d into one run of level target, modified in place."""
    disk = hierarchy.disks[d]
    runs = hierarchy.runs
    first = NONE  # of the sources, newest first
    last = NONE
    before = NONE
    k = disk.runs
    while k >= 0:
        after = runs[k].next
        if low <= runs[k].level and runs[k].level <= high:
            if before < 0:
                disk.runs = after
            else:
                runs[before].next = after
            _read_run(hierarchy, d, k, now_ps)
            runs[k].next = NONE
            if first < 0:
                first = k
            else:
                runs[last].next = k
            last = k
        else:
            before = k
        k = after
    head = merge_sources(hierarchy, first) if first >= 0 else NONE
    blocks = write_run(hierarchy, d, target, head, now_ps)
    disk.compactions += 1
    if blocks > 0:
        medium = hierarchy.media[medium_of(hierarchy, d, target)]
        medium.compact_ops += 1
        medium.compact_write_blocks += blocks


@kernel
def merge_level(hierarchy, d, level, now_ps):
    """Merge a level of disk d into the next (on the last: into itself), levelled with what is there. In place."""
    disk = hierarchy.disks[d]
    target = level + 1 if level < disk.levels - 1 else level
    merge(hierarchy, d, level, target if disk.levelled else level, target, now_ps)


@kernel
def compact(hierarchy, d, now_ps):
    """Merge levels of disk d until none is over its limit, modified in place; for disks without TTL."""
    level = needs_compaction(hierarchy, d)
    while level >= 0:
        merge_level(hierarchy, d, level, now_ps)
        level = needs_compaction(hierarchy, d)


@kernel
def merge_all(hierarchy, d, now_ps):
    """Flush the memtable of disk d, then merge all its runs into one of the last level, modified in place."""
    flush(hierarchy, d, now_ps)
    last = hierarchy.disks[d].levels - 1
    merge(hierarchy, d, 0, last, last, now_ps)


@kernel
def wipe(hierarchy, d, now_ps):
    """Empty disk d, all of whose blocks are dead, and forget the work that its media have not done, in place."""
    disk = hierarchy.disks[d]
    disk.memtable_blocks = 0
    k = disk.runs
    while k >= 0:
        after = hierarchy.runs[k].next
        disk.written_blocks -= hierarchy.runs[k].blocks
        disk.dead_blocks -= hierarchy.runs[k].blocks - hierarchy.runs[k].live_blocks
        free_run(hierarchy, k)
        k = after
    disk.runs = NONE
    for m in range(disk.media, disk.media + disk.media_count):
        medium = hierarchy.media[m]
        medium.free_ps = min(medium.free_ps, now_ps)
        medium.background_ps = min(medium.background_ps, now_ps)
