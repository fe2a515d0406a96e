"""Policies that no sane user would write, to reach corners of the model that the built-in ones leave alone.

They are in the registry only within `registered()`, so that tests over the registry see what users see.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from replay.engine.draws import uniform
from replay.policy import HOLD, NEVER, Choice, Policy, Span, registry
from tests import odd_fetch


def odd_admit(request, instances, now_ps, share: Span(0.0, 1.0) = 0.8):
    """Admit by lot, but always what is cached somewhere.

    source : own
    """
    for i in range(len(instances)):
        if instances[i].hit_tokens > 0:
            return True
    return uniform(request.random_key, 7) < share


def odd_route(request, instances, now_ps, most_waiting: Span(1, 64) = 2):
    """Draw two instances and take the one with less to prefill; fetch from the best holder or from any.

    Hold while the instance has a queue or no free block.

    source : own
    """
    count = len(instances)
    i = int(uniform(request.random_key, 3) * count)
    j = int(uniform(request.random_key, 8) * count)
    if instances[j].queued_tokens < instances[i].queued_tokens:
        i = j
    holder = 0
    for k in range(count):
        if instances[k].hit_tokens > instances[holder].hit_tokens:
            holder = k
    if instances[i].waiting >= most_waiting or (instances[i].free_blocks == 0 and instances[i].running > 0):
        return HOLD, -1
    lot = uniform(request.random_key, 4)
    return i, holder if lot < 0.7 else int(lot * (count + 1)) - 1


def odd_links(request, instances, now_ps):
    """Send a request where the network is least used, by what is seen of it.

    source : own
    """
    best, lowest = 0, 1e300
    for i in range(len(instances)):
        cost = instances[i].link_utilisation * 100.0 + instances[i].link_flows + instances[i].waiting
        if cost < lowest:
            best, lowest = i, cost
    return best


def odd_short(request, instances, now_ps):
    """Send a request where the fewest prompt tokens are queued, whatever is cached.

    source : own
    """
    best = 0
    for i in range(len(instances)):
        if instances[i].queued_tokens < instances[best].queued_tokens:
            best = i
    return best


def odd_decode(request, instances, now_ps):
    """Draw an instance, but mind the blocks and the tokens in the queues.

    source : own
    """
    i = int(uniform(request.random_key, 5) * len(instances))
    j = len(instances) - 1 - i
    a = instances[i].cached_blocks + instances[i].free_blocks - instances[i].queued_tokens
    b = instances[j].cached_blocks + instances[j].free_blocks - instances[j].queued_tokens
    return j if b > a else i


def odd_order(request, now_ps, levels: Span(1, 8) = 3, margin: Span(0.0, 4.0) = 0.5):
    """Draw one of a few levels, lower with every token generated; preempt across a margin.

    source : own
    """
    return int(uniform(request.random_key, 6) * levels) - 0.25 * request.generated_tokens, margin


def odd_equal(request, now_ps):
    """Hold every request equal: rows decide.

    source : own
    """
    return 0.0, 0.0


def odd_last(request, now_ps):
    """Serve first what waits for the shortest time; never preempt: two would do so to each other for ever.

    source : own
    """
    return request.stage_s, NEVER


def odd_batch(instance, now_ps, part: Span(1, 64) = 5, whole: Choice(False, True) = False):
    """Pause decodes on some iterations, by the state of the queue and the memory.

    source : own
    """
    decode = (instance.waiting + instance.decoding + instance.free_blocks) % 3 != 0
    return part, decode, whole and instance.running % 2 == 0


def odd_evict(node, now_ps):
    """Keep by turns what was used once, twice or three times; then what is deep and short.

    source : own
    """
    return node.uses % 3 - 0.125 * node.blocks + 0.0625 * node.start_blocks


def odd_young(node, now_ps):
    """Evict what came first in the cache, whatever its use.

    source : first in, first out
    """
    return node.first_used_ps * 1e-12


def odd_migrate(instances, now_ps):
    """Move from anywhere to anywhere, by the time.

    source : own
    """
    return now_ps // 7 % len(instances), now_ps // 11 % len(instances)


SLOT_OF = {
    odd_migrate: "migrate",
    odd_admit: "admit",
    odd_route: "route",
    odd_short: "route",
    odd_links: "route",
    odd_decode: "decode",
    odd_order: "order",
    odd_equal: "order",
    odd_last: "order",
    odd_batch: "batch",
    odd_evict: "evict",
    odd_young: "evict",
    odd_fetch.everything: "fetch",
    odd_fetch.faithful: "fetch",
    odd_fetch.odd_fetch: "fetch",
    odd_fetch.always_write: "write",
    odd_fetch.on_publish: "write",
    odd_fetch.on_evict: "write",
    odd_fetch.odd_write: "write",
    odd_fetch.odd_clock: "evict",
    odd_fetch.second_chance: "evict",
    odd_fetch.odd_second: "evict",
}
_made: list[Policy] = []


@contextmanager
def registered() -> Iterator[None]:
    """Have the odd policies in the registry for a while, the same objects each time."""
    for function, slot in SLOT_OF.items() if not _made else ():
        _made.append(odd_fetch.described(slot, function))
    for made in _made:
        registry()[made.slot][made.name] = made
    try:
        yield
    finally:
        for made in _made:
            registry()[made.slot].pop(made.name, None)
