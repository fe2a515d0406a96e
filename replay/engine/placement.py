"""Which shard indexes a prefix and which pool node stores it: consistent hashing with bounded load.

source : Karger et al., STOC 1997; Mirrokni, Thorup, Zadimoghaddam, Consistent hashing with bounded loads, SODA 2018
"""

import math

from replay.engine.jit import inlined, kernel
from replay.engine.schema import NONE
from replay.engine.tier_schema import NODES, SHARDS


@inlined
def first_point(state, kind, key):
    """Return where on a ring the search for the owner of a key begins: the first point at or after its hash."""
    ring = state.hierarchy.rings[kind]
    points = state.hierarchy.points
    low = 0
    high = ring.points
    while low < high:
        middle = (low + high) >> 1
        if points[ring.first_point + middle].point < state.hierarchy.keys[key].hash:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def owner_of(state, kind, key):
    """Return the owner that a key was given on a ring, -1 for none."""
    return state.hierarchy.keys[key].shard if kind == SHARDS else state.hierarchy.keys[key].home


@kernel
def next_owner(state, kind, key, besides, limit):
    """Return the first owner clockwise from a key's hash that takes keys, is not `besides`, and holds under `limit`.

    limit : keys that an owner may hold before it is passed over; -1 none
    """
    ring = state.hierarchy.rings[kind]
    start = first_point(state, kind, key)
    for k in range(ring.points):
        place = start + k
        if place >= ring.points:
            place -= ring.points
        o = state.hierarchy.points[ring.first_point + place].owner
        owner = state.hierarchy.owners[ring.first_owner + o]
        if owner.takes and o != besides and (limit < 0 or owner.held < limit):
            return o
    return NONE


@kernel
def assign(state, kind, key):
    """Return the owner of a key on a ring, chosen now if it has none or that one left; -1 if none takes keys."""
    ring = state.hierarchy.rings[kind]
    owners = state.hierarchy.owners
    o = owner_of(state, kind, key)
    if o >= 0 and (kind == SHARDS or owners[ring.first_owner + o].epoch == state.hierarchy.keys[key].home_epoch):
        return o
    present = 0
    total = 0
    for k in range(ring.first_owner, ring.first_owner + ring.owners):
        if owners[k].takes:
            present += 1
            total += owners[k].held
    if present == 0:
        return NONE
    limit = math.ceil(state.cluster[0].bound * (total + 1) / present)
    o = next_owner(state, kind, key, NONE, limit)
    owners[ring.first_owner + o].held += 1
    if kind == SHARDS:
        state.hierarchy.keys[key].shard = o
    else:
        state.hierarchy.keys[key].home = o
        state.hierarchy.keys[key].home_epoch = owners[ring.first_owner + o].epoch
    return o


@kernel
def homes(state, node):
    """Return the shared DRAM stores for the prefix that ends in a trie node: its home and a second one, -1 for none."""
    cluster = state.cluster[0]
    if cluster.num_shared == 0:
        return NONE, NONE
    key = state.hierarchy.keys[node].key
    home = assign(state, NODES, key)
    second = NONE
    if home >= 0 and cluster.replicate_after > 0 and state.hierarchy.keys[key].reads >= cluster.replicate_after:
        second = next_owner(state, NODES, key, home, NONE)
    return home, second


@kernel
def take_no_more(state, s):
    """Let a shared node hold no keys any more, modified in place."""
    if s < state.cluster[0].num_shared:
        owner = state.hierarchy.owners[state.hierarchy.rings[NODES].first_owner + s]
        owner.takes = 0
        owner.held = 0
        owner.epoch += 1  # its keys are forgotten


@kernel
def take_share(state, s):
    """Let shared node s hold keys: all are assigned anew as they are used, most to where they were. In place."""
    ring = state.hierarchy.rings[NODES]
    state.hierarchy.owners[ring.first_owner + s].takes = 1
    for o in range(ring.first_owner, ring.first_owner + ring.owners):
        state.hierarchy.owners[o].held = 0
        state.hierarchy.owners[o].epoch += 1
