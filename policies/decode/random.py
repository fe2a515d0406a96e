from replay.engine.draws import uniform
from replay.policy import policy


@policy("decode")
def random(request, instances, now_ps):
    """Send a prefilled request to a decode instance drawn at random, the same one for the same seed and request.

    source : own; the memoryless baseline
    """
    return int(uniform(request.random_key, 2) * len(instances))
