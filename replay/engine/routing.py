"""Requests between instances: arrival, dispatch, cluster queue, handoff, fetch, delivery."""

from replay.engine.batching import schedule
from replay.engine.evicting import ask_evict, first_queued, link, unlink
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import (
    hit_tokens,
    insert,
    release_path,
    resident_blocks,
    row_of,
    usable_tokens,
)
from replay.engine.links import change_link, fetch, send, transfer_ps
from replay.engine.notes import fault, note
from replay.engine.phases import blocks_for, change_count, cut, settle
from replay.engine.preemption import give_key, push_waiting, release_blocks
from replay.engine.queues import pop, pop_link, push
from replay.engine.schema import (
    BAD_DECODE,
    BAD_ROUTE,
    BAD_SOURCE,
    DECODE,
    FAILED,
    FETCHING,
    GONE,
    HANDOFF,
    HELD,
    LOG_ARRIVE,
    LOG_DELIVER,
    LOG_ENQUEUE,
    LOG_FAIL,
    LOG_HANDOFF,
    LOG_HOLD,
    LOG_REJECT,
    NEVER_PS,
    NONE,
    PREFILL,
    REJECTED,
)
from replay.engine.state import address_of
from replay.engine.tier_schema import (
    COLLECT_ALL,
    CONSIDER,
    DEPART,
    ENQUEUE,
    LAND,
    LOAD_OVER,
    OP_BELIEVE,
    OP_COLLECT,
    OP_CUT,
    OP_EVENT,
    OP_LAND,
    OP_LEAVE,
    OP_LOOK_UP,
    OP_NEXT,
    OP_PLAN,
    OP_ROUTED,
    OP_SAMPLE,
    SAMPLE_ALL,
)
from replay.engine.tree import set_event

HOLD = -1


@inlined
def change_held(state, step):
    """Change the length of the cluster queue by `step`, adding up its request-seconds. Modified in place."""
    cluster = state.cluster[0]
    cluster.held_area += (cluster.now_ps - cluster.held_changed_ps) * 1e-12 * cluster.held_count
    cluster.held_changed_ps = cluster.now_ps
    cluster.held_count += step


@kernel
def end_unserved(state, r, status):
    """Give request r and all turns that would have followed it a status without service. Modified in place."""
    jobs = state.jobs
    jobs[r].next = NONE
    top = r
    while top >= 0:
        current = top
        top = jobs[current].next
        jobs[current].stage = GONE
        jobs[current].status = status
        state.cluster[0].gone += 1
        turn = jobs[current].first_turn
        while turn >= 0:
            jobs[turn].next = top
            top = turn
            turn = jobs[turn].next_turn


@kernel
def observe(state, r):
    """Bring what admit and route read up to date for request r, in place: blocks and hits, if they read them."""
    cluster = state.cluster[0]
    count = cluster.num_prefill
    if cluster.reads_blocks:
        for i in range(count):
            settle(state, i)
    if not cluster.reads_hits:
        return
    if not cluster.plain_lookup or cluster.lagged or cluster.routed:
        observe_each(state, r)
        return
    cache = state.cache
    slot_of = cache.slot_of
    views = state.prefill_views
    job = state.jobs[r]
    prompt = state.requests[r].prompt_tokens
    for i in range(count):
        views[i].hit_tokens = NONE
    node = job.leaf if cluster.cache else NONE
    unknown = count
    while node >= 0 and unknown > 0:
        end = cache.nodes[node].start_blocks + cache.nodes[node].blocks
        for i in range(count):
            s = slot_of[node, i]
            if s != NONE and views[i].hit_tokens < 0:
                unknown -= 1
                if eviction_may_reach(state, i, node):
                    settle(state, i)
                    views[i].hit_tokens = hit_tokens(state, node, i, prompt, views[i].block_tokens)
                elif s >= 0:
                    views[i].hit_tokens = usable_tokens(state, end, prompt, views[i].block_tokens)
                else:
                    blocks = resident_blocks(cache, node, i)
                    views[i].hit_tokens = usable_tokens(state, blocks, prompt, views[i].block_tokens)
        node = cache.nodes[node].parent
    for i in range(count):
        views[i].hit_tokens = max(views[i].hit_tokens, 0)


