"""What the event loop does for the stages beside the transformer: requests that go on or end, calls of segments."""

from replay.engine.ending import conclude
from replay.engine.jit import inlined, kernel
from replay.engine.routing import go_on
from replay.engine.schema import FINISH_AT, JOINING, NEVER_PS, PENDING, RUNNING
from replay.engine.slots import due_at, generated_now
from replay.engine.stage_schema import ENDED, OP_DECODED, OP_STAGE_EVENT, OP_TOKENS
from replay.engine.state import address_of


@kernel
def stage_event(state, policies):
    """Handle the next event of the stages; a request that is past those before it goes on. Modified in place."""
    r = state.policies.stages(address_of(state), OP_STAGE_EVENT, 0, 0)
    if r < 0:
        return
    job = state.jobs[r]
    if state.pipeline.journeys[r].phase == ENDED:
        conclude(state, job.decode_instance if job.decode_instance >= 0 else job.prefill_instance, r)
        return
    job.stage = PENDING
    go_on(state, policies, r)


@inlined
def joins(state, r):
    """Whether request r, which has all its tokens, waits for stages; they end it then. Modified in place."""
    if not state.policies.stages(address_of(state), OP_DECODED, r, 0):
        return False
    state.jobs[r].stage = JOINING
    return True


@kernel
def next_due(state, i):
    """Return the iteration after which a decoding request of instance i is due a call or has all its tokens."""
    due = NEVER_PS
    for slot in range(state.views[i].decoding):
        due = min(due, due_at(state, state.batch[i, RUNNING, slot], state.batch[i, FINISH_AT, slot]))
    return due


@kernel
def issue_due(state, i):
    """Issue the calls that decoding requests of instance i are due after this iteration, in row order. In place."""
    chosen = 0
    while chosen >= 0:
        chosen = -1
        tokens = 0
        for slot in range(state.views[i].decoding):
            r = state.batch[i, RUNNING, slot]
            generated = generated_now(state, i, slot)
            if generated >= state.pipeline.journeys[r].next_tokens and (chosen < 0 or r < chosen):
                chosen = r
                tokens = generated
        if chosen >= 0:
            state.policies.stages(address_of(state), OP_TOKENS, chosen, tokens)
