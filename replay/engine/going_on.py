"""Whether a replay goes on: what comes again and again must not keep it alive alone."""

from replay.engine.jit import kernel
from replay.engine.schema import NEVER_PS


@kernel
def goes_on(state):
    """Whether any request has not ended and anything but timers that come again is still to happen. O(instances)."""
    cluster = state.cluster[0]
    if cluster.gone >= cluster.num_requests:
        return False
    if cluster.cursor < cluster.num_requests or cluster.turns >= 0:
        return True
    for i in range(cluster.num_instances):
        instance = state.instances[i]
        if instance.end_ps != NEVER_PS or instance.link_head >= 0:
            return True
    if cluster.tiered and cluster.timers > cluster.recurring:
        return True
    return cluster.fabric != 0 and state.wires.net[0].flows_taken > state.wires.net[0].recurring