@kernel
def observe_each(state, r):
    """Fill in what is believed cached of request r on every instance, one by one, in place."""
    cluster = state.cluster[0]
    views = state.prefill_views
    leaf = state.jobs[r].leaf if cluster.cache else NONE
    if (cluster.lagged or cluster.routed) and leaf >= 0:
        state.policies.tiers(address_of(state), OP_BELIEVE, r, 0)
        return
    for i in range(cluster.num_prefill):
        settle(state, i)
        prompt = state.requests[r].prompt_tokens
        views[i].hit_tokens = hit_tokens(state, leaf, i, prompt, views[i].block_tokens) if leaf >= 0 else 0


@inlined
def eviction_may_reach(state, i, node):
    """Whether blocks that decodes of instance i took since it was settled may have come from `node` or above it.

    They come out of the head of the eviction queue; nodes above `node` leave after it.
    """
    instance = state.instances[i]
    if instance.left <= 1 or not instance.may_evict:
        return False
    elapsed_ps = state.cluster[0].now_ps - instance.start_ps
    first = first_queued(state.cache, instance)
    if elapsed_ps < instance.base_ps or first < 0:
        return False
    head = state.cache.slots[first]
    if head.node == node:
        return True
    # at most elapsed / base iterations began, and each request takes a block every block_tokens of them, or one sooner;
    # in floating point, free of divisions, rounded up
    cycle_ps = float(state.views[i].block_tokens) * instance.base_ps
    return 1.000001 * state.views[i].decoding * (elapsed_ps + cycle_ps) > head.blocks * cycle_ps


@kernel
def try_route(state, policies, r):
    """Route request r and dispatch it; returns False if the router holds it. faults: BAD_ROUTE, BAD_SOURCE."""
    count = state.cluster[0].num_prefill
    i, source = policies.route(state.requests[r], state.prefill_views, state.cluster[0].now_ps, state.tunables)
    if i == HOLD:
        return False
    if i < 0 or i >= count:
        fault(state, BAD_ROUTE, r, i)
        return True
    if source < -1 or source >= count:
        fault(state, BAD_SOURCE, r, source)
        return True
    dispatch(state, policies, r, i, source)
    return True


@inlined
def arrive(state, policies, r):
    """Handle the arrival of request r at now. Modified in place."""
    cluster = state.cluster[0]
    request = state.requests[r]
    state.jobs[r].think_ps = 0
    request.sequence = cluster.arrived
    cluster.arrived += 1
    note(state, LOG_ARRIVE, r, NONE, 0)
    if cluster.foresees:
        foresee(state, r)
    if cluster.num_shards > 0:
        state.policies.tiers(address_of(state), OP_LOOK_UP, r, 0)
        return
    consider(state, policies, r)


@kernel
def consider(state, policies, r):
    """Handle request r once its prefix is looked up: admission, then routing or the cluster queue, in place."""
    cluster = state.cluster[0]
    request = state.requests[r]
    if cluster.reads_hits or cluster.reads_blocks:
        observe(state, r)
    if not policies.admit(request, state.prefill_views, cluster.now_ps, state.tunables):
        note(state, LOG_REJECT, r, NONE, 0)
        end_unserved(state, r, REJECTED)
        return
    if cluster.held < 0 and try_route(state, policies, r):
        return
    note(state, LOG_HOLD, r, NONE, 0)
    waits = cluster.held >= 0
    give_key(state, policies, r)
    state.jobs[r].stage = HELD
    cluster.held = push(state.jobs, cluster.held, r)
    change_held(state, 1)
    if waits:
        drain(state, policies)


@kernel
def drain(state, policies):
    """Route requests of the cluster queue in order until the router holds one. Modified in place."""
    cluster = state.cluster[0]
    while cluster.held >= 0 and cluster.fault == 0:
        r = cluster.held
        if cluster.reads_hits or cluster.reads_blocks:
            observe(state, r)
        root = cluster.held
        after = pop(state.jobs, root)
        cluster.held = after
        change_held(state, -1)
        if not try_route(state, policies, r):
            cluster.held = push(state.jobs, after, r)
            change_held(state, 1)
            return


