"""What instances send over a fabric: handoffs as a whole or in parts, exchanges within a group, and waiting for KV."""

from replay.engine.alive import decode_there
from replay.engine.asking import shown
from replay.engine.fabric_schema import EXCHANGE, HANDOFF_KIND, LAYERWISE, OP_BEGIN, OP_SHOW, WHOLE
from replay.engine.jit import inlined, kernel
from replay.engine.notes import fault
from replay.engine.observing import show_counts, tell_own
from replay.engine.phases import change_count
from replay.engine.schema import BAD_DECODE, DECODE_ROUTE, NEVER_PS, PREFILL
from replay.engine.slots import blocks_for
from replay.engine.state import address_of
from replay.engine.tree import set_event

REFUSE = -1


@kernel
def choose_target(state, policies, i, r):
    """Choose the decode instance of request r, prefilled on instance i; returns whether it can hold r. In place.

    The policy may refuse r, whose decode instance stays -1.
    faults : BAD_DECODE
    """
    cluster = state.cluster[0]
    job = state.jobs[r]
    request = state.requests[r]
    count = cluster.num_instances - cluster.first_decode
    if cluster.signals:
        tell_own(state)
    elif cluster.decode_reads_blocks:
        for k in range(cluster.first_decode, cluster.num_instances):
            show_counts(state, k)
    if cluster.fabric and state.wires.net[0].reads_links:
        state.policies.fabric(address_of(state), OP_SHOW, i, r, 0, 0, 0)
    seen = shown(state, DECODE_ROUTE, r, i)
    if cluster.pooled:
        state.views[i].running -= 1  # r itself, which counts nowhere while it has no place
    if cluster.away > 0:
        chosen = decode_there(state, policies, r, seen)
    else:
        chosen, _ = policies.decode(seen, state.decode_views, cluster.now_ps, state.tunables)
    if cluster.pooled:
        state.views[i].running += 1
    if chosen == REFUSE:
        return False
    if chosen < 0 or chosen >= count:
        fault(state, BAD_DECODE, r, chosen)
        return False
    j = cluster.first_decode + chosen
    view = state.views[j]
    job.decode_instance = j
    last = request.prompt_tokens + job.output_tokens - 1 + cluster.draft_tokens
    if blocks_for(last, view.block_tokens) > view.total_blocks:
        return False
    if j == i:
        return True
    change_count(state, j)
    view.waiting += 1
    view.sent += 1
    # chosen early, over a fabric, it has no token yet; lost and resumed, it may have more than one
    view.waiting_tokens += request.prompt_tokens + max(1, request.generated_tokens)
    return True


@kernel
def send_part(state, i, r, tokens):
    """Send the KV of so many tokens of request r from instance i to its decode instance, modified in place."""
    transit = state.wires.transits[r]
    if transit.sent_ps < 0:
        transit.sent_ps = state.cluster[0].now_ps
    transit.under_way += 1
    size_bytes = tokens * state.wires.net[0].kv_token_bytes
    target = state.jobs[r].decode_instance
    state.policies.fabric(address_of(state), OP_BEGIN, i, target, size_bytes, HANDOFF_KIND, r)


@kernel
def send_early(state, policies, i, r):
    """Send what request r, which computes a chunk on instance i, may send before that ends. Modified in place."""
    net = state.wires.net[0]
    job = state.jobs[r]
    transit = state.wires.transits[r]
    tokens = transit.cached
    if net.handoff == LAYERWISE:
        layers = state.cost.profiles[state.instances[i].profile].layers
        tokens += job.chunk * (layers - 1) // layers
    if tokens == 0:
        return
    if job.decode_instance < 0:
        transit.able = choose_target(state, policies, i, r)
    transit.cached = 0
    if transit.able:
        send_part(state, i, r, tokens)


