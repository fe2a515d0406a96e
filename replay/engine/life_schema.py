"""Row types of the life of instances: those that start, drain and fail, and what scale policies are told of a pool.

Times are int64 picoseconds (`_ps`), indices are -1 for none, as in `replay.engine.schema`.
"""

from typing import NamedTuple

import numpy as np

# what an instance is doing
UP, STARTING, DRAINING, DOWN, OFF = range(5)
LIVES = ("up", "starting", "draining", "down", "off")

LIFE = np.dtype([
    ("since_ps", "i8"),            # when its state began
    ("until_ps", "i8"),            # of STARTING and DOWN: when it comes up; of OFF: it cannot start before
    ("notice_ps", "i8"),           # when routers know of its last failure
    ("paid_ps", "i8"), ("up_ps", "i8"), ("down_ps", "i8"),  # not OFF, UP or DRAINING, and DOWN, up to since_ps
    ("nic_down_ps", "i8"),         # until when its card sends nothing
    ("lost_kv_tokens", "i8"),      # KV of requests that were on it as it failed
    ("cached_lost_blocks", "i8"),  # reusable prefixes that went with it, failed or shrunk away
    ("cached_shrunk_blocks", "i8"),  # of these, those that went as it was switched off
    ("wipes", "i4"),               # how often its memory was emptied: it failed or was switched off
    ("crashes", "i4"), ("starts", "i4"), ("lost_requests", "i4"),
    ("nic_permille", "i4"),        # speed of its card, in thousandths of the usual
    ("pool", "i4"),
    ("suspected", "i4"),           # health checks that fail although it is there
    ("stranded", "i4"),            # prefilled requests whose KV it keeps until they have a decode instance
    ("lost_head", "i4"),           # by row: requests that it took with it, and handoffs to it, until it is noticed
    ("state", "i1"),
    ("abandons", "i1"),            # loads to it are to end: it was emptied in this event
    ("trusted", "i1"),             # routers take it to be there
], align=True)

# what a scale policy is told of a pool: the instances of one role, the shared DRAM nodes, or the servers of the store
# that all share
POOL = np.dtype([
    ("role", "i4"), ("index", "i4"),
    ("up", "i4"), ("starting", "i4"), ("draining", "i4"), ("down", "i4"),
    ("least", "i4"), ("most", "i4"),
    ("lacking", "i4"),             # instances that were to start, but for the budget; they do as soon as there is room
    ("waiting", "i8"), ("running", "i8"), ("max_batch", "i8"),  # over its instances that are up
    ("held", "i8"),                # requests in the cluster queue
    ("queued_tokens", "i8"),       # prefill tokens still to compute
    ("kv_share", "f8"),            # of their KV blocks, those that requests hold; of stores, those that hold anything
    # since it was last asked; means are 0 where nothing was counted
    ("interval_s", "f8"),
    ("busy_share", "f8"),          # of the time of what is up; of DRAM nodes that of their cards, the busier way, of
                                   # storage servers that of the busiest medium
    ("arrivals", "i8"), ("arrived_tokens", "i8"),               # requests that came to the cluster, their prompts
    ("first_tokens", "i8"), ("ttft_s", "f8"),                   # and their mean
    ("finished", "i8"), ("mean_output_tokens", "f8"), ("itl_s", "f8"),  # means over what finished: output, time a token
    # of stores: what loads read, and the time since the last use of what would leave next, by what nodes hold
    ("read_tokens", "i8"), ("tail_age_s", "f8"),
    # of the first instance of the pool; of stores only kv_tokens, of one node
    ("iteration_s", "f8"), ("prefill_token_s", "f8"), ("decode_request_s", "f8"), ("kv_token_s", "f8"),
    ("prefill_tokens_per_s", "f8"),
    ("places", "i8"), ("kv_tokens", "i8"),                      # of its batch, of its KV memory
    # least targets of any tier, inf for none; of a mean time a token the less of ITL and TPOT
    ("ttft_target_s", "f8"), ("itl_target_s", "f8"),
    ("start_s", "f8"),             # from the decision to start an instance until it serves
    ("budget", "i8"),              # instances of all pools that are on at once, 0 for no limit
    ("since_s", "f8"),             # time of day of the replay: seconds since it began
], align=True)

# running totals, and what they were when a pool was last asked
TALLY = np.dtype([
    ("arrivals", "i8"), ("arrived_tokens", "i8"), ("first_tokens", "i8"), ("ttft_ps", "i8"),
    ("finished", "i8"), ("output_tokens", "i8"), ("decode_ps", "i8"), ("decode_tokens", "i8"), ("busy_ps", "i8"),
    ("up_ps", "i8"), ("asked_ps", "i8"),
    ("read_blocks", "i8"), ("read_busy_ps", "i8"), ("write_busy_ps", "i8"),  # of stores
], align=True)

