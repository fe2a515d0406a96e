"""KV blocks of a holder: free, private, pinned or cached prefixes on the compressed trie.

Nodes leave from the end, lowest score first (evicting.py). A node's score is at least that of every resident child
(`floor`), so what is resident is always a set of whole prefixes. With the score of `lru` this is exactly
least-recently-used on blocks. A holder is an instance's HBM (row i of `instances`) or a store (rows after them).
"""

from replay.engine.evicting import ask_evict, column_of, evict, holder_of, is_dead, none_is_dead, note_change
from replay.engine.eviction_queue import link, unlink
from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE, TURNS


@inlined
def row_of(cache, node, c):
    """Return the row of `slots` that node has in column c, -1 if it is not resident."""
    s = cache.slot_of[node, c]
    return s if s >= NONE else -2 - s


@inlined
def deepest_resident(cache, leaf, c):
    """Return the deepest node on the path to `leaf` that is resident in column c, wholly or in part; -1 if none."""
    node = leaf
    while node >= 0 and cache.slot_of[node, c] == NONE:
        node = cache.nodes[node].parent
    return node


@inlined
def resident_blocks(cache, node, c):
    """Return the blocks from the root to the end of what is resident of `node` [cluster blocks]."""
    if node < 0:
        return 0
    return cache.nodes[node].start_blocks + cache.slots[row_of(cache, node, c)].blocks


@kernel
def live_part(state, leaf, node, c):
    """Return what a lookup sees of the resident path that ends in `node`: (deepest node, blocks). O(path).

    source : own; the exact match is that of an embedding parameter server (whole key or nothing)
    """
    cache = state.cache
    deepest = node
    while node >= 0:
        if is_dead(state, row_of(cache, node, c)):
            deepest = cache.nodes[node].parent
        node = cache.nodes[node].parent
    blocks = resident_blocks(cache, deepest, c)
    if state.cluster[0].exact_match:
        whole = deepest == leaf and deepest >= 0 and cache.slot_of[leaf, c] >= 0
        if not whole or not cache.slots[cache.slot_of[leaf, c]].whole:
            return NONE, 0
    return deepest, blocks


@inlined
def visible(state, leaf, c):
    """Return the deepest node on the path to `leaf` that a lookup finds in column c, -1 if none, and its end."""
    node = deepest_resident(state.cache, leaf, c)
    if node < 0 or (none_is_dead(state, holder_of(state, c)) and not state.cluster[0].exact_match):
        return node, resident_blocks(state.cache, node, c)
    return live_part(state, leaf, node, c)


@inlined
def usable_tokens(state, blocks, context_tokens, block_tokens):
    """Return how many tokens of a context a resident prefix saves: the last token is always computed.

    source : vLLM automatic prefix caching; whole storage units only as in DeepSeek's context caching
    """
    hit = blocks * block_tokens
    if hit >= context_tokens:
        hit = (context_tokens - 1) // block_tokens * block_tokens
    unit_tokens = state.cluster[0].unit_tokens
    return hit if unit_tokens == 0 else hit - hit % unit_tokens


@kernel
def hit_tokens(state, leaf, i, prompt_tokens, block_tokens):
    """Return the prompt tokens that instance i need not compute. O(nodes missing)."""
    _, blocks = visible(state, leaf, i)
    return usable_tokens(state, blocks, prompt_tokens, block_tokens)


@inlined
def unpinned_blocks(cache, node, c):
    """Return how many blocks on the resident path to `node` are cached, so that pinning it would take them away."""
    blocks = 0
    while node >= 0:
        slot = cache.slots[row_of(cache, node, c)]
        if slot.pins > 0:
            return blocks  # every ancestor of a pinned node is pinned
        blocks += slot.blocks
        node = cache.nodes[node].parent
    return blocks


@inlined
def pin(cache, view, instance, s):
    """Hold slot s once more; its cached blocks become pinned. Modified in place."""
    slot = cache.slots[s]
    if slot.pins == 0:
        unlink(cache, instance, s)
        view.cached_blocks -= slot.blocks
        instance.pinned_blocks += slot.blocks
    slot.pins += 1


@kernel
def pin_path(state, i, node):
    """Hold every node from `node` to the root on holder i; cached blocks become pinned. Modified in place."""
    cache = state.cache
    c = column_of(state, i)
    while node >= 0:
        pin(cache, state.views[i], state.instances[i], row_of(cache, node, c))
        node = cache.nodes[node].parent


@kernel
def count_reuse(state, i, r, node):
    """Note for the classes of requests that r uses its path to `node` on holder i again, and that it is its user now.

    Every use of a node counts for the class of r; a use after another within the HBM is reuse of the class before.
    """
    cache = state.cache
    request = state.requests[r]
    group = (request.kind + 1) * TURNS + min(request.turn, TURNS - 1)
    while node >= 0:
        s = row_of(cache, node, i)
        if s >= 0:
            slot = cache.slots[s]
            past = cache.pasts[s]
            if slot.pins == 0 and slot.uses > 0 and past.group >= 0:
                before = cache.classes[past.group]
                before.reuses += 1
                before.reuse_s += (state.cluster[0].now_ps - slot.last_used_ps) * 1e-12
            past.group = group
            cache.classes[group].uses += 1
        node = cache.nodes[node].parent


