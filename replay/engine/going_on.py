"""What comes again and again: it must not keep a replay alive alone, nor fill more rows than there are."""

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
    if cluster.lives and state.lives.setting[0].timers > state.lives.setting[0].recurring:
        return True
    if cluster.tiered and cluster.timers > cluster.recurring:
        return True
    if cluster.staged and state.pipeline.agendas[1] != NEVER_PS:
        return True
    return cluster.fabric != 0 and state.wires.net[0].flows_taken > state.wires.net[0].recurring


@kernel
def keep_every_other(series):
    """Keep the even rows of a full table of samples in its first half, in place; returns how many these are."""
    half = len(series) // 2
    for k in range(half):
        for c in range(series.shape[1]):
            series[k, c] = series[2 * k, c]
    return half
