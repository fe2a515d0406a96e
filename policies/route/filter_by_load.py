from replay.policy import Span, policy


@policy("route")
def filter_by_load(request, instances, now_ps, most_apart: Span(0, 4096) = 8):
    """Take the emptiest instance while loads are more than `most_apart` requests apart, else the longest hit.

    Of equal hits the one with fewer requests wins, ties to the lowest instance.

    source : AIBrix's prefix-cache router: balance first where the batch sizes are out of range, then match
    """
    emptiest, longest, most = 0, 0, 0
    for i in range(len(instances)):
        load = instances[i].running + instances[i].waiting
        most = max(most, load)
        if load < instances[emptiest].running + instances[emptiest].waiting:
            emptiest = i
        hit, best_hit = instances[i].hit_tokens, instances[longest].hit_tokens
        if hit > best_hit or (hit == best_hit and load < instances[longest].running + instances[longest].waiting):
            longest = i
    apart = most - (instances[emptiest].running + instances[emptiest].waiting)
    return emptiest if apart > most_apart else longest
