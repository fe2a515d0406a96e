"""What network cards carry: transfers in order, and prefixes fetched from another instance."""

from replay.engine.fabric_schema import FETCH_KIND, OP_BEGIN
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import (
    hit_tokens,
    pin_path,
    usable_tokens,
    visible,
)
from replay.engine.notes import fault, note
from replay.engine.phases import cut, settle
from replay.engine.queues import append_link
from replay.engine.schema import (
    FETCHING,
    LOG_FETCH,
    MAX_TIME_PS,
    TIME_RANGE,
)
from replay.engine.state import address_of
from replay.engine.tree import set_event


@inlined
def change_link(state, i, step):
    """Change what the network card of instance i has to carry by `step` requests, and its request-seconds, in place."""
    instance = state.instances[i]
    now_ps = state.cluster[0].now_ps
    instance.link_area += (now_ps - instance.link_changed_ps) * 1e-12 * instance.linked
    instance.link_changed_ps = now_ps
    instance.linked += step


@inlined
def transfer_ps(state, i, tokens):
    """Return how long the network card of instance i carries the KV of so many tokens."""
    carry_ps = state.cost.profiles[state.instances[i].profile].transfer_token_fs * tokens // 1000
    if state.cluster[0].lives:
        carry_ps = carry_ps * 1000 // state.lives.life[i].nic_permille
    return carry_ps


@kernel
def send(state, i, r, done_ps):
    """Put request r's transfer on the network card of instance i, which is free again at done_ps. Modified in place."""
    instance = state.instances[i]
    instance.nic_free_ps = done_ps
    change_link(state, i, 1)
    state.jobs[r].deliver_ps = done_ps + state.cost.profiles[instance.profile].transfer_latency_ps
    if state.jobs[r].deliver_ps > MAX_TIME_PS:
        fault(state, TIME_RANGE, i, 0)
    if instance.link_head < 0:
        set_event(state.tree, i, state.jobs[r].deliver_ps)
    append_link(state.jobs, instance, r)


@inlined
def fetch_gain(state, r, i, source):
    """Return how many prompt tokens of request r `source` holds beyond what instance i does."""
    prompt = state.requests[r].prompt_tokens
    block_tokens = state.views[i].block_tokens
    _, blocks = visible(state, state.jobs[r].leaf, source)
    here = hit_tokens(state, state.jobs[r].leaf, i, prompt, block_tokens)
    return usable_tokens(state, blocks, prompt, block_tokens) - here


@kernel
def fetch(state, r, i, source):
    """Start to copy the prefix of request r from `source` to instance i; returns whether that started."""
    settle(state, i)
    cut(state, source)
    job = state.jobs[r]
    prompt = state.requests[r].prompt_tokens
    block_tokens = state.views[i].block_tokens
    node, blocks = visible(state, job.leaf, source)
    there = usable_tokens(state, blocks, prompt, block_tokens)
    here = hit_tokens(state, job.leaf, i, prompt, block_tokens)
    if there <= here:
        return False
    pin_path(state, source, node)
    job.pinned = node
    job.pinned_blocks = blocks
    job.source = source
    job.instance = i
    job.stage = FETCHING
    note(state, LOG_FETCH, r, source, there - here)
    if state.cluster[0].fabric:
        size_bytes = (there - here) * state.wires.net[0].kv_token_bytes
        state.policies.fabric(address_of(state), OP_BEGIN, source, i, size_bytes, FETCH_KIND, r)
        return True
    now_ps = state.cluster[0].now_ps
    send(state, source, r, max(now_ps, state.instances[source].nic_free_ps) + transfer_ps(state, source, there - here))
    return True