@kernel
def send_rest(state, policies, i, r, chunk):
    """Send what is left to send of a chunk of request r that instance i has computed. Modified in place."""
    net = state.wires.net[0]
    job = state.jobs[r]
    transit = state.wires.transits[r]
    if job.decode_instance < 0:
        transit.able = choose_target(state, policies, i, r)
    tokens = chunk
    if net.handoff == LAYERWISE:
        layers = state.cost.profiles[state.instances[i].profile].layers
        tokens -= chunk * (layers - 1) // layers
    if transit.able:
        send_part(state, i, r, tokens)


@inlined
def sends_parts(state, i):
    """Whether instance i hands its prefills over part by part."""
    return state.views[i].role == PREFILL and state.wires.net[0].handoff != WHOLE


@kernel
def take_back(state, r):
    """Let the decode instance that request r was to go to expect it no more, modified in place."""
    view = state.views[state.jobs[r].decode_instance]
    change_count(state, state.jobs[r].decode_instance)
    view.waiting -= 1
    view.waiting_tokens -= state.requests[r].prompt_tokens + 1
    state.wires.transits[r].able = 0


@kernel
def start_traffic(state, policies, i, given):
    """Send what leaves as the iteration of instance i begins, and keep its end open if it waits for KV. In place."""
    net = state.wires.net[0]
    instance = state.instances[i]
    if given > 0 and net.exchange_group > 1 and i < state.cluster[0].num_prefill:
        exchange(state, i, given)
    if given > 0 and sends_parts(state, i):
        r = instance.prefill_head
        while r >= 0:
            if state.jobs[r].chunk > 0:
                send_early(state, policies, i, r)
            r = state.jobs[r].next
    if instance.awaited_loads + instance.awaited_exchanges > 0:
        instance.longer_ps = instance.base_ps
        instance.end_ps = NEVER_PS
        set_event(state.tree, state.cluster[0].num_instances + i, NEVER_PS)


@kernel
def exchange(state, i, given):
    """Send each other member of the group of instance i its share of so many tokens' activations, modified in place.

    source : sequence parallelism with all-to-all (DeepSpeed Ulysses, Jacobs et al., 2023)
    """
    net = state.wires.net[0]
    group = net.exchange_group
    first = i // group * group
    for m in range(first, min(first + group, state.cluster[0].num_prefill)):
        if m != i:
            state.instances[i].awaited_exchanges += 1
            size_bytes = given * net.exchange_token_bytes // group
            state.policies.fabric(address_of(state), OP_BEGIN, i, m, size_bytes, EXCHANGE, i)


@kernel
def load_came(state, i, r):
    """Note that a load of request r came, which the iteration in progress on instance i waits for. In place."""
    instance = state.instances[i]
    instance.awaited_loads -= 1
    if instance.awaited_loads > 0:
        return
    stall_ps = state.cluster[0].now_ps - instance.start_ps
    longer_ps = instance.base_ps + stall_ps
    if state.cluster[0].overlap:
        layers = state.cost.profiles[instance.profile].layers
        longer_ps = max(instance.base_ps, stall_ps + instance.base_ps // layers)
    state.hierarchy.loads[r].exposed_ps += longer_ps - instance.base_ps
    instance.longer_ps = max(instance.longer_ps, longer_ps)
    close(state, i)


@kernel
def exchange_came(state, i):
    """Note that a transfer of the exchange came that the iteration in progress on instance i waits for. In place."""
    instance = state.instances[i]
    instance.awaited_exchanges -= 1
    if instance.awaited_exchanges > 0:
        return
    layers = state.cost.profiles[instance.profile].layers
    late_ps = state.cluster[0].now_ps - instance.start_ps + instance.base_ps // layers
    instance.exchange_exposed_ps += max(0, late_ps - instance.base_ps)
    instance.longer_ps = max(instance.longer_ps, late_ps)
    close(state, i)


@inlined
def close(state, i):
    """Set the end of the iteration of instance i if nothing that it waits for is missing, modified in place."""
    instance = state.instances[i]
    if instance.awaited_loads + instance.awaited_exchanges > 0:
        return
    instance.base_ps = instance.longer_ps
    instance.end_ps = instance.start_ps + instance.longer_ps
    set_event(state.tree, state.cluster[0].num_instances + i, instance.end_ps)
