from replay.engine.draws import pick
from replay.policy import Span, policy

CLASSES = 250  # buckets of prefixes: of each the requests lately, and wins in a row of those that hold it


@policy("route")
def lmetric_guarded(request, instances, now_ps, memory, depth: Span(0, 7) = 2, window: Span(10, 100_000) = 1000):
    """Take the least product of new tokens and requests, but not of holders of a prefix that is too hot for them.

    With a share x of the last requests, a class of prefixes (first 2^`depth` trace blocks) is too hot for its holders M
    if x / (1 - x) > |M| / |not M| and they won 2 |M| times in a row. Counts halve every `window` requests.

    source : LMetric with its hotspot guard, as in the llm-d and Dynamo routers
    """
    bucket = 2 + 2 * pick(request.prefix_keys[depth], CLASSES)
    memory[0] += 1.0
    memory[bucket] += 1.0
    if memory[0] > window:
        memory[0] *= 0.5
        for k in range(CLASSES):
            memory[2 + 2 * k] *= 0.5
    holders = 0
    for i in range(len(instances)):
        holders += instances[i].hit_tokens > 0
    others = len(instances) - holders
    hot = memory[bucket] * others > (memory[0] - memory[bucket]) * holders and memory[bucket + 1] >= 2 * holders
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        new_tokens = float(instances[i].queued_tokens) + request.prompt_tokens - instances[i].hit_tokens
        product = new_tokens * (1.0 + instances[i].running + instances[i].waiting)
        if product < lowest and not (hot and others > 0 and instances[i].hit_tokens > 0):
            best, lowest = i, product
    memory[bucket + 1] = memory[bucket + 1] + 1.0 if instances[best].hit_tokens > 0 else 0.0
    return best
