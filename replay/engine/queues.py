"""Queues of requests as links inside JOB rows: pairing heaps by (key, row) and FIFO lists; -1 is empty."""

from replay.engine.jit import inlined, kernel


@inlined
def earlier(jobs, a, b):
    """Whether request a goes before b: by key, then closed-loop arrival time, then row."""
    if jobs[a].key != jobs[b].key:
        return jobs[a].key < jobs[b].key
    if jobs[a].think_ps != jobs[b].think_ps:
        return jobs[a].think_ps < jobs[b].think_ps
    return a < b


@inlined
def meld(jobs, a, b):
    """Join two heaps without siblings, modified in place; returns the root."""
    if a < 0:
        return b
    if b < 0:
        return a
    if earlier(jobs, b, a):
        a, b = b, a
    jobs[b].next = jobs[a].child
    jobs[a].child = b
    return a


@inlined
def push(jobs, root, r):
    """Add request r to a heap, modified in place; returns the new root. O(1)."""
    jobs[r].child = -1
    jobs[r].next = -1
    return meld(jobs, root, r)


@kernel
def pop(jobs, root):
    """Remove the root, modified in place; returns the new root, -1 if none is left.

    cost   : O(log n) amortised
    source : Fredman, Sedgewick, Sleator, Tarjan, The pairing heap, Algorithmica 1986 (two passes)
    """
    first = jobs[root].child
    jobs[root].child = -1
    pairs = -1
    while first >= 0:
        a = first
        b = jobs[a].next
        jobs[a].next = -1
        if b < 0:
            first = -1
        else:
            first = jobs[b].next
            jobs[b].next = -1
            a = meld(jobs, a, b)
        jobs[a].next = pairs
        pairs = a
    result = -1
    while pairs >= 0:
        following = jobs[pairs].next
        jobs[pairs].next = -1
        result = meld(jobs, result, pairs)
        pairs = following
    return result


@inlined
def append_row(jobs, head, tail, r):
    """Put request r at the end of a list of rows, empty where head is -1, modified in place; returns its head."""
    jobs[r].next = -1
    if head < 0:
        return r
    jobs[tail].next = r
    return head


@inlined
def append_prefill(jobs, instance, r):
    """Put request r at the end of the instance's list of running prefills, modified in place."""
    jobs[r].next = -1
    if instance.prefill_tail < 0:
        instance.prefill_head = r
    else:
        jobs[instance.prefill_tail].next = r
    instance.prefill_tail = r


@kernel
def remove_prefill(jobs, instance, r):
    """Take request r out of the instance's list of running prefills, modified in place. O(list)."""
    previous = -1
    current = instance.prefill_head
    while current != r:
        previous = current
        current = jobs[current].next
    following = jobs[r].next
    if previous < 0:
        instance.prefill_head = following
    else:
        jobs[previous].next = following
    if following < 0:
        instance.prefill_tail = previous
    jobs[r].next = -1


@inlined
def append_link(jobs, instance, r):
    """Put request r at the end of what the instance's network card carries, modified in place."""
    jobs[r].next = -1
    if instance.link_tail < 0:
        instance.link_head = r
    else:
        jobs[instance.link_tail].next = r
    instance.link_tail = r


@inlined
def pop_link(jobs, instance):
    """Take the request delivered next off the instance's network card, modified in place; returns its row."""
    r = instance.link_head
    instance.link_head = jobs[r].next
    if instance.link_head < 0:
        instance.link_tail = -1
    jobs[r].next = -1
    return r