@inlined
def dispatch(state, policies, r, i, source):
    """Send request r to instance i, fetching its prefix from `source` first if that holds more. Modified in place."""
    view = state.views[i]
    request = state.requests[r]
    job = state.jobs[r]
    last = request.prompt_tokens if view.role == PREFILL else request.prompt_tokens + job.output_tokens - 1
    if blocks_for(last, view.block_tokens) > view.total_blocks:
        note(state, LOG_FAIL, r, i, 0)
        end_unserved(state, r, FAILED)
        return
    job.prefill_instance = i
    job.prefill_left = request.prompt_tokens
    change_count(state, i)
    view.waiting += 1
    view.sent += 1
    view.waiting_tokens += request.prompt_tokens
    saved = view.hit_tokens if state.cluster[0].reads_hits else 0
    fetched = False
    if source >= 0 and source != i and state.cluster[0].cache and job.leaf >= 0:
        fetched = fetch(state, r, i, source)
        if fetched and state.cluster[0].reads_hits:
            saved = state.views[source].hit_tokens
    job.charged_tokens = request.prompt_tokens - saved
    view.queued_tokens += job.charged_tokens
    if state.cluster[0].tiered:
        fetched = dispatch_load(state, r, i, fetched)
    if not fetched:
        enqueue(state, policies, i, r)


@inlined
def dispatch_load(state, r, i, fetched):
    """Plan what request r loads from stores to instance i; returns whether it waits outside the queue for KV, in place.

    fetched : whether it fetches a prefix from another instance; then it loads nothing
    """
    cluster = state.cluster[0]
    load = state.hierarchy.loads[r]
    load.dispatched_ps = cluster.now_ps
    if cluster.routed:
        state.policies.tiers(address_of(state), OP_ROUTED, r, i)
    if fetched or state.jobs[r].leaf < 0:
        load.state = LOAD_OVER
        return fetched
    if not cluster.prefetch:
        return False
    settle(state, i)
    if state.policies.tiers(address_of(state), OP_PLAN, r, i) == 0:
        return False
    state.jobs[r].stage = FETCHING
    return True


@kernel
def land(state, policies, r):
    """Handle the end of the load of request r: KV enters the HBM of its instance, the next load starts. In place."""
    i = state.jobs[r].prefill_instance
    load = state.hierarchy.loads[r]
    settle(state, i)
    if state.policies.tiers(address_of(state), OP_LAND, r, i):
        state.instances[i].may_evict = 1
        if state.cluster[0].exact_evictions:
            cut(state, i)
    if load.waits:
        stop_waiting(state, policies, r)
    released = state.policies.tiers(address_of(state), OP_NEXT, 0, i)
    while released >= 0:
        stop_waiting(state, policies, released)
        released = state.policies.tiers(address_of(state), OP_NEXT, 0, i)


@inlined
def stop_waiting(state, policies, r):
    """Put request r, which waited for a load, into the queue of its instance, modified in place."""
    i = state.jobs[r].prefill_instance
    load = state.hierarchy.loads[r]
    instance = state.instances[i]
    load.waits = 0
    if instance.queue < 0:
        load.exposed_ps += state.cluster[0].now_ps - max(load.dispatched_ps, instance.empty_since_ps)
    enqueue(state, policies, i, r)


@inlined
def tier_event(state, policies):
    """Handle the next event of the hierarchy, and what it asks the instances to do. Modified in place."""
    answer = state.policies.tiers(address_of(state), OP_EVENT, 0, 0)
    action = answer & 7
    what = answer >> 3
    if action == CONSIDER:
        consider(state, policies, what)
    elif action == LAND:
        land(state, policies, what)
    elif action == ENQUEUE:
        stop_waiting(state, policies, what)
    elif action == DEPART:
        r = state.policies.tiers(address_of(state), OP_CUT, what, 0)
        while r >= 0:
            land(state, policies, r)
            r = state.policies.tiers(address_of(state), OP_CUT, what, 0)
        state.policies.tiers(address_of(state), OP_LEAVE, what, 0)
    elif action == COLLECT_ALL or action == SAMPLE_ALL:
        for i in range(state.cluster[0].num_prefill):
            settle(state, i)
        state.policies.tiers(address_of(state), OP_COLLECT if action == COLLECT_ALL else OP_SAMPLE, 0, 0)


@kernel
def foresee(state, r):
    """Tell the oracle when the nodes of arriving request r are used next, and queue them by that, modified in place."""
    cluster = state.cluster[0]
    cache = state.cache
    row = cache.path_first[r]
    node = state.jobs[r].leaf
    while node >= 0:
        cache.next_use[node] = cache.next_row[row]
        row += 1
        for i in range(cluster.num_prefill + cluster.num_stores):
            h = i if i < cluster.num_prefill else i - cluster.num_prefill + cluster.num_instances
            s = row_of(cache, node, i)
            if s >= 0 and cache.slots[s].pins == 0:
                unlink(cache, state.instances[h], s)
                cache.slots[s].floor = -1e308
                cache.slots[s].score = ask_evict(state, h, s, 0)
                link(cache, state.instances[h], s)
        node = cache.nodes[node].parent

