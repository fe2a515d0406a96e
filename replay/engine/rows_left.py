"""Whether the tables that grow have room for one more event; where not, the loop pauses, and they get more."""

from replay.engine.fabric_schema import SPARE_FLOWS
from replay.engine.jit import inlined


@inlined
def log_is_full(state):
    """Whether one more event might not fit into the event log."""
    cluster = state.cluster[0]
    if not cluster.log:
        return False
    requests = cluster.held_count + 2 * state.batch.shape[2] + 8
    if cluster.lives:  # an event may reach all instances, and what is on none of them
        requests += state.lives.setting[0].aside + 2 * cluster.num_instances
        for i in range(cluster.num_instances):
            requests += state.views[i].waiting + state.views[i].running
    return cluster.log_count + 8 * requests > len(state.log)


@inlined
def changes_are_full(state):
    """Whether one more event might not fit into the list of changes that belief has not seen yet."""
    cluster = state.cluster[0]
    used = cluster.changes_end - cluster.changes_begin
    return cluster.lagged and used > len(state.hierarchy.changes) // 2


@inlined
def flows_are_full(state):
    """Whether one more event might begin more flows than there are rows for."""
    return state.cluster[0].fabric and state.wires.net[0].flows_taken + SPARE_FLOWS > len(state.wires.flows)


@inlined
def moments_are_full(state):
    """Whether one more event might change more instances than there are rows for."""
    cluster = state.cluster[0]
    members = cluster.num_instances + len(state.lives.node_lives)
    return cluster.lives and state.lives.setting[0].moments + 4 * members > len(state.lives.moments)


@inlined
def is_full(state):
    """Whether one more event might not fit into one of the tables."""
    return log_is_full(state) or changes_are_full(state) or flows_are_full(state) or moments_are_full(state)
