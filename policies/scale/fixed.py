from replay.policy import policy


@policy("scale")
def fixed(pool, pools, now_ps):
    """Keep the instances that are on; what failed and was repaired comes back.

    source : own; the baseline of every autoscaler
    """
    return pool.up + pool.starting
