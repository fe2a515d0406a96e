"""What a request may load from stores: the parts of its path by tier, when they would arrive, and what is worth it."""

from replay.engine.asking import as_seen
from replay.engine.compaction import serve, serve_times
from replay.engine.disk import plan_read
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import usable_tokens, visible
from replay.engine.placement import homes
from replay.engine.schema import BAD_FETCH, NONE
from replay.engine.shipping import load_quote_ps
from replay.engine.tier_schema import LOAD_OVER, MOST_PARTS


@inlined
def whole_units(state, blocks):
    """Return the blocks that whole storage units take of so many."""
    unit_blocks = state.cluster[0].unit_blocks
    return blocks if unit_blocks <= 1 else blocks - blocks % unit_blocks


@inlined
def seen_blocks(state, leaf, c):
    """Return the blocks of whole units that a lookup finds in column c."""
    _, blocks = visible(state, leaf, c)
    return whole_units(state, blocks)


@inlined
def is_there(state, s):
    """Whether a store can be read."""
    return s >= 0 and state.hierarchy.stores[s].present


@kernel
def add_part(state, r, s, card):
    """Let request r load from store s what it holds beyond the parts so far, modified in place.

    card : the DRAM store whose network card carries it, -1 for none
    """
    load = state.hierarchy.loads[r]
    if not is_there(state, s) or load.count >= MOST_PARTS:
        return
    leaf = state.jobs[r].leaf
    node, blocks = visible(state, leaf, state.cluster[0].num_prefill + s)
    blocks = whole_units(state, blocks)
    if blocks <= load.upto_blocks:
        return
    part = state.hierarchy.parts[MOST_PARTS * r + load.count]
    part.store = s
    part.card = card
    part.from_blocks = load.upto_blocks
    part.upto_blocks = blocks
    part.pin = node
    part.epoch = state.hierarchy.stores[s].epoch
    load.count += 1
    load.upto_blocks = blocks


@inlined
def better(state, r, a, b, by_card):
    """Return which of two stores has more of the prompt of request r; ties to the sooner free card, then to a."""
    if not is_there(state, b):
        return a
    if not is_there(state, a):
        return b
    leaf = state.jobs[r].leaf
    first = seen_blocks(state, leaf, state.cluster[0].num_prefill + a)
    second = seen_blocks(state, leaf, state.cluster[0].num_prefill + b)
    if first != second:
        return a if first > second else b
    stores = state.hierarchy.stores
    if by_card and stores[a].read_free_ps != stores[b].read_free_ps:
        return a if stores[a].read_free_ps < stores[b].read_free_ps else b
    return a if a < b else b


@kernel
def find_parts(state, r, i):
    """Say from which stores request r would load what to instance i, nearest first, modified in place."""
    cluster = state.cluster[0]
    stores = state.hierarchy.stores
    load = state.hierarchy.loads[r]
    leaf = state.jobs[r].leaf
    load.count = 0
    load.base_blocks = seen_blocks(state, leaf, i)
    load.upto_blocks = load.base_blocks
    private = state.instances[i].private_dram
    home, second = homes(state, leaf)
    add_part(state, r, private, private)
    if home >= 0:
        best = better(state, r, home, second, 1)
        add_part(state, r, best, best)
    add_part(state, r, state.instances[i].local_disk, private if is_there(state, private) else NONE)
    if home >= 0 and stores[home].below != cluster.common_store:
        disk = stores[home].below
        if second >= 0:
            disk = better(state, r, disk, stores[second].below, 0)
        if is_there(state, disk):
            above = stores[disk].above
            add_part(state, r, disk, above if is_there(state, above) else NONE)
    if cluster.common_store >= 0:
        above = home if is_there(state, home) else private if is_there(state, private) else NONE
        add_part(state, r, cluster.common_store, above)


@kernel
def card_times(state, r, k):
    """Set when the card of part k of request r would carry it, after the parts before, in place; returns the start."""
    part = state.hierarchy.parts[MOST_PARTS * r + k]
    card = state.hierarchy.stores[part.card]
    free_ps = card.read_free_ps
    for before in range(k):
        other = state.hierarchy.parts[MOST_PARTS * r + before]
        if other.card == part.card:
            free_ps = other.card_ps
    start_ps = max(state.cluster[0].now_ps, free_ps)
    part.card_ps = start_ps + card.read_block_fs * (part.upto_blocks - part.from_blocks) // 1000
    return start_ps


