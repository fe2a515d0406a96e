from replay.policy import Span, policy


@policy("decode")
def network_aware(request, instances, now_ps, horizon_tokens: Span(0, 4096) = 64):
    """Send a prefilled request where its KV is soonest there and its next `horizon_tokens` tokens are soonest made.

    Instance i costs  transfer_s + horizon_tokens * the time of an iteration with this request and those on their way;
    one whose memory is spoken for comes last. With 0 tokens only the network counts, without a fabric only the decode.

    source : after NetKV (decode choice by transfer time under congestion); the decode term is ours
    """
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        view = instances[i]
        used_blocks = float(view.total_blocks) - view.free_blocks - view.cached_blocks
        held_tokens = used_blocks * view.block_tokens + view.waiting_tokens
        requests = 1.0 + view.running + view.waiting
        step_s = view.iteration_s + requests * view.decode_request_s + held_tokens * view.kv_token_s
        cost_s = view.transfer_s + horizon_tokens * step_s
        if held_tokens + request.prompt_tokens > float(view.total_blocks) * view.block_tokens:
            cost_s += 1e9
        if cost_s < lowest:
            best, lowest = i, cost_s
    return best
