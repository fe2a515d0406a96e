import math

from replay.engine.draws import uniform
from replay.policy import Span, policy


@policy("route")
def kv_cost(request, instances, now_ps, overlap_weight: Span(0.0, 16.0) = 1.0, temperature: Span(0.0, 8.0) = 0.0):
    """Weigh blocks to prefill against blocks in use; draw by softmax of the negative cost, or take the least.

    Cost of an instance = `overlap_weight` * blocks to prefill there, those queued included, + blocks held by requests,
    over the range of all. At `temperature` 0 the least wins, ties to the lowest instance.

    source : NVIDIA Dynamo's KV router, second generation; the draw by Gumbel's trick, which is a softmax
    """
    least, most = 1e300, -1e300
    for turn in range(2):
        best, lowest = 0, 1e300
        for i in range(len(instances)):
            view = instances[i]
            tokens = float(view.queued_tokens) + request.prompt_tokens - view.hit_tokens
            held = float(view.total_blocks) - view.free_blocks - view.cached_blocks
            cost = overlap_weight * tokens / view.block_tokens + held
            if turn == 0:
                least, most = min(least, cost), max(most, cost)
            elif temperature > 0.0 and most > least:
                draw = max(uniform(request.random_key, 16 + i), 1e-300)
                cost = (cost - least) / (most - least) + temperature * math.log(-math.log(draw))
            if cost < lowest:
                best, lowest = i, cost
    return best
