"""How a disk keeps order: memtables are flushed as sorted segments, segments merged into larger ones, reads served.

source : O'Neil, Cheng, Gawlick, O'Neil, The log-structured merge-tree, Acta Informatica 1996; tiered and levelled as in
         Luo, Carey, LSM-based storage techniques: a survey, VLDB Journal 2020
"""

from replay.engine.fragments import medium_of
from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE


@kernel
def serve_times(hierarchy, m, ops, blocks, now_ps):
    """Return when medium m would begin and end to read so much: slower while flushes and compactions keep it busy."""
    medium = hierarchy.media[m]
    share = hierarchy.disks[m // hierarchy.disks[0].media_count].share
    work_ps = ops * medium.op_ps + blocks * medium.read_block_fs // 1000
    start_ps = max(now_ps, medium.free_ps)
    if medium.background_ps <= start_ps:
        return start_ps, start_ps + work_ps
    slow_ps = (medium.background_ps - start_ps) * (1000 - share) // 1000
    if work_ps <= slow_ps:
        return start_ps, start_ps + (work_ps * 1000 + 999 - share) // (1000 - share)
    return start_ps, medium.background_ps + work_ps - slow_ps


@kernel
def serve(hierarchy, m, ops, blocks, now_ps):
    """Let medium m read so much after what it reads already, modified in place; returns as `serve_times`."""
    start_ps, done_ps = serve_times(hierarchy, m, ops, blocks, now_ps)
    medium = hierarchy.media[m]
    medium.free_ps = done_ps
    medium.busy_ps += ops * medium.op_ps + blocks * medium.read_block_fs // 1000
    return start_ps, done_ps


@inlined
def work(hierarchy, d, m, carry_ps, now_ps):
    """Keep medium m of disk d busy in the background for one operation and a transfer of carry_ps, modified in place."""
    medium = hierarchy.media[m]
    medium.busy_ps += medium.op_ps + carry_ps
    share = hierarchy.disks[d].share
    medium.background_ps = max(now_ps, medium.background_ps) + (medium.op_ps + carry_ps) * 1000 // share


@kernel
def rows_left(hierarchy):
    """Return how many fragments can be written before rows run out, at most 4096."""
    count = 0
    f = hierarchy.free[0]
    while f >= 0 and count < 4096:
        f = hierarchy.fragments[f].next
        count += 1
    return count


@inlined
def free_fragment(hierarchy, f):
    """Give back the row of a fragment, modified in place."""
    hierarchy.fragments[f].next = hierarchy.free[0]
    hierarchy.free[0] = f


@inlined
def goes_first(fragments, a, b):
    """Whether fragment a stands before fragment b: by node, then by block."""
    if fragments[a].node != fragments[b].node:
        return fragments[a].node < fragments[b].node
    return fragments[a].first < fragments[b].first


@kernel
def sift(hierarchy, place, count):
    """Let the fragment at a place of the heap `sorting[:count]`, latest on top, sink to where it belongs, in place."""
    fragments = hierarchy.fragments
    heap = hierarchy.sorting
    f = heap[place]
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and goes_first(fragments, heap[below], heap[below + 1]):
            below += 1
        if not goes_first(fragments, f, heap[below]):
            break
        heap[place] = heap[below]
        place = below
    heap[place] = f


@kernel
def sort(hierarchy, count):
    """Sort the fragments `sorting[:count]` by node and block, modified in place. O(n log n)."""
    heap = hierarchy.sorting
    for place in range(count // 2 - 1, -1, -1):
        sift(hierarchy, place, count)
    for last in range(count - 1, 0, -1):
        f = heap[last]
        heap[last] = heap[0]
        heap[0] = f
        sift(hierarchy, 0, last)


@kernel
def join(hierarchy, slots, s, q):
    """Make one of neighbouring fragments of slot s that both go into run q, modified in place."""
    fragments = hierarchy.fragments
    newer = NONE
    f = slots[s].fragment
    while f >= 0:
        older = fragments[f].older
        if older >= 0 and fragments[f].run == q and fragments[older].run == q:
            fragments[older].blocks += fragments[f].blocks
            fragments[f].blocks = 0
            fragments[f].slot = NONE
            if newer < 0:
                slots[s].fragment = older
            else:
                fragments[newer].older = older
        else:
            newer = f
        f = older


@kernel
def gather(hierarchy, f, q, count):
    """Move a list of fragments to `sorting` from place `count` on, as parts of run q; returns how many there are then."""
    fragments = hierarchy.fragments
    while f >= 0:
        following = fragments[f].next
        if fragments[f].blocks > 0:
            fragments[f].run = q
            hierarchy.sorting[count] = f
            count += 1
        else:
            free_fragment(hierarchy, f)
        f = following
    return count


@kernel
def new_run(hierarchy, d, level):
    """Return a row for a new segment of disk d, empty; modified in place."""
    q = hierarchy.free[1]
    run = hierarchy.runs[q]
    hierarchy.free[1] = run.next
    disk = hierarchy.disks[d]
    disk.sequence += 1
    run.sequence = disk.sequence
    run.blocks = 0
    run.live_blocks = 0
    run.head = NONE
    run.disk = d
    run.level = level
    return q


@kernel
def write_run(hierarchy, slots, q, count):
    """Write the fragments `sorting[:count]` as segment q: joined, sorted, in place; returns its blocks. Empty: row freed."""
    fragments = hierarchy.fragments
    run = hierarchy.runs[q]
    for k in range(count):
        if fragments[hierarchy.sorting[k]].blocks > 0:
            join(hierarchy, slots, fragments[hierarchy.sorting[k]].slot, q)
    kept = 0
    for k in range(count):
        f = hierarchy.sorting[k]
        if fragments[f].blocks > 0:
            hierarchy.sorting[kept] = f
            kept += 1
        else:
            free_fragment(hierarchy, f)
    sort(hierarchy, kept)
    for k in range(kept - 1, -1, -1):
        f = hierarchy.sorting[k]
        fragments[f].next = run.head
        run.head = f
    for k in range(kept):
        f = hierarchy.sorting[k]
        fragments[f].offset = run.blocks
        run.blocks += fragments[f].blocks
    run.live_blocks = run.blocks
    disk = hierarchy.disks[run.disk]
    if kept == 0:
        run.next = hierarchy.free[1]
        hierarchy.free[1] = q
    else:
        run.next = disk.runs
        disk.runs = q
    return run.blocks


@kernel
def flush(hierarchy, slots, d, now_ps):
    """Write the memtable of disk d as a segment of level 0, in the background, and empty it. Modified in place."""
    disk = hierarchy.disks[d]
    q = new_run(hierarchy, d, 0)
    count = gather(hierarchy, disk.memtable, q, 0)
    disk.memtable = NONE
    disk.memtable_blocks = 0
    blocks = write_run(hierarchy, slots, q, count)
    if blocks > 0:
        m = medium_of(hierarchy, d, 0)
        medium = hierarchy.media[m]
        work(hierarchy, d, m, blocks * medium.write_block_fs // 1000, now_ps)
        medium.flush_ops += 1
        medium.flush_blocks += blocks
        disk.flushes += 1


@kernel
def wipe(hierarchy, d, now_ps):
    """Forget all that disk d had, whose slots are gone, and what its media were to do after now. Modified in place."""
    disk = hierarchy.disks[d]
    free_list(hierarchy, disk.memtable)
    disk.memtable = NONE
    disk.memtable_blocks = 0
    while disk.runs >= 0:
        q = disk.runs
        run = hierarchy.runs[q]
        disk.runs = run.next
        free_list(hierarchy, run.head)
        run.blocks = 0
        run.next = hierarchy.free[1]
        hierarchy.free[1] = q
    for m in range(disk.media, disk.media + disk.media_count):
        hierarchy.media[m].free_ps = min(hierarchy.media[m].free_ps, now_ps)
        hierarchy.media[m].background_ps = min(hierarchy.media[m].background_ps, now_ps)


@kernel
def free_list(hierarchy, f):
    """Give back the rows of a list of fragments, modified in place."""
    while f >= 0:
        following = hierarchy.fragments[f].next
        free_fragment(hierarchy, f)
        f = following


@kernel
def needs_compaction(hierarchy, d):
    """Return the lowest level of disk d that is over its limit, -1 if none is. O(levels * segments)."""
    disk = hierarchy.disks[d]
    limit = disk.memtable_limit * disk.fanout
    for level in range(disk.levels):
        segments = 0
        blocks = 0
        q = disk.runs
        while q >= 0:
            run = hierarchy.runs[q]
            if run.level == level:
                segments += 1
                blocks += run.blocks
            q = run.next
        if segments >= disk.fanout and (level == 0 or not disk.levelled):
            return level
        if disk.levelled and level > 0 and level < disk.levels - 1 and blocks > limit:
            return level
        limit *= disk.fanout
    return NONE


@kernel
def merge(hierarchy, slots, d, levels, now_ps):
    """Merge the segments of disk d of some levels into one, in the background, modified in place.

    levels : lowest + 256 * highest source level + 65536 * level of the result
    """
    disk = hierarchy.disks[d]
    lowest = levels % 256
    highest = levels // 256 % 256
    target = levels // 65536
    q = new_run(hierarchy, d, target)
    count = 0
    previous = NONE
    source = disk.runs
    while source >= 0:
        run = hierarchy.runs[source]
        following = run.next
        if lowest <= run.level <= highest:
            m = medium_of(hierarchy, d, run.level)
            work(hierarchy, d, m, run.blocks * hierarchy.media[m].read_block_fs // 1000, now_ps)
            hierarchy.media[m].compact_ops += 1
            hierarchy.media[m].compact_read_blocks += run.blocks
            count = gather(hierarchy, run.head, q, count)
            if previous < 0:
                disk.runs = following
            else:
                hierarchy.runs[previous].next = following
            run.blocks = 0
            run.next = hierarchy.free[1]
            hierarchy.free[1] = source
        else:
            previous = source
        source = following
    blocks = write_run(hierarchy, slots, q, count)
    disk.compactions += 1
    if blocks > 0:
        m = medium_of(hierarchy, d, target)
        work(hierarchy, d, m, blocks * hierarchy.media[m].write_block_fs // 1000, now_ps)
        hierarchy.media[m].compact_ops += 1
        hierarchy.media[m].compact_write_blocks += blocks


@kernel
def merge_level(hierarchy, slots, d, level, now_ps):
    """Merge a level of disk d that is over its limit into the next, modified in place."""
    disk = hierarchy.disks[d]
    target = min(level + 1, disk.levels - 1)
    highest = target if disk.levelled else level
    merge(hierarchy, slots, d, level + 256 * highest + 65536 * target, now_ps)


@kernel
def merge_all(hierarchy, slots, d, now_ps):
    """Merge all that disk d has into one segment of its last level, modified in place: rows of fragments run short."""
    flush(hierarchy, slots, d, now_ps)
    last = hierarchy.disks[d].levels - 1
    merge(hierarchy, slots, d, 256 * last + 65536 * last, now_ps)
