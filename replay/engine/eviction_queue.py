"""The queue of a holder's unpinned slots by (spared, score, place): a list for scores that rise, a heap for others."""

from replay.engine.jit import inlined, kernel
from replay.engine.schema import IN_HEAP, NONE


@inlined
def goes_before(slots, a, b):
    """Whether slot a leaves before slot b."""
    x = slots[a]
    y = slots[b]
    if x.spared != y.spared:
        return x.spared < y.spared
    if x.score != y.score:
        return x.score < y.score
    return x.queued < y.queued


@kernel
def rise(cache, first, place):
    """Move the slot at a place of the heap that starts at `first` up to where it belongs, modified in place."""
    heap = cache.queue
    slots = cache.slots
    s = heap[first + place]
    while place > 0:
        above = (place - 1) >> 1
        other = heap[first + above]
        if not goes_before(slots, s, other):
            break
        heap[first + place] = other
        slots[other].next = place
        place = above
    heap[first + place] = s
    slots[s].next = place
    return place


@kernel
def sink(cache, first, place, count):
    """Move the slot at a place of the heap of `count` slots down to where it belongs, modified in place."""
    heap = cache.queue
    slots = cache.slots
    s = heap[first + place]
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and goes_before(slots, heap[first + below + 1], heap[first + below]):
            below += 1
        other = heap[first + below]
        if not goes_before(slots, other, s):
            break
        heap[first + place] = other
        slots[other].next = place
        place = below
    heap[first + place] = s
    slots[s].next = place


@inlined
def unlink(cache, instance, s):
    """Take slot s out of the eviction queue, modified in place."""
    slots = cache.slots
    before = slots[s].previous
    after = slots[s].next
    if before == IN_HEAP:
        leave_heap(cache, instance, after)
        return
    if before < 0:
        instance.lru_head = after
    else:
        slots[before].next = after
    if after < 0:
        instance.lru_tail = before
    else:
        slots[after].previous = before


@kernel
def leave_heap(cache, instance, place):
    """Take the slot at a place out of the heap of queued slots, modified in place."""
    first = instance.slot_first
    last = instance.heap_count - 1
    instance.heap_count = last
    if place != last:
        cache.queue[first + place] = cache.queue[first + last]
        sink(cache, first, rise(cache, first, place), last)


@kernel
def join_heap(cache, instance, s):
    """Put slot s into the heap of queued slots, modified in place."""
    first = instance.slot_first
    count = instance.heap_count
    instance.heap_count = count + 1
    cache.queue[first + count] = s
    cache.slots[s].previous = IN_HEAP
    rise(cache, first, count)


@inlined
def link(cache, instance, s):
    """Queue slot s by its score and `queued`, modified in place. O(1) if it goes last."""
    slots = cache.slots
    tail = instance.lru_tail
    if slots[s].spared or (tail >= 0 and goes_before(slots, s, tail)):
        join_heap(cache, instance, s)
        return
    slots[s].previous = tail
    slots[s].next = NONE
    instance.lru_tail = s
    if tail < 0:
        instance.lru_head = s
    else:
        slots[tail].next = s


@inlined
def first_queued(cache, instance):
    """Return the slot that leaves first, -1 if none is queued."""
    head = instance.lru_head
    if instance.heap_count == 0:
        return head
    top = cache.queue[instance.slot_first]
    if head < 0 or goes_before(cache.slots, top, head):
        return top
    return head


@inlined
def queue_anew(cache, instance, s, score):
    """Queue slot s, which is queued, by another score, after equal ones, modified in place."""
    unlink(cache, instance, s)
    cache.slots[s].score = score
    instance.queued += 1
    cache.slots[s].queued = instance.queued
    link(cache, instance, s)
