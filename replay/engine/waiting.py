"""Keys of requests that wait: given as they join a queue and, for some policies, anew whenever it is looked at."""

import math

from replay.engine.accounts import service_of
from replay.engine.asking import shown
from replay.engine.jit import inlined, kernel
from replay.engine.notes import fault
from replay.engine.phases import settle
from replay.engine.queues import push
from replay.engine.schema import BAD_ORDER, NONE, ORDER, RUNNING
from replay.engine.slots import generated_now


@kernel
def give_key(state, policies, i, r):
    """Ask the order policy for key and margin of request r on instance i, -1 in the cluster queue. In place."""
    job = state.jobs[r]
    key, margin = policies.order(shown(state, ORDER, r, i), state.cluster[0].now_ps, state.tunables)
    if key != key or margin != margin:
        fault(state, BAD_ORDER, r, 0)
        key, margin = 0.0, math.inf
    job.key = key
    job.margin = margin


@kernel
def join_waiting(state, holder, r):
    """Count request r among those that wait at a holder; its tenant is lifted if none of its requests did, in place."""
    if holder < state.cluster[0].num_instances:
        settle(state, holder)
    else:
        for i in range(state.cluster[0].num_instances):
            settle(state, i)
    accounts = state.asking.accounts
    tenant = state.requests[r].tenant
    if accounts[holder, tenant + 1].waiting == 0:
        least = 1e308
        for k in range(accounts.shape[1]):
            if accounts[holder, k].waiting > 0:
                least = min(least, service_of(state, holder, k - 1))
        last = state.asking.ledgers[holder].last
        if least == 1e308 and last >= 0:
            least = service_of(state, holder, last - 1)
        own = service_of(state, holder, tenant)
        if own < least < 1e308:
            accounts[holder, tenant + 1].lift += least - own
    accounts[holder, tenant + 1].waiting += 1


@inlined
def unroll(jobs, root, todo):
    """Put the children of a heap's root in front of a list of roots, modified in place; returns the new list."""
    child = jobs[root].child
    while child >= 0:
        following = jobs[child].next
        jobs[child].next = todo
        todo = child
        child = following
    return todo


@inlined
def add_promise(state, holder, r, generated):
    """Add what running request r, with so many tokens, is expected to get yet to its tenant's promises, in place."""
    account = state.asking.accounts[holder, state.requests[r].tenant + 1]
    account.promised += max(0, state.asking.spells[r].promised - generated)


@kernel
def count_promises(state, i):
    """Sum up for each tenant what running requests of instance i, -1 of all, are expected to get yet. In place."""
    cluster = state.cluster[0]
    holder = i if i >= 0 else cluster.num_instances
    accounts = state.asking.accounts
    for k in range(accounts.shape[1]):
        accounts[holder, k].promised = 0.0
    for j in range(cluster.num_instances):
        if i < 0 or j == i:
            for slot in range(state.views[j].decoding):
                r = state.batch[j, RUNNING, slot]
                add_promise(state, holder, r, generated_now(state, j, slot))
            r = state.instances[j].prefill_head
            while r >= 0:
                add_promise(state, holder, r, state.requests[r].generated_tokens)
                r = state.jobs[r].next


@kernel
def rekey_queue(state, policies, i, root):
    """Give every request of a queue a new key, modified in place; returns the new root. O(queue).

    i : instance of the queue, -1 for the cluster queue
    """
    cluster = state.cluster[0]
    if cluster.promises:
        count_promises(state, i)
    least, most = math.inf, -math.inf
    todo = root
    root = NONE
    while todo >= 0:
        r = todo
        todo = unroll(state.jobs, r, state.jobs[r].next)
        give_key(state, policies, i, r)
        root = push(state.jobs, root, r)
        if cluster.fair:
            least = min(least, state.asking.seen[0].tenant_service)
            most = max(most, state.asking.seen[0].tenant_service)
    if most > least:
        ledger = state.asking.ledgers[i if i >= 0 else cluster.num_instances]
        ledger.gap = max(ledger.gap, most - least)
    return root


@kernel
def rekey(state, policies, i):
    """Give every request on instance i, running or waiting, a new key, modified in place. O(batch + queue)."""
    if state.cluster[0].promises:
        count_promises(state, i)
    for slot in range(state.views[i].decoding):
        give_key(state, policies, i, state.batch[i, RUNNING, slot])
    r = state.instances[i].prefill_head
    while r >= 0:
        give_key(state, policies, i, r)
        r = state.jobs[r].next
    if state.instances[i].queue >= 0:
        state.instances[i].queue = rekey_queue(state, policies, i, state.instances[i].queue)


@kernel
def rekey_held(state, policies):
    """Give every request of the cluster queue a new key, modified in place. O(queue)."""
    cluster = state.cluster[0]
    if cluster.fair:
        for i in range(cluster.num_instances):
            settle(state, i)
    cluster.held = rekey_queue(state, policies, NONE, cluster.held)
