"""Policies of scaling and recovery that no sane user would write; in the registry only within `registered()`."""

from collections.abc import Iterator
from contextlib import contextmanager

from replay.policy import Choice, Policy, registry
from tests import odd_policies
from tests.odd_fetch import described


def odd_scale(pool, pools, now_ps, memory, bold: Choice(0, 1) = 0):
    """Want another number every time, by the time and by what is told of this pool and the first one.

    source : own
    """
    memory[pool.index] += 1 + pool.arrivals + pools[0].up
    wanted = int(memory[pool.index] + now_ps // 7 + pool.waiting + pool.down) % (pool.most + 1)
    return wanted + 5 * bold * (pool.lacking + pool.draining)


def odd_recover(request, losses, now_ps):
    """Do this or that, by the request and by how often it was lost.

    source : own
    """
    return int(request.id + losses + request.generated_tokens + now_ps // 3) % 8 // 2 if losses < 6 else 3


SLOT_OF = {odd_scale: "scale", odd_recover: "recover"}
_made: list[Policy] = []


@contextmanager
def registered() -> Iterator[None]:
    """Have these, and the other odd policies, in the registry for a while, the same objects each time."""
    for function, slot in SLOT_OF.items() if not _made else ():
        _made.append(described(slot, function))
    with odd_policies.registered():
        for made in _made:
            registry()[made.slot][made.name] = made
        try:
            yield
        finally:
            for made in _made:
                registry()[made.slot].pop(made.name, None)
