"""What the hierarchy sends over a fabric: loads, writes, drains, spills, compaction."""

from replay.engine.fabric_schema import COMPACTION, LOAD_KIND, MOST_UNITS, OP_BEGIN, OP_END, OP_MOVED, OP_QUOTE
from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE
from replay.engine.state import address_of
from replay.engine.tier_schema import MOST_PARTS


@kernel
def ship(state, source, target, blocks, kind, what):
    """Begin to send KV blocks from one endpoint to another, modified in place; returns the transfer."""
    size_bytes = blocks * state.wires.net[0].block_bytes
    return state.policies.fabric(address_of(state), OP_BEGIN, source, target, size_bytes, kind, what)


@kernel
def ship_much(state, endpoint, blocks):
    """Begin to send blocks between the servers behind an endpoint, in transfers that a link can count. In place."""
    most = MOST_UNITS // state.wires.net[0].unit // state.wires.net[0].block_bytes
    while blocks > 0:
        ship(state, endpoint, endpoint, min(blocks, most), COMPACTION, NONE)
        blocks -= most


@inlined
def part_endpoint(state, part):
    """Return the endpoint that sends a part of a load: a local disk's is that of the DRAM above, if there is one."""
    cluster = state.cluster[0]
    own = part.card < 0 or part.store == cluster.common_store
    return cluster.num_instances + (part.store if own else part.card)


@kernel
def send_load(state, r, k, i):
    """Send part k of the load of request r to instance i, modified in place."""
    part = state.hierarchy.parts[MOST_PARTS * r + k]
    blocks = part.upto_blocks - part.from_blocks
    part.transfer = ship(state, part_endpoint(state, part), i, blocks, LOAD_KIND, MOST_PARTS * r + k)
    state.hierarchy.loads[r].transfers += 1


@kernel
def load_quote_ps(state, part, i):
    """Return how long it would take to send a part of a load to instance i if it began now."""
    size_bytes = (part.upto_blocks - part.from_blocks) * state.wires.net[0].block_bytes
    source = part_endpoint(state, part)
    return state.policies.fabric(address_of(state), OP_QUOTE, source, i, size_bytes, LOAD_KIND, 0)


@kernel
def carried_blocks(state, part):
    """Return the blocks of a part that have arrived, of one that has not arrived as a whole.

    The fewer of what its media have read and what the network has carried.
    """
    now_ps = state.cluster[0].now_ps
    blocks = part.upto_blocks - part.from_blocks
    if part.end_ps > now_ps:
        elapsed_ps = min(now_ps, part.end_ps) - part.start_ps
        whole_ps = part.end_ps - part.start_ps
        while whole_ps >= 1 << 40:  # keeps the product inside int64; exact for loads of up to a second
            whole_ps >>= 1
            elapsed_ps >>= 1
        blocks = blocks * elapsed_ps // whole_ps if elapsed_ps > 0 else 0
    if part.transfer >= 0:
        moved = state.policies.fabric(address_of(state), OP_MOVED, part.transfer, 0, 0, 0, 0)
        blocks = min(blocks, moved // state.wires.net[0].block_bytes)
    return blocks


@kernel
def expected_end_ps(state, r):
    """Return when the load of request r ends if nothing changes on its links."""
    load = state.hierarchy.loads[r]
    end_ps = max(load.end_ps, state.cluster[0].now_ps)
    for k in range(load.count):
        part = state.hierarchy.parts[MOST_PARTS * r + k]
        if part.transfer >= 0:
            end_ps = max(end_ps, state.policies.fabric(address_of(state), OP_END, part.transfer, 0, 0, 0, 0))
    return end_ps
