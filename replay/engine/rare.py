"""What the event loop does for mechanisms that few runs have, called where CLUSTER.special says that any of them is on.

Apart, so that a run without them pays one look at one flag.
"""

from replay.engine.accounts import charge_output, note_output
from replay.engine.alive import note_finish, note_first_token
from replay.engine.drafting_schema import OP_VERIFIED
from replay.engine.fabric_schema import OP_SHARE
from replay.engine.handoff import wake
from replay.engine.jit import kernel
from replay.engine.learning_schema import OP_LEARN
from replay.engine.side_events import drained
from replay.engine.stage_events import joins
from replay.engine.stage_schema import OP_START, OP_TOKENS
from replay.engine.state import address_of
from replay.engine.tier_schema import OP_SPILL
from replay.engine.traffic import take_back


@kernel
def finish_more(state, i, r):
    """Tell who counts it that request r, off instance i, has all its tokens; returns whether it waits for stages."""
    cluster = state.cluster[0]
    if cluster.fair:
        note_output(state, r)
    if cluster.lives:
        note_finish(state, r)
    if cluster.learns:
        state.policies.learning(address_of(state), OP_LEARN, r, i)
    if cluster.fabric and state.wires.transits[r].able and state.wires.transits[r].ready == 0:
        take_back(state, r)
    return cluster.staged and joins(state, r)


@kernel
def count_token(state, i, r):
    """Tell who counts it that the prefill of request r on instance i gave a token, modified in place."""
    cluster = state.cluster[0]
    if cluster.staged:
        state.policies.stages(address_of(state), OP_TOKENS, r, state.requests[r].generated_tokens)
    if cluster.fair:
        charge_output(state, i, r, 1)
    if cluster.lives and state.jobs[r].first_token_ps < 0:
        note_first_token(state, r)


@kernel
def begin_end(state, i):
    """Verify the drafts of the iteration of instance i that ends; note what is free before it does. In place."""
    instance = state.instances[i]
    view = state.views[i]
    if instance.decodes and state.cluster[0].draft_tokens > 0:
        state.policies.drafting(address_of(state), OP_VERIFIED, 0, i)
    if state.cluster[0].plans_ahead:
        instance.late_places = view.running
        instance.late_blocks = view.free_blocks + view.cached_blocks


@kernel
def note_late(state, i):
    """Note what the batch of instance i, formed before the iteration that ended, could not count on. In place."""
    instance = state.instances[i]
    view = state.views[i]
    if state.cluster[0].plans_ahead:
        instance.seen_ps = instance.start_ps - (instance.base_ps - instance.growth_ps)
        instance.late_places -= view.running
        instance.late_blocks = max(0, view.free_blocks + view.cached_blocks - instance.late_blocks)


@kernel
def wake_ranks(state, policies, i):
    """Wake the ranks that step together with instance i, modified in place."""
    instance = state.instances[i]
    if state.cluster[0].in_step:
        for k in range(instance.first_rank, instance.first_rank + instance.ranks):
            wake(state, policies, k)


@kernel
def follow_up(state, policies):
    """Do what an event leaves to be done at its end, modified in place."""
    cluster = state.cluster[0]
    if cluster.draining > 0:
        drained(state, policies)
    if cluster.spilled > 0:
        state.policies.tiers(address_of(state), OP_SPILL, 0, 0)
    if cluster.fabric and state.wires.net[0].dirty:
        state.policies.fabric(address_of(state), OP_SHARE, 0, 0, 0, 0, 0)
    if cluster.staged and state.pipeline.pipe[0].dirty:
        state.policies.stages(address_of(state), OP_START, 0, 0)
