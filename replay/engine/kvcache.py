"""KV blocks of an instance: free, private, pinned or cached prefixes on the compressed trie.

Nodes leave from the end, lowest score first. A node's score is at least that of every resident child (`floor`), so what
is resident is always a set of whole prefixes. With the score of `lru` this is exactly least-recently-used on blocks.
"""

from replay.engine.jit import inlined, kernel
from replay.engine.schema import BAD_EVICT, NONE


@inlined
def row_of(cache, node, i):
    """Return the row of `slots` that node has on instance i, -1 if it is not resident."""
    s = cache.slot_of[node, i]
    return s if s >= NONE else -2 - s


@inlined
def deepest_resident(cache, leaf, i):
    """Return the deepest node on the path to `leaf` that is resident on instance i, wholly or in part; -1 if none."""
    node = leaf
    while node >= 0 and cache.slot_of[node, i] == NONE:
        node = cache.nodes[node].parent
    return node


@inlined
def resident_blocks(cache, node, i):
    """Return the blocks from the root to the end of what is resident of `node` [cluster blocks]."""
    if node < 0:
        return 0
    slot = cache.slots[i, row_of(cache, node, i)]
    return slot.start_blocks + slot.blocks


@inlined
def usable_tokens(blocks, context_tokens, block_tokens):
    """Return how many tokens of a context a resident prefix saves: the last token is always computed.

    source : vLLM automatic prefix caching
    """
    most = (context_tokens - 1) // block_tokens * block_tokens
    hit = blocks * block_tokens
    return hit if hit < most else most


@kernel
def hit_tokens(cache, leaf, i, prompt_tokens, block_tokens):
    """Return the prompt tokens that instance i need not compute. O(nodes missing)."""
    node = deepest_resident(cache, leaf, i)
    return usable_tokens(resident_blocks(cache, node, i), prompt_tokens, block_tokens)


@inlined
def unlink(slots, instance, i, s):
    """Take slot s out of the eviction queue, modified in place."""
    before = slots[i, s].previous
    after = slots[i, s].next
    if before < 0:
        instance.lru_head = after
    else:
        slots[i, before].next = after
    if after < 0:
        instance.lru_tail = before
    else:
        slots[i, after].previous = before


@inlined
def link(slots, instance, i, s):
    """Queue slot s for eviction by its score, after equal ones, modified in place. O(1) if scores rise with time."""
    score = slots[i, s].score
    before = instance.lru_tail
    while before >= 0 and slots[i, before].score > score:
        before = slots[i, before].previous
    after = instance.lru_head if before < 0 else slots[i, before].next
    slots[i, s].previous = before
    slots[i, s].next = after
    if before < 0:
        instance.lru_head = s
    else:
        slots[i, before].next = s
    if after < 0:
        instance.lru_tail = s
    else:
        slots[i, after].previous = s


@inlined
def unpinned_blocks(cache, node, i):
    """Return how many blocks on the resident path to `node` are cached, so that pinning it would take them away."""
    blocks = 0
    while node >= 0:
        slot = cache.slots[i, row_of(cache, node, i)]
        if slot.pins > 0:
            return blocks  # every ancestor of a pinned node is pinned
        blocks += slot.blocks
        node = cache.nodes[node].parent
    return blocks


@kernel
def pin_path(cache, view, instance, i, node):
    """Hold every node from `node` to the root on instance i; cached blocks become pinned. Modified in place."""
    slots = cache.slots
    while node >= 0:
        s = row_of(cache, node, i)
        slot = slots[i, s]
        if slot.pins == 0:
            unlink(slots, instance, i, s)
            view.cached_blocks -= slot.blocks
            instance.pinned_blocks += slot.blocks
        slot.pins += 1
        node = cache.nodes[node].parent


@kernel
def release_path(state, policies, i, node):
    """Let go of every node from `node` to the root on instance i; what is not pinned becomes cached, in place."""
    cache = state.cache
    slots = cache.slots
    view = state.views[i]
    instance = state.instances[i]
    now_ps = state.cluster[0].now_ps
    floor = -1e308
    while node >= 0:
        s = row_of(cache, node, i)
        slot = slots[i, s]
        slot.pins -= 1
        if floor > slot.floor:
            slot.floor = floor
        if slot.pins == 0:
            slot.last_used_ps = now_ps
            slot.uses += 1
            score = policies.evict(slot, now_ps, state.tunables)
            if score != score:
                state.cluster[0].fault = BAD_EVICT
                state.cluster[0].fault_at = node
                score = 0.0
            if score < slot.floor:
                score = slot.floor
            slot.score = score
            link(slots, instance, i, s)
            view.cached_blocks += slot.blocks
            instance.pinned_blocks -= slot.blocks
            floor = score
        node = cache.nodes[node].parent


