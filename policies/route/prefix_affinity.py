from policies.expected import first_token_s
from replay.policy import Span, policy


@policy("route")
def prefix_affinity(request, instances, now_ps, output_tokens: Span(0, 4096) = 100, most_times: Span(1.0, 64.0) = 1.5):
    """Exploit a cached part longer than the rest of the prompt, else explore where a request costs the least.

    Cost is the work ahead, this prompt's own, and `output_tokens` at 1,000 of context for each request there. The
    holder of the longest hit gives way to the cheapest while it costs `most_times` as much: it is then cached twice.

    source : Preble (Srivatsa et al., ICLR 2025), E2 with its rebalancing; work in flight stands for its 3 minutes
    """
    holder, longest = 0, -1
    cheapest, least, held = 0, 1e300, 1e300
    for i in range(len(instances)):
        view = instances[i]
        tokens = float(view.running + view.waiting) * output_tokens
        cost_s = first_token_s(request, view) + tokens * (view.decode_request_s + 1000.0 * view.kv_token_s)
        if cost_s < least:
            cheapest, least = i, cost_s
        if view.hit_tokens > longest or (view.hit_tokens == longest and cost_s < held):
            holder, longest, held = i, view.hit_tokens, cost_s
    exploits = longest > request.prompt_tokens - longest
    return holder if exploits and held <= most_times * least else cheapest
