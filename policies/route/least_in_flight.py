from replay.policy import policy


@policy("route")
def least_in_flight(request, instances, now_ps):
    """Send a request where the fewest are open by the router's own count, which is exact however old other signals are.

    source : join the shortest queue by local counts, as proxies do (Envoy, nginx: least connections)
    """
    best, fewest = 0, 1 << 60
    for i in range(len(instances)):
        if instances[i].in_flight < fewest:
            best, fewest = i, instances[i].in_flight
    return best