# what is to fail, in order of time
(CRASH, NODE_LOSS, LINK, SUSPECT, PAUSE, STORE_LOSS, SHARD_LOSS) = range(7)
FAILURES = ("instance", "node", "link", "suspect", "control", "store", "shard")
FAILURE = np.dtype([
    ("at_ps", "i8"), ("for_ps", "i8"),
    ("what", "i4"),                # instance or node
    ("permille", "i4"),            # of LINK: its speed meanwhile, in thousandths; 0 is down
    ("kind", "i1"),
], align=True)

SETTING = np.dtype([
    ("interval_ps", "i8"), ("start_ps", "i8"), ("switch_ps", "i8"), ("detect_ps", "i8"),
    ("replica_tokens", "i8"),      # KV of a decoding request is copied elsewhere every so many tokens, 0 for never
    ("budget", "i8"),              # instances that are not OFF at once, 0 for no limit
    ("cursor", "i8"),              # next row of `failures`
    ("timers", "i8"), ("sequence", "i8"), ("recurring", "i8"),
    ("again_head", "i4"), ("again_tail", "i4"),      # requests that are to go on in this event
    ("stranded_head", "i4"), ("stranded_tail", "i4"),  # prefilled requests for which no decode instance is there
    ("shut_head", "i4"), ("shut_tail", "i4"),        # requests that came while the control plane was away
    ("node_instances", "i4"), ("num_pools", "i4"),
    ("node_start_ps", "i8"), ("drain_ps", "i8"),   # of shared DRAM nodes and storage servers
    ("stores_change", "i4"),       # in this event loads are to end, or stores to go or come back
    ("paused", "i4"),              # fail-overs of the control plane under way
    ("aside", "i8"),               # requests that are lost, stranded or shut out: on no instance
    ("moments", "i8"),             # rows of `moments` used
    ("lost", "i8"), ("most_lost", "i8"),     # requests lost with instances in all, and by one failure
    ("retries", "i8"), ("restarts", "i8"), ("given_up", "i8"), ("wasted_tokens", "i8"),
], align=True)

# kinds of timers
ASK, COME_UP, DETECT, FAIL, TRUST, RESTORE_LINK, RESUME_CONTROL, RESTORED, STORE_BACK, NODE_UP = range(10)
MOMENT = np.dtype([("time_ps", "i8"), ("instance", "i4"), ("state", "i4")], align=True)

# of a request, kept beside JOB
LOSS = np.dtype([
    ("lost_ps", "i8"),             # when it was lost last, -1 while it is not
    ("notice_ps", "i8"),           # when that is noticed
    ("away_ps", "i8"),             # in all, from a loss to the recover policy's answer
    ("begun_ps", "i8"),            # no KV of it was sent to a decode instance before
    ("kv_tokens", "i8"),           # KV that it lost and has not got again
    ("recomputed_tokens", "i8"),   # of such, computed anew
    ("restored_tokens", "i8"),     # of such, from a replica
    ("restored_blocks", "i4"),     # of its context, KV that is to come, or came, from a replica
    ("losses", "i4"),
], align=True)

# operations, and what a recover policy says
(OP_LIFE, OP_AGAIN, OP_LOST, OP_DRAINED, OP_STRAND, OP_AWAIT, OP_RESTORE, OP_TURN, OP_OVER) = range(9)
RESTART, RESUME, RESTORE, GIVE_UP = range(4)
FIRST_MOMENTS = 1 << 12


class Lives(NamedTuple):
    """The life of instances; one row each, unused, where all are there from the beginning to the end."""

    life: np.ndarray  # LIFE (num_instances,)
    node_lives: np.ndarray  # LIFE (shared DRAM nodes + servers of the store for all,): one row, unused, without either
    pools: np.ndarray  # POOL (num_pools,)
    totals: np.ndarray  # TALLY (1,)
    asked: np.ndarray  # TALLY (num_pools,)
    failures: np.ndarray  # FAILURE (num_failures + 1,), read only; the last is never reached
    setting: np.ndarray  # SETTING (1,)
    life_timers: np.ndarray  # TIMER (capacity,), in no order
    moments: np.ndarray  # MOMENT (capacity,): every change of what an instance does; grown between slices
    losses: np.ndarray  # LOSS (num_requests,)
    offered: np.ndarray  # VIEW (num_instances,): the instances of a question that are there
    offered_decodes: np.ndarray  # VIEW (num_instances,)
    offered_ids: np.ndarray  # int64 (num_instances,): which these are
    decode_ids: np.ndarray  # int64 (num_instances,)