@kernel
def part_times(state, r, k, commit):
    """Set when part k of request r would start and end if read now, in place; `commit` keeps the media busy with it."""
    hierarchy = state.hierarchy
    now_ps = state.cluster[0].now_ps
    part = hierarchy.parts[MOST_PARTS * r + k]
    store = hierarchy.stores[part.store]
    part.start_ps = now_ps
    part.end_ps = now_ps
    if part.card >= 0 and not state.cluster[0].fabric:
        part.start_ps = card_times(state, r, k)
        part.end_ps = part.card_ps + hierarchy.stores[part.card].latency_ps
    if store.disk < 0:
        return
    plan_read(state, part.store, part.pin, part.from_blocks, part.upto_blocks)
    disk = hierarchy.disks[store.disk]
    for m in range(disk.media, disk.media + disk.media_count):
        medium = hierarchy.media[m]
        if medium.part_ops == 0 and medium.part_blocks == 0:
            continue
        if commit:
            start_ps, done_ps = serve(hierarchy, m, medium.part_ops, medium.part_blocks, now_ps)
        else:
            start_ps, done_ps = serve_times(hierarchy, m, medium.part_ops, medium.part_blocks, now_ps)
        with_card = part.card >= 0 and not state.cluster[0].fabric
        part.start_ps = min(part.start_ps, start_ps) if with_card or m > disk.media else start_ps
        part.end_ps = max(part.end_ps, done_ps + medium.latency_ps)


@kernel
def make_offer(state, r, i):
    """Tell what loads from DRAM, and from disks too, would bring request r on instance i and take, in place."""
    offer = state.hierarchy.offer[0]
    load = state.hierarchy.loads[r]
    view = state.views[i]
    context = state.requests[r].prompt_tokens + state.requests[r].generated_tokens
    dram_blocks = load.base_blocks
    dram_ps, disk_ps = 0, 0
    for k in range(load.count):
        part_times(state, r, k, 0)
        part = state.hierarchy.parts[MOST_PARTS * r + k]
        disk_ps = max(disk_ps, part.end_ps - state.cluster[0].now_ps)
        if state.cluster[0].fabric:
            disk_ps = max(disk_ps, load_quote_ps(state, part, i))
        if state.hierarchy.stores[part.store].tier == 1:
            dram_ps = disk_ps
            dram_blocks = part.upto_blocks
    offer.hbm_tokens = usable_tokens(state, load.base_blocks, context, view.block_tokens)
    offer.dram_tokens = usable_tokens(state, dram_blocks, context, view.block_tokens)
    offer.disk_tokens = usable_tokens(state, load.upto_blocks, context, view.block_tokens)
    offer.dram_s = dram_ps * 1e-12
    offer.disk_s = disk_ps * 1e-12
    offer.dram_compute_s = compute_s(view, offer.hbm_tokens, offer.dram_tokens)
    offer.disk_compute_s = compute_s(view, offer.hbm_tokens, offer.disk_tokens)


@inlined
def compute_s(view, first_tokens, last_tokens):
    """Return the nominal time to prefill the tokens [first, last) of a prompt."""
    more = last_tokens * last_tokens - first_tokens * first_tokens
    return view.prefill_token_s * (last_tokens - first_tokens) + view.prefill_token_sq_s * more


@kernel
def plan(state, r, i):
    """Decide what request r loads to instance i, modified in place; returns (whether anything, seconds it may wait).

    faults : BAD_FETCH for a wait that is NaN or negative
    """
    cluster = state.cluster[0]
    load = state.hierarchy.loads[r]
    find_parts(state, r, i)
    load.state = LOAD_OVER
    if load.count == 0:
        return False, 0.0
    make_offer(state, r, i)
    state.views[i].hit_tokens = state.hierarchy.offer[0].hbm_tokens
    request = as_seen(state.requests[r])
    offer = state.hierarchy.offer[0]
    tier, wait_s = state.policies.fetch(request, state.views[i], offer, cluster.now_ps, state.tunables)
    if not wait_s >= 0.0:
        cluster.fault = BAD_FETCH
        cluster.fault_at = r
        return False, 0.0
    load.tier = max(min(tier, 2), 0)
    return keep_tiers(state, r), wait_s


@kernel
def keep_tiers(state, r):
    """Leave out what request r would load from tiers below those its policy allows, in place; whether some is left."""
    load = state.hierarchy.loads[r]
    while load.count > 0:
        part = state.hierarchy.parts[MOST_PARTS * r + load.count - 1]
        if state.hierarchy.stores[part.store].tier <= load.tier:
            return True
        load.upto_blocks = part.from_blocks
        load.count -= 1
    return False
