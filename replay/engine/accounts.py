"""What each tenant got on an instance and in the cluster: the counters of fair queueing.

Tokens are counted in integers and weighed when somebody looks, so that leaps and single steps give the same bytes.
source : Sheng et al., Fairness in serving large language models (VTC), OSDI 2024
"""

from replay.engine.jit import inlined, kernel
from replay.engine.request_schema import RECENT
from replay.engine.schema import RUNNING


@inlined
def service_of(state, holder, tenant):
    """Return the weighed service of a tenant (-1 for none) on an instance or, in the last row, in the cluster."""
    cluster = state.cluster[0]
    account = state.asking.accounts[holder, tenant + 1]
    tokens = cluster.input_weight * account.input_tokens + cluster.output_weight * account.output_tokens
    return account.lift + tokens / state.asking.shares[tenant + 1]


@kernel
def leave_waiting(state, holder, r):
    """Count request r no more among those that wait at a holder, modified in place."""
    tenant = state.requests[r].tenant
    state.asking.accounts[holder, tenant + 1].waiting -= 1
    state.asking.ledgers[holder].last = tenant + 1


@kernel
def charge_prompt(state, i, r):
    """Charge the prompt of request r, admitted on instance i, to its tenant once, and expect an output, in place."""
    spell = state.asking.spells[r]
    tenant = state.requests[r].tenant
    common = state.asking.accounts[state.cluster[0].num_instances, tenant + 1]
    total = 0
    recent = min(common.ended, RECENT)
    for k in range(recent):
        total += common.outputs[k]
    spell.promised = total // max(1, recent)
    if spell.charged == 0:
        spell.charged = 1
        state.asking.accounts[i, tenant + 1].input_tokens += state.requests[r].prompt_tokens
        common.input_tokens += state.requests[r].prompt_tokens


@kernel
def charge_output(state, i, r, tokens):
    """Charge tokens that request r got on instance i to its tenant, modified in place."""
    tenant = state.requests[r].tenant
    state.asking.accounts[i, tenant + 1].output_tokens += tokens
    state.asking.accounts[state.cluster[0].num_instances, tenant + 1].output_tokens += tokens


@kernel
def charge_decodes(state, i, count):
    """Charge `count` tokens to the tenant of every decoding request of instance i, modified in place. O(batch)."""
    for slot in range(state.views[i].decoding):
        charge_output(state, i, state.batch[i, RUNNING, slot], count)


@kernel
def note_output(state, r):
    """Remember the output of request r, which finished, among the last ones of its tenant, modified in place."""
    common = state.asking.accounts[state.cluster[0].num_instances, state.requests[r].tenant + 1]
    common.outputs[common.ended % RECENT] = state.jobs[r].output_tokens
    common.ended += 1
