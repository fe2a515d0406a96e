"""Row types of requests as policies see them, and what the engine keeps only where a policy reads it.

Times of the engine are int64 picoseconds (`_ps`), those that a policy reads are seconds (`_s`).
"""

from typing import NamedTuple

import numpy as np

PREFIX_KEYS = 8  # identities of a prompt's first 1, 2, 4, ... 128 trace blocks
OP_MOVE, OP_GO = range(2)  # operations of live migration: an event of it, the end of an iteration of its source
RECENT = 5  # outputs of a tenant that its expected output is the mean of

# what is kept of every request, and a policy may know
REQUEST = np.dtype([
    ("id", "i8"),                # row in the trace
    ("arrival_ps", "i8"),
    ("random_key", "u8"),        # hash of (seed, id): give it to draws.uniform
    ("sequence", "i4"),          # how many requests arrived before it
    ("prompt_tokens", "i4"),
    ("generated_tokens", "i4"),  # exact when the request is not running; at admission to the batch otherwise
    ("predicted_tokens", "i4"),  # predicted output tokens, -1 without a predictor
    ("tier", "i4"),              # 0 is the most urgent
    ("tenant", "i4"),
    ("session", "i4"),
    ("kind", "i4"),
    ("turn", "i4"),              # turns before it in its session, 0 for the first or where sessions are not known
], align=True)

# what is worked out of a request when it is asked about, if the policy reads any of it
MORE = [
    ("ttft_s", "f8"), ("tpot_s", "f8"), ("itl_s", "f8"), ("e2e_s", "f8"),  # targets of its tier, inf for none
    ("weight", "f8"), ("price_usd", "f8"), ("penalty_usd", "f8"),          # of its tier
    ("runs", "i4"),              # 1 in the batch of an instance, 0 not; then generated_tokens is exact here too
    ("true_tokens", "i4"),       # for oracle_* only: its true output tokens
    ("stage_s", "f8"),           # for how long it has waited since it arrived or last ran, or has run since admitted
    ("waited_s", "f8"),          # while it runs: for how long it waited before; else 0
    ("served_s", "f8"),          # time in batches so far
    ("prefill_tokens", "i4"),    # still to be computed on the instance at hand; in the cluster queue all of its prompt
    ("preemptions", "i4"),
    ("prefill_s", "f8"),         # what that takes there, alone; in the cluster queue on instance 0
    # service of its tenant on the instance at hand, in the cluster queue on all: input_weight a prompt token admitted
    # and output_weight an output token (tunables of the order policy, else 1 and 2) by the tenant's weight; lifted to
    # the least of the tenants that wait, or of the one that waited last, when it comes to wait after an absence
    ("tenant_service", "f8"),
    ("tenant_expected", "f8"),   # the same, with the mean of its last 5 outputs charged at admission
    ("tenant_weight", "f8"),
    ("predicted_p90_tokens", "i4"), ("predicted_p99_tokens", "i4"),  # quantiles, -1 where nothing is predicted
    # predicted tokens still to come: predicted_tokens less generated_tokens, not below 0; where predictions are looked
    # at again, what is expected of requests predicted alike that have got so far; -1 where nothing is predicted
    ("predicted_left_tokens", "f8"),
    ("prefix_keys", "u8", (PREFIX_KEYS,)),  # alike for prompts alike in their first 2^k trace blocks
]
SEEN = np.dtype([*[(name, REQUEST[name]) for name in REQUEST.names or ()], *MORE], align=True)
# an order policy that reads one of these, or now_ps, is asked anew for all on an instance whenever a batch is formed
MOVING = frozenset({"generated_tokens", "runs", "stage_s", "waited_s", "served_s", "prefill_tokens", "prefill_s",
                    "tenant_service", "tenant_expected", "predicted_left_tokens"})
TENANTS = frozenset({"tenant_service", "tenant_expected"})
PREDICTED = frozenset({"predicted_p90_tokens", "predicted_p99_tokens", "predicted_left_tokens"})
SPELLS = frozenset({"stage_s", "waited_s", "served_s"})

# what a tier was promised, and what it pays
TARGET = np.dtype([("ttft_s", "f8"), ("tpot_s", "f8"), ("itl_s", "f8"), ("e2e_s", "f8"), ("weight", "f8"),
                   ("price_usd", "f8"), ("penalty_usd", "f8")], align=True)

# a request's spells of waiting and running
SPELL = np.dtype([("since_ps", "i8"), ("waited_ps", "i8"), ("served_ps", "i8"),
                  ("promised", "i4"), ("charged", "i4")], align=True)  # output expected; 1 once its prompt is charged

# what a tenant got on an instance; the last row of instances is the cluster
ACCOUNT = np.dtype([("input_tokens", "i8"), ("output_tokens", "i8"), ("lift", "f8"), ("promised", "f8"),
                    ("waiting", "i4"), ("ended", "i4"), ("outputs", "i4", (RECENT,))], align=True)
# of an instance, and of the cluster: the tenant that waited last; greatest difference of service among those that wait
LEDGER = np.dtype([("last", "i4"), ("gap", "f8")], align=True)


# a live migration from an instance: rounds copy its KV while it decodes, the last one while it pauses
MOVE = np.dtype([
    ("request", "i4"),           # -1 for none
    ("target", "i4"), ("preemptions", "i4"),  # of the request when it began to move
    ("copied", "i4"),            # tokens of KV that are there once the copy under way is
    ("rounds", "i8"), ("moved", "i8"), ("given_up", "i8"), ("copied_tokens", "i8"),  # over the run
], align=True)


class Asking(NamedTuple):
    """What is kept for the questions that policies are asked."""

    seen: np.ndarray  # SEEN (1,): what a policy is shown
    targets: np.ndarray  # TARGET (num_tiers,), read only
    spells: np.ndarray  # SPELL (num_requests,), one row where nobody reads them
    accounts: np.ndarray  # ACCOUNT (num_instances + 1, num_tenants + 1), the first for requests without a tenant
    ledgers: np.ndarray  # LEDGER (num_instances + 1,)
    shares: np.ndarray  # float64 (num_tenants + 1,), weights of tenants, read only
    prefix_keys: np.ndarray  # uint64 (num_requests, PREFIX_KEYS), one row where nobody reads them, read only
    told: np.ndarray  # VIEW (num_instances,): what instances reported last, one row where signals have no age
    moving: np.ndarray  # MOVE (num_instances,), one row where nothing migrates
    quantiles: np.ndarray  # int32 (num_requests, 2): predicted p90 and p99, one row where nobody reads or learns them
    workers: np.ndarray  # int64 (workers,): when each of those that predict is free, in ps
    left_class: np.ndarray  # int32 (num_requests,): row of `left`, one row where predictions are not looked at again
    left: np.ndarray  # float64 (classes, GRID): expected tokens still to come, see predictors.survival, read only
    learned: np.ndarray  # int32 (num_requests, groups), and those below: see learning_schema
    cells: np.ndarray
    looks: np.ndarray
    weights: np.ndarray
    gains: np.ndarray
    inverse: np.ndarray
    record: np.ndarray
