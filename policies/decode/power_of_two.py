from replay.engine.draws import uniform
from replay.policy import policy


@policy("decode")
def power_of_two(request, instances, now_ps):
    """Draw two different decode instances at random and take the one with fewer requests.

    source : Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 2001
    """
    count = len(instances)
    first = int(uniform(request.random_key, 2) * count)
    if count == 1:
        return first
    second = int(uniform(request.random_key, 3) * (count - 1))
    if second >= first:
        second += 1
    load_first = instances[first].waiting + instances[first].running
    load_second = instances[second].waiting + instances[second].running
    return second if load_second < load_first else first
