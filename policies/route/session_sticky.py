from replay.engine.draws import uniform
from replay.policy import Span, policy


@policy("route")
def session_sticky(request, instances, now_ps, most_times: Span(1.0, 64.0) = 2.0):
    """Keep the turns of a session on one instance, unless that has `most_times` the mean of queued tokens or more.

    Such a request, and one of no session, goes where the fewest tokens are queued.

    source : session affinity of every load balancer, with the override of agent-serving studies (pinned > 2 x mean)
    """
    count = len(instances)
    total, least = 0.0, 0
    for i in range(count):
        total += instances[i].queued_tokens
        if instances[i].queued_tokens < instances[least].queued_tokens:
            least = i
    if request.session < 0:
        return least
    home = int(uniform(request.session, 11) * count)
    crowded = total > 0.0 and instances[home].queued_tokens >= most_times * total / count
    return least if crowded else home
