from replay.engine.draws import uniform
from replay.policy import policy


@policy("route")
def random(request, instances, now_ps):
    """Send a request to an instance drawn at random, the same one for the same seed and request.

    source : own; the memoryless baseline (Poisson splitting)
    """
    return int(uniform(request.random_key, 0) * len(instances))