@kernel
def evict(cache, view, instance, i, blocks):
    """Free `blocks` cached blocks of instance i, lowest score first, each node from its end. Modified in place.

    The caller has checked that so many are cached.
    """
    slots = cache.slots
    instance.evicted_blocks += blocks
    view.cached_blocks -= blocks
    view.free_blocks += blocks
    while blocks > 0:
        s = instance.lru_head
        slot = slots[i, s]
        if slot.blocks > blocks:
            slot.blocks -= blocks
            cache.slot_of[slot.node, i] = -2 - s
            return
        blocks -= slot.blocks
        unlink(slots, instance, i, s)
        cache.slot_of[slot.node, i] = NONE
        slot.next = instance.slot_free
        instance.slot_free = s


@inlined
def take_private(cache, view, instance, i, blocks):
    """Turn `blocks` into private ones: free ones first, then evicted ones, in place; the caller checks the room."""
    if blocks > view.free_blocks:
        evict(cache, view, instance, i, blocks - view.free_blocks)
    view.free_blocks -= blocks
    instance.private_blocks += blocks


@inlined
def free_private(view, instance, blocks):
    """Turn `blocks` private blocks into free ones, modified in place."""
    view.free_blocks += blocks
    instance.private_blocks -= blocks


@inlined
def new_slot(cache, instance, i, node, now_ps):
    """Give a node a row on instance i, held once and without blocks; returns the row, for the caller to note."""
    s = instance.slot_free
    if s >= 0:
        instance.slot_free = cache.slots[i, s].next
    else:
        s = instance.slots_used
        instance.slots_used += 1
    slot = cache.slots[i, s]
    slot.first_used_ps = now_ps
    slot.last_used_ps = now_ps
    slot.score = 0.0
    slot.floor = -1e308
    slot.node = node
    slot.blocks = 0
    slot.start_blocks = cache.nodes[node].start_blocks
    slot.uses = 0
    slot.pins = 1
    return s


@kernel
def publish(state, i, r):
    """Make the whole prompt of request r reusable on instance i, out of its private blocks. Modified in place.

    Where another request published the same blocks meanwhile, the copy of r is freed (as SGLang's radix cache does).
    """
    cache = state.cache
    view = state.views[i]
    instance = state.instances[i]
    job = state.jobs[r]
    now_ps = state.cluster[0].now_ps
    held = job.pinned
    node = job.leaf
    while node >= 0:
        s = row_of(cache, node, i)
        ours = node == held  # from here to the root r holds every node already
        if s < 0:
            s = new_slot(cache, instance, i, node, now_ps)
        elif not ours:
            if cache.slots[i, s].pins == 0:
                unlink(cache.slots, instance, i, s)
                view.cached_blocks -= cache.slots[i, s].blocks
                instance.pinned_blocks += cache.slots[i, s].blocks
            cache.slots[i, s].pins += 1
        slot = cache.slots[i, s]
        missing = cache.nodes[node].blocks - slot.blocks
        already = slot.blocks - held_blocks(job, cache, node, ours)
        slot.blocks += missing
        cache.slot_of[node, i] = s
        instance.pinned_blocks += missing
        instance.private_blocks -= missing
        free_private(view, instance, already)
        job.private_blocks -= missing + already
        if ours:
            break
        node = cache.nodes[node].parent
    job.pinned = job.leaf
    job.pinned_blocks = cache.nodes[job.leaf].start_blocks + cache.nodes[job.leaf].blocks


@inlined
def held_blocks(job, cache, node, ours):
    """Return how many blocks of `node` request r found resident when it was admitted."""
    if not ours:
        return 0
    return job.pinned_blocks - cache.nodes[node].start_blocks


@kernel
def insert(state, policies, i, leaf, target_blocks):
    """Put the first `target_blocks` blocks of a path into the cache of instance i, while they fit, in place."""
    cache = state.cache
    view = state.views[i]
    instance = state.instances[i]
    now_ps = state.cluster[0].now_ps
    top = deepest_resident(cache, leaf, i)
    have = resident_blocks(cache, top, i)
    if have >= target_blocks:
        return
    pin_path(cache, view, instance, i, top)
    room = view.free_blocks + view.cached_blocks
    extra = min(target_blocks - have, room)
    end = have + extra
    take_private(cache, view, instance, i, extra)
    node = leaf
    while node >= 0 and cache.nodes[node].start_blocks >= end:
        node = cache.nodes[node].parent
    deepest = node
    while node >= 0 and extra > 0:
        s = row_of(cache, node, i)
        if s < 0:
            s = new_slot(cache, instance, i, node, now_ps)
        slot = cache.slots[i, s]
        whole = cache.nodes[node].start_blocks + cache.nodes[node].blocks
        upto = whole if whole < end else end
        added = upto - slot.start_blocks - slot.blocks
        slot.blocks += added
        cache.slot_of[node, i] = s if upto == whole else -2 - s
        extra -= added
        instance.pinned_blocks += added
        instance.private_blocks -= added
        node = cache.nodes[node].parent
    release_path(state, policies, i, deepest if deepest >= 0 else top)
