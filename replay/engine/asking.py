"""What a policy is shown of a request: the row that is kept, or a row with all that can be worked out about it."""

import math

from numba.extending import intrinsic, overload

from predictors.survival import GRID, STEPS_AN_OCTAVE
from replay.engine.accounts import service_of
from replay.engine.adapters import REQUEST_ROW
from replay.engine.jit import inlined, kernel
from replay.engine.kvcache import usable_tokens, visible
from replay.engine.outputs import leaf_of
from replay.engine.phases import settle
from replay.engine.request_schema import PREFIX_KEYS
from replay.engine.schema import DECODE, DECODING, HANDOFF, PREFILLING, WAITING
from replay.engine.slots import generated_now
from replay.engine.stalls import counted_blocks

PS = 1e-12


def as_seen(request):
    """Return a REQUEST row as the SEEN row that it begins: for a policy that reads no more than the former."""
    return request  # interpreted: a record has the fields it has


@intrinsic
def _as_seen(typingctx, request_type):
    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(REQUEST_ROW))

    return REQUEST_ROW(request_type), build


@overload(as_seen, inline="always")
def _overload_as_seen(request):
    return lambda request: _as_seen(request)


@inlined
def keep(state, r):
    """Copy what is kept of request r into the row that a policy is shown, in place."""
    seen = state.asking.seen[0]
    request = state.requests[r]
    seen.id = request.id
    seen.arrival_ps = request.arrival_ps
    seen.random_key = request.random_key
    seen.sequence = request.sequence
    seen.prompt_tokens = request.prompt_tokens
    seen.generated_tokens = request.generated_tokens
    seen.predicted_tokens = request.predicted_tokens
    seen.tier = request.tier
    seen.tenant = request.tenant
    seen.session = request.session
    seen.kind = request.kind
    seen.turn = request.turn


@inlined
def promise(state, r):
    """Copy what the tier of request r was promised into the row that a policy is shown, in place."""
    seen = state.asking.seen[0]
    target = state.asking.targets[seen.tier]
    seen.ttft_s = target.ttft_s
    seen.tpot_s = target.tpot_s
    seen.itl_s = target.itl_s
    seen.e2e_s = target.e2e_s
    seen.weight = target.weight
    seen.price_usd = target.price_usd
    seen.penalty_usd = target.penalty_usd


@kernel
def expect_prefill(state, r, i):
    """Work out what is left of the prefill of request r on instance i, -1 in the cluster, and its time alone, in place.

    Waiting, all but what is cached on the instance counts; a request that was handed over has nothing left.
    """
    seen = state.asking.seen[0]
    job = state.jobs[r]
    context = seen.prompt_tokens + seen.generated_tokens
    tokens = context
    if job.stage == DECODING or job.stage == HANDOFF:
        tokens = 0
    elif job.stage == PREFILLING:
        tokens = job.prefill_left
        context = job.prefilled + job.prefill_left
    elif job.stage == WAITING:
        tokens = job.prefill_left
        if tokens > 0:
            settle(state, i)
            resident = 0
            leaf = leaf_of(state, r)
            if state.cluster[0].cache and state.views[i].role != DECODE and leaf >= 0:
                _, resident = visible(state, leaf, i)
            blocks = max(resident, counted_blocks(state, r))
            tokens = context - usable_tokens(state, blocks, context, state.views[i].block_tokens)
    view = state.views[max(i, 0)]
    squares = float(context) * context - float(context - tokens) * (context - tokens)
    seen.prefill_tokens = tokens
    seen.prefill_s = 0.0
    if tokens > 0:
        seen.prefill_s = view.iteration_s + tokens * view.prefill_token_s + squares * view.prefill_token_sq_s


@kernel
def expect_left(state, r):
    """Work out the quantiles predicted of request r, and the tokens that are still to come, in place."""
    seen = state.asking.seen[0]
    seen.predicted_p90_tokens = state.asking.quantiles[r, 0]
    seen.predicted_p99_tokens = state.asking.quantiles[r, 1]
    seen.predicted_left_tokens = -1.0
    if seen.predicted_tokens < 0:
        return
    every = state.cluster[0].refresh_tokens
    if every == 0 or state.asking.left_class[r] < 0:
        seen.predicted_left_tokens = max(0.0, float(seen.predicted_tokens - seen.generated_tokens))
        return
    since = seen.generated_tokens % every
    place = min(STEPS_AN_OCTAVE * math.log2(float(seen.generated_tokens - since) + 1.0), GRID - 1.0)
    low = min(int(place), GRID - 2)
    row = state.asking.left_class[r]
    near = state.asking.left[row, low]
    expected = near + (place - low) * (state.asking.left[row, low + 1] - near)
    seen.predicted_left_tokens = max(0.0, expected - since)


@kernel
def describe(state, r, i):
    """Work out all that a policy may know of request r on instance i, -1 in the cluster; state.asking.seen, in place.

    cost : O(1), and that of walking its prefix where prefill_tokens or prefill_s is read
    """
    cluster = state.cluster[0]
    job = state.jobs[r]
    seen = state.asking.seen[0]
    keep(state, r)
    promise(state, r)
    runs = job.stage == PREFILLING or job.stage == DECODING
    seen.runs = 1 if runs else 0
    seen.preemptions = job.preemptions
    if runs and job.stage == DECODING:
        seen.generated_tokens = generated_now(state, i, job.slot)
    seen.true_tokens = job.output_tokens if cluster.reads_truth else -1
    if cluster.spelled:
        spell = state.asking.spells[r]
        elapsed_ps = cluster.now_ps - spell.since_ps
        seen.stage_s = elapsed_ps * PS
        seen.waited_s = spell.waited_ps * PS if runs else 0.0
        seen.served_s = (spell.served_ps + (elapsed_ps if runs else 0)) * PS
    if cluster.reads_prefill:
        expect_prefill(state, r, i)
    if cluster.fair:
        holder = i if i >= 0 else cluster.num_instances
        seen.tenant_service = service_of(state, holder, seen.tenant)
        promised = state.asking.accounts[holder, seen.tenant + 1].promised
        seen.tenant_weight = state.asking.shares[seen.tenant + 1]
        seen.tenant_expected = seen.tenant_service + cluster.output_weight * promised / seen.tenant_weight
    if cluster.reads_predictions:
        expect_left(state, r)
    if cluster.reads_prefix_keys:
        for k in range(PREFIX_KEYS):
            seen.prefix_keys[k] = state.asking.prefix_keys[r, k]


@inlined
def shown(state, slot, r, i):
    """Return what the policy of a slot sees of request r, on instance i or, with -1, in the cluster. In place."""
    if state.cluster[0].asks >> slot & 1:
        describe(state, r, i)
        return state.asking.seen[0]
    return as_seen(state.requests[r])