@kernel
def enqueue(state, policies, i, r):
    """Put request r into the queue of instance i, which sees it now if idle, else after its iteration, in place."""
    if state.cluster[0].lookahead:
        settle(state, i)
    push_waiting(state, policies, i, r)
    note(state, LOG_ENQUEUE, r, i, 0)
    instance = state.instances[i]
    view = state.views[i]
    if instance.left == 0:
        schedule(state, policies, i)
    elif instance.left > 1:
        full = view.running >= view.max_batch and instance.prefill_head < 0
        if not full or state.jobs[r].margin < 1e308:
            cut(state, i)


@kernel
def wake(state, policies, i):
    """Let instance i look at its queue again after blocks were released there. Modified in place."""
    instance = state.instances[i]
    if instance.queue < 0:
        return
    if instance.left == 0:
        schedule(state, policies, i)
    else:
        cut(state, i)


@kernel
def handoff(state, policies, i, r):
    """Send request r, prefilled on instance i, to a decode instance. Modified in place. faults: BAD_DECODE."""
    cluster = state.cluster[0]
    job = state.jobs[r]
    request = state.requests[r]
    count = cluster.num_instances - cluster.first_decode
    if cluster.decode_reads_blocks:
        for k in range(cluster.first_decode, cluster.num_instances):
            settle(state, k)
    chosen, _ = policies.decode(request, state.decode_views, cluster.now_ps, state.tunables)
    if chosen < 0 or chosen >= count:
        fault(state, BAD_DECODE, r, chosen)
        return
    j = cluster.first_decode + chosen
    view = state.views[j]
    job.decode_instance = j
    change_count(state, i)
    state.views[i].running -= 1
    if blocks_for(request.prompt_tokens + job.output_tokens - 1, view.block_tokens) > view.total_blocks:
        note(state, LOG_FAIL, r, j, 0)
        release_blocks(state, policies, i, r)
        end_unserved(state, r, FAILED)
        return
    change_count(state, j)
    view.waiting += 1
    view.sent += 1
    view.waiting_tokens += request.prompt_tokens + 1
    job.stage = HANDOFF
    instance = state.instances[i]
    carry_ps = transfer_ps(state, i, request.prompt_tokens)
    done_ps = max(cluster.now_ps, instance.nic_free_ps) + carry_ps
    if cluster.layerwise:
        layers = state.cost.profiles[instance.profile].layers
        early_ps = max(job.scheduled_ps, instance.nic_free_ps) + carry_ps
        done_ps = max(early_ps, cluster.now_ps + carry_ps // layers)
    note(state, LOG_HANDOFF, r, i, request.prompt_tokens)
    send(state, i, r, done_ps)


@kernel
def deliver(state, policies, i):
    """Handle the delivery of what the network card of instance i carried first. Modified in place."""
    instance = state.instances[i]
    r = pop_link(state.jobs, instance)
    change_link(state, i, -1)
    following = instance.link_head
    set_event(state.tree, i, NEVER_PS if following < 0 else state.jobs[following].deliver_ps)
    job = state.jobs[r]
    settle(state, i)
    if job.stage == HANDOFF:
        target = job.decode_instance
        note(state, LOG_DELIVER, r, target, 0)
        release_blocks(state, policies, i, r)
        job.prefill_left = 0
        job.charged_tokens = 0
    else:
        target = job.instance
        note(state, LOG_DELIVER, r, target, 0)
        blocks = job.pinned_blocks
        whole = job.pinned == job.leaf and state.cache.slots[row_of(state.cache, job.leaf, i)].whole
        release_path(state, i, job.pinned)
        job.pinned = NONE
        job.pinned_blocks = 0
        if state.views[target].role != DECODE:
            settle(state, target)
            insert(state, target, job.leaf, blocks, whole)
            state.instances[target].may_evict = 1
            if state.cluster[0].exact_evictions:
                cut(state, target)
    enqueue(state, policies, target, r)
    wake(state, policies, i)