@kernel
def release_path(state, i, node):
    """Let go of every node from `node` to the root on holder i; what is not pinned becomes cached, in place."""
    cache = state.cache
    slots = cache.slots
    view = state.views[i]
    instance = state.instances[i]
    now_ps = state.cluster[0].now_ps
    c = column_of(state, i)
    floor = -1e308
    while node >= 0:
        s = row_of(cache, node, c)
        slot = slots[s]
        slot.pins -= 1
        if floor > slot.floor:
            slot.floor = floor
        if slot.pins == 0:
            slot.last_used_ps = now_ps
            slot.uses += 1
            score = ask_evict(state, i, s, 0)
            if score < slot.floor:
                score = slot.floor
            slot.score = score
            instance.queued += 1
            slot.queued = instance.queued
            link(cache, instance, s)
            view.cached_blocks += slot.blocks
            instance.pinned_blocks -= slot.blocks
            floor = score
        node = cache.nodes[node].parent


@inlined
def take_private(state, i, blocks):
    """Turn `blocks` into private ones: free ones first, then evicted ones, in place; the caller checks the room."""
    view = state.views[i]
    if blocks > view.free_blocks:
        evict(state, i, blocks - view.free_blocks)
    view.free_blocks -= blocks
    state.instances[i].private_blocks += blocks


@inlined
def free_private(view, instance, blocks):
    """Turn `blocks` private blocks into free ones, modified in place."""
    view.free_blocks += blocks
    instance.private_blocks -= blocks


@kernel
def new_slot(state, i, node):
    """Give a node a row on holder i, held once and without blocks; returns the row, for the caller to note."""
    instance = state.instances[i]
    now_ps = state.cluster[0].now_ps
    s = instance.slot_free
    if s >= 0:
        instance.slot_free = state.cache.slots[s].next
    else:
        s = instance.slots_used
        instance.slots_used += 1
    slot = state.cache.slots[s]
    slot.last_used_ps = now_ps
    slot.score = 0.0
    slot.floor = -1e308
    slot.node = node
    slot.blocks = 0
    slot.uses = 0
    slot.pins = 1
    slot.fragment = NONE
    slot.whole = 0
    slot.spared = 0
    past = state.cache.pasts[s]
    past.first_used_ps = now_ps
    past.looked = 0
    past.uses_before = 1
    past.group = NONE
    if state.cluster[0].lookahead and i < state.cluster[0].num_instances:
        slot.spared = 1 if state.hierarchy.needed[node, i] > 0 else 0
    return s


@inlined
def renew(state, s):
    """Let slot s, if it is dead, live again from now on: its blocks were made or sent anew. Modified in place."""
    if is_dead(state, s):
        state.cache.pasts[s].first_used_ps = state.cluster[0].now_ps
        state.cache.slots[s].last_used_ps = state.cluster[0].now_ps


@kernel
def settle_group(state, i, r, node):
    """Name request r as the last user of the path to `node`, published on instance i, modified in place."""
    cache = state.cache
    request = state.requests[r]
    group = (request.kind + 1) * TURNS + min(request.turn, TURNS - 1)
    while node >= 0:
        s = row_of(cache, node, i)
        cache.pasts[s].group = group
        if cache.slots[s].uses == 0:
            cache.classes[group].uses += 1
        node = cache.nodes[node].parent


@inlined
def held_blocks(job, cache, node, ours):
    """Return how many blocks of `node` request r found resident when it was admitted."""
    if not ours:
        return 0
    return job.pinned_blocks - cache.nodes[node].start_blocks


@inlined
def publish_path(state, i, r, leaf, end):
    """Make the path to `leaf` reusable on instance i up to block `end`, out of private blocks of request r. In place.

    r holds every node of it from then on. Where another request published the same blocks meanwhile, the copy of r is
    freed (as SGLang's radix cache does).
    """
    cache = state.cache
    view = state.views[i]
    instance = state.instances[i]
    job = state.jobs[r]
    held = job.pinned
    node = leaf
    while node >= 0:
        s = row_of(cache, node, i)
        ours = node == held  # from here to the root r holds every node already
        if s < 0:
            s = new_slot(state, i, node)
        elif not ours:
            renew(state, s)
            pin(cache, view, instance, s)
        slot = cache.slots[s]
        whole = cache.nodes[node].blocks
        upto = min(whole, end - cache.nodes[node].start_blocks)
        missing = max(0, upto - slot.blocks)
        already = upto - missing - held_blocks(job, cache, node, ours)
        slot.blocks += missing
        cache.slot_of[node, i] = s if slot.blocks == whole else -2 - s
        instance.pinned_blocks += missing
        instance.private_blocks -= missing
        instance.inserted_blocks += missing
        if missing > 0 and state.cluster[0].lagged:
            note_change(state, node, i, slot.blocks)
        free_private(view, instance, already)
        job.private_blocks -= missing + already
        if ours:
            break
        node = cache.nodes[node].parent
    if state.cluster[0].classes:
        settle_group(state, i, r, leaf)
    job.pinned = leaf
    job.pinned_blocks = end


@kernel
def publish(state, i, r):
    """Make the whole prompt of request r reusable on instance i, modified in place."""
    cache = state.cache
    job = state.jobs[r]
    end = cache.nodes[job.leaf].start_blocks + cache.nodes[job.leaf].blocks
    if job.pinned_blocks > end:
        return  # it holds all of its prompt and some of what it generated
    publish_path(state, i, r, job.leaf, end)
    cache.slots[cache.slot_of[job.leaf, i]].whole = 1
