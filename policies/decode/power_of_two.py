from policies.expected import emptier_of_two
from replay.policy import policy


@policy("decode")
def power_of_two(request, instances, now_ps):
    """Draw two different decode instances at random and take the one with fewer requests.

    source : Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 2001
    """
    return emptier_of_two(request.random_key, instances, 2)
