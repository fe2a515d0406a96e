"""Row types of the kernel's state: the one place where a field, its type and its unit are said.

Times are int64 picoseconds (`_ps`), -1 where an event has not happened. Indices are -1 for none.
A policy receives SEEN, VIEW, PREFIX and OFFER rows only; what it must not know (the true output length) is in JOB.
The rows of requests are in `request_schema`, those of the KV hierarchy in `tier_schema`, those of the fabric in
`fabric_schema`, all in `replay.engine`.
"""

from typing import Any, NamedTuple

import numpy as np

from replay.engine.cache_schema import Cache, Cost
from replay.engine.cost_schema import PROFILE as PROFILE
from replay.engine.cost_schema import SEGMENT as SEGMENT
from replay.engine.drafting_schema import Drafting
from replay.engine.fabric_schema import Wires
from replay.engine.life_schema import Lives
from replay.engine.request_schema import Asking
from replay.engine.stage_schema import Pipeline
from replay.engine.tier_schema import Hierarchy
from replay.policy import DECODE as DECODE
from replay.policy import MIXED as MIXED
from replay.policy import PREFILL as PREFILL

NONE = -1
NEVER_PS = np.int64(2**63 - 1)
MAX_LEAP = 65536  # iterations in one leap; keeps k*A + B*k*(k-1)/2 inside int64
MAX_TIME_PS = np.int64(2**63 - 2**60)  # about 93 days: room for one more iteration before int64 ends

# roles; candidates of `route` are PREFILL and MIXED, of `decode` MIXED and DECODE: instances are stored in this order
ROLES = ("prefill", "mixed", "decode")

# request status (JOB.status); the first four are those of requests.parquet
FINISHED, REJECTED, UNFINISHED, FAILED = 0, 1, 2, 3
STATUSES = ("finished", "rejected", "unfinished", "failed")

# what a request is doing (JOB.stage)
(PENDING, HELD, FETCHING, WAITING, PREFILLING, DECODING, HANDOFF, GONE, PREDICTING, STAGED,
 JOINING, LOST) = range(12)

# return codes of `advance` and fault codes (CLUSTER.fault)
DONE, PAUSED, FAULT = 0, 1, 2
(OK, BAD_ADMIT, BAD_ROUTE, BAD_SOURCE, BAD_DECODE, BAD_ORDER, BAD_BATCH, BAD_EVICT, TIME_RANGE, BROKEN_LAW,
 BAD_FETCH, BAD_MIGRATE, BAD_RECOVER) = range(13)

# rows of `State.tunables`, one per policy slot
ADMIT, ROUTE, DECODE_ROUTE, ORDER, BATCH, EVICT, FETCH, WRITE_SLOT, MIGRATE, SCALE, RECOVER = range(11)

# event log kinds
KINDS = ("arrive", "reject", "hold", "enqueue", "admit", "preempt", "token", "handoff", "deliver", "finish", "fail",
         "fetch", "lose", "retry", "up", "down", "off")
(LOG_ARRIVE, LOG_REJECT, LOG_HOLD, LOG_ENQUEUE, LOG_ADMIT, LOG_PREEMPT, LOG_TOKEN, LOG_HANDOFF, LOG_DELIVER, LOG_FINISH,
 LOG_FAIL, LOG_FETCH, LOG_LOSE, LOG_RETRY, LOG_UP, LOG_DOWN, LOG_OFF) = range(17)

# what only the engine knows of a request, and what it records
JOB = np.dtype([
    ("first_token_ps", "i8"), ("finish_ps", "i8"), ("scheduled_ps", "i8"), ("last_token_ps", "i8"),
    ("max_itl_ps", "i8"),
    ("key", "f8"), ("margin", "f8"),         # order key in its queue, and by how much it must be lower to preempt
    ("deliver_ps", "i8"),
    ("queued_ps", "i8"),                     # when it joined the queue of its instance, where batches are formed ahead
    ("think_ps", "i8"),                      # of a turn: think time, then time of arrival until it arrives, then 0
    ("output_tokens", "i4"), ("leaf", "i4"),  # truth; deepest trie node of the prompt
    ("pinned", "i4"),                        # deepest trie node held on the current instance
    ("pinned_blocks", "i4"),                 # blocks of its path resident when that node was pinned
    ("private_blocks", "i4"),                # KV blocks held outside the trie
    ("prefill_left", "i4"), ("prefilled", "i4"), ("chunk", "i4"),  # tokens to compute, position reached, now computing
    ("charged_tokens", "i4"),                # what the view's queued_tokens counts for it
    ("hit_tokens", "i4"), ("preemptions", "i4"),
    ("prefill_instance", "i4"), ("decode_instance", "i4"), ("instance", "i4"), ("source", "i4"),
    ("slot", "i4"),                          # column of the running batch
    ("next", "i4"), ("child", "i4"),         # intrusive list, pairing heap
    ("parent", "i4"), ("first_turn", "i4"), ("next_turn", "i4"),  # closed loop: parent, first child, next sibling
    ("status", "i1"), ("stage", "i1"),
], align=True)

# what a router or batch policy may know of an instance; the engine keeps its own counts here too
VIEW = np.dtype([
    ("role", "i4"),
    ("waiting", "i4"),             # requests sent there and not in its batch
    ("running", "i4"),             # requests in its batch
    ("decoding", "i4"),            # of these, past their prefill
    ("max_batch", "i4"), ("token_budget", "i4"),
    ("block_tokens", "i4"), ("total_blocks", "i4"),
    ("free_blocks", "i4"),         # holding nothing
    ("cached_blocks", "i4"),       # holding a reusable prefix that nobody uses: evictable
    ("hit_tokens", "i4"),          # prompt tokens of the request at hand cached here
    ("sent", "i4"),                # requests ever routed there
    ("queued_tokens", "i8"),       # prefill tokens still to compute for requests sent there
    ("waiting_tokens", "i8"),      # context tokens of the waiting requests
    ("iteration_s", "f8"), ("prefill_token_s", "f8"), ("prefill_token_sq_s", "f8"), ("decode_request_s", "f8"),
    ("kv_token_s", "f8"), ("prefill_tokens_per_s", "f8"), ("transfer_token_s", "f8"), ("transfer_latency_s", "f8"),
    # with a fabric: time until the KV of the request at hand would be there (decode only); of the card that receives
    # KV the flows on it, and which share of its bandwidth was used
    ("transfer_s", "f8"), ("link_flows", "i8"), ("link_utilisation", "f8"),
    ("in_flight", "i4"),           # requests sent there that have not left it; exact even where other signals are old
    ("home", "i4"),                # of a mixed pool: role to which it returns; else its role
    ("kv_tokens", "i8"),           # context of the decoding requests, if read
    ("least_itl_s", "f8"),         # least ITL target among the decoding requests, inf for none, if read (batch only)
    ("slack_s", "f8"),             # time until the first of them is due its next token, inf for none (batch only)
], align=True)

# what only the engine knows of an instance
INSTANCE = np.dtype([
    ("start_ps", "i8"),            # when the iteration in progress began, as last settled
    ("base_ps", "i8"),             # its cost
    ("growth_ps", "i8"),           # by how much each further iteration of the leap costs more
    ("end_ps", "i8"),              # when the phase ends, NEVER_PS when idle
    ("iteration", "i8"),           # decode iterations completed
    ("next_finish", "i8"),         # no decoding request finishes before this many iterations
    ("kv_tokens", "i8"),           # context of the decoding requests in the next iteration
    ("last_decode_ps", "i8"),      # when the decoding requests last received a token
    ("gap_ps", "i8"),              # extra gap before the first token of this phase (paused decodes)
    ("nic_free_ps", "i8"), ("busy_ps", "i8"), ("iterations", "i8"), ("prefill_done_tokens", "i8"),
    ("evicted_blocks", "i8"), ("changed_ps", "i8"), ("link_changed_ps", "i8"),
    ("waiting_area", "f8"), ("running_area", "f8"), ("link_area", "f8"),  # request-seconds, for Little's law
    ("linked", "i4"),              # requests whose KV the network card carries or will carry
    ("left", "i4"),                # iterations left in the phase, 0 when idle, -1 between two phases
    ("phase_prefill_tokens", "i4"),
    ("decodes", "i1"),             # the phase runs the decoding requests
    ("may_evict", "i1"),           # growth in this leap may evict
    ("gives", "i1"),               # a request that migrates is to leave at the end of the iteration in progress
    ("residue", "i4"),             # iteration modulo block_tokens
    ("fresh", "i4"),               # decoding requests that wait for their first token here
    ("queue", "i4"),               # pairing heap of waiting requests
    ("prefill_head", "i4"), ("prefill_tail", "i4"),
    ("link_head", "i4"), ("link_tail", "i4"),
    ("lru_head", "i4"), ("lru_tail", "i4"), ("slot_free", "i4"), ("slots_used", "i4"),
    ("slot_first", "i4"), ("heap_count", "i4"),  # first row of its slots; slots in its eviction heap
    ("queued", "i8"), ("clock", "f8"), ("inserted_blocks", "i8"), ("passes", "i4"),
    ("tier", "i4"),                # 0 HBM; the rows after the instances are stores: DRAM 1, disk 2
    ("private_dram", "i4"), ("local_disk", "i4"),  # stores of its own, -1 for none
    ("loads", "i4"), ("pending_head", "i4"), ("pending_tail", "i4"),  # loads under way to it, and those that wait
    ("stall_request", "i4"), ("stall_ps", "i8"),  # longest load that the iteration about to begin waits for
    # with a fabric: what the iteration in progress waits for, and how long it takes by what has come
    ("awaited_loads", "i4"), ("awaited_exchanges", "i4"), ("longer_ps", "i8"), ("exchange_exposed_ps", "i8"),
    ("empty_since_ps", "i8"),      # when its queue last became empty
    ("next_death_ps", "i8"),       # none of its nodes outlives its time before
    ("profile", "i4"),
    ("private_blocks", "i8"), ("pinned_blocks", "i8"),
    ("tokens_out", "i8"),
    ("first_rank", "i4"), ("ranks", "i4"),  # of its group, where instances step together; the number of them
    ("phase_squares", "i8"),       # of the chunks that it runs next, there
    # where batches are formed ahead: who joined the queue later was not seen; what came free later was not counted
    ("seen_ps", "i8"), ("late_blocks", "i8"), ("late_places", "i4"),
], align=True)

# compressed trie of the trace, in KV blocks of the cluster
NODE = np.dtype([
    ("parent", "i4"), ("blocks", "i4"), ("start_blocks", "i4"),
    ("depth", "i4"),               # nodes on the path from the root to here, this one too
], align=True)

# a trie node resident on one holder (an instance's HBM or a store): 64 bytes, a line of the processor's cache
SLOT = np.dtype([
    ("last_used_ps", "i8"), ("score", "f8"), ("floor", "f8"),
    ("queued", "i8"),              # when it joined the eviction queue, as a running number of the holder
    ("node", "i4"), ("blocks", "i4"), ("uses", "i4"), ("pins", "i4"),
    ("previous", "i4"), ("next", "i4"),  # in the list of queued slots; IN_HEAP and its place, where it is in the heap
    ("fragment", "i4"),            # of a disk: its newest fragment, -1 for none
    ("whole", "i1"),               # it ends a prompt that was published here as a whole
    ("spared", "i1"),              # a waiting request needs it: it leaves after all others
], align=True)
IN_HEAP = -2

# what is seldom looked at of a slot: the same row of `pasts`
PAST = np.dtype([
    ("first_used_ps", "i8"),
    ("looked", "i4"),              # pass over the eviction queue in which it was examined last
    ("uses_before", "i4"),         # uses when it got a second chance; 1, for its first one, if it never did
    ("group", "i4"),               # class of its last user, see GROUP
], align=True)

# what an evict or write policy may know of it
PREFIX = np.dtype([
    ("last_used_ps", "i8"), ("first_used_ps", "i8"),
    ("node", "i4"), ("blocks", "i4"), ("start_blocks", "i4"),  # of the trie; of its KV blocks those here; blocks before
    ("uses", "i4"),                # requests that held it and let it go, since it came
    ("score", "f8"),               # as last given
    ("tier", "i4"),                # 0 HBM, 1 DRAM, 2 disk
    ("examined", "i4"),            # 1 if asked because the node is up for eviction: a higher score queues it anew
    ("uses_since", "i4"),          # uses since it came or got a second chance, its first one not counted
    ("clock", "f8"),               # score of the node last evicted from this holder, -1e308 before the first
    ("total_blocks", "i8"), ("inserted_blocks", "i8"), ("evicted_blocks", "i8"),  # of the holder: size, ever in, out
    ("next_use", "i8"),            # for oracle_* only: next row of the trace that uses the node, -1 if none
    ("group_share", "f8"),         # estimated share of its class's uses that are followed by another
    ("group_reuse_s", "f8"),       # estimated mean time to that
], align=True)

# how often nodes of a class (kind and turn of the request that used them last) are used again
GROUP = np.dtype([("uses", "i8"), ("reuses", "i8"), ("reuse_s", "f8")], align=True)
TURNS = 8  # classes tell turns 0 to 6 and later ones apart

CLUSTER = np.dtype([
    ("now_ps", "i8"), ("cursor", "i8"), ("events", "i8"), ("fault_at", "i8"), ("fault_value", "i8"),
    ("log_count", "i8"),
    ("num_requests", "i8"),
    ("passed", "i4"),              # highest instance whose event at now_ps was handled, -1 if none
    ("num_instances", "i4"), ("num_prefill", "i4"), ("first_decode", "i4"),
    ("arrived", "i4"), ("gone", "i4"),
    ("held", "i4"), ("held_count", "i4"),   # pairing heap of the cluster queue
    ("turns", "i4"),                        # pairing heap of closed-loop arrivals to come
    ("fault", "i4"),
    ("held_area", "f8"), ("held_changed_ps", "i8"),  # request-seconds in the cluster queue
    ("special", "i1"),                      # any of SPECIAL is on: the plain loop looks at this alone
    ("block_shift", "i4"),                  # a block has 2 to the power of it tokens, -1 for another number
    ("leap", "i1"), ("log", "i1"), ("cache", "i1"), ("layerwise", "i1"), ("gaps", "i1"), ("fabric", "i1"),
    ("staged", "i1"),                       # requests pass stages of their own beside the transformer: see stages
    ("reads_hits", "i1"), ("reads_blocks", "i1"),  # whether admit or route read hit_tokens, or block counts
    ("decode_reads_blocks", "i1"), ("batch_reads_blocks", "i1"),
    ("plain_lookup", "i1"),                 # no lifetime, no exact match
    ("exact_match", "i1"), ("refresh", "i1"),
    ("exact_evictions", "i1"),              # somebody sees when blocks leave an HBM: no leap may evict
    ("tracked", "i1"), ("spills", "i1"), ("lagged", "i1"), ("routed", "i1"),
    ("evict_reads", "i1"), ("second_look", "i1"), ("foresees", "i1"), ("classes", "i1"),  # what the evict policy reads
    ("tiered", "i1"), ("prefetch", "i1"), ("overlap", "i1"), ("promote", "i1"), ("lookahead", "i1"),
    ("num_stores", "i4"), ("num_shared", "i4"), ("num_shards", "i4"), ("common_store", "i4"),
    ("in_flight", "i4"), ("writes", "i4"), ("replicate_after", "i4"), ("unit_tokens", "i4"), ("unit_blocks", "i4"),
    ("bound", "f8"),
    ("ttl_ps", "i8"), ("gc_ps", "i8"), ("lag_ps", "i8"), ("lookup_ps", "i8"), ("node_ps", "i8"), ("gc_node_ps", "i8"),
    ("recurring", "i8"),                    # timers of the hierarchy under way that come again: gc, samples
    ("timers", "i8"), ("timer_sequence", "i8"), ("timer_now", "i8"), ("spilled", "i8"), ("spills_lost", "i8"),
    ("changes_begin", "i8"), ("changes_end", "i8"), ("gc_nodes", "i8"),
    ("sample_ps", "i8"), ("samples", "i8"),
    ("asks", "i4"),                         # bit s: the policy of slot s reads more of a request than REQUEST has
    ("rekeys", "i1"),                       # the order policy is asked anew whenever a batch is formed
    ("fair", "i1"), ("promises", "i1"),     # somebody reads tenant_service or tenant_expected; the latter
    ("spelled", "i1"), ("reads_prefill", "i1"), ("reads_truth", "i1"), ("reads_prefix_keys", "i1"),
    ("batch_reads_pace", "i1"), ("admit_reads_decodes", "i1"), ("signals", "i1"), ("pooled", "i1"),
    ("learns", "i1"), ("reads_predictions", "i1"),  # a model learns in the replay; somebody reads more of a prediction
    ("predict_ps", "i8"),                   # what a prediction takes before admission
    ("refresh_tokens", "i8"),               # generated tokens after which a prediction is looked at again, 0 for never
    ("migrates", "i1"),                     # requests may move between decode-capable instances while they run
    ("input_weight", "f8"), ("output_weight", "f8"),  # of a token in tenant_service
    ("signal_lag_ps", "i8"), ("signal_ps", "i8"),     # age of signals, and when they are taken next
    ("migrate_ps", "i8"),                   # time between two questions to the migrate policy
    ("stop_at", "i8"),                      # pause before so many requests and one have arrived, -1 for never
    ("outputs", "i1"),                      # what requests generate stays in the cache
    ("lives", "i1"),                        # instances start, drain, fail: see life
    ("away", "i4"), ("draining", "i4"),     # instances that routers do not take to be there; that drain
    ("in_step", "i1"),                      # instances of a group begin and end iterations together: see ranks
    ("plans_ahead", "i1"),                  # a batch is formed while the iteration before runs
    ("forced", "i4"),                       # instance to which the next request is routed whatever the policy, or -1
    ("draft_tokens", "i4"),                 # that each decoding request proposes in an iteration, 0 for none
], align=True)

# mechanisms that the loop has nothing to do for in a run without them; what it does for them is in `rare`
SPECIAL = ("log", "fabric", "staged", "lagged", "tiered", "lookahead", "foresees", "classes", "rekeys", "fair",
           "promises", "spelled", "batch_reads_pace", "signals", "learns", "outputs", "lives", "in_step", "plans_ahead",
           "draft_tokens", "routed")  # fmt: skip

# what a fetch policy may know of a load
OFFER = np.dtype([
    ("hbm_tokens", "i8"), ("dram_tokens", "i8"), ("disk_tokens", "i8"),  # usable with what HBM, DRAM, disks hold too
    ("dram_s", "f8"), ("disk_s", "f8"),                    # until these are loaded, queues included
    ("dram_compute_s", "f8"), ("disk_compute_s", "f8"),    # to compute them instead
], align=True)

EVENT = np.dtype([("time_ps", "i8"), ("request", "i4"), ("instance", "i4"), ("value", "i8"), ("kind", "i1")])

# columns of State.batch[instance, column, slot]
FINISH_AT, MAX_GAP, RUNNING, LAST_TOKEN = range(4)

# histogram of gaps: 64 bins an octave of int64 ps
BINS_PER_OCTAVE = 64
BINS = 64 * BINS_PER_OCTAVE


class Policies(NamedTuple):
    """Compiled policies, one a slot; then the parts of the engine that a run without them need not compile."""

    admit: Any
    route: Any
    decode: Any
    order: Any
    batch: Any
    evict: Any
    fetch: Any
    write: Any
    migrate: Any
    scale: Any
    recover: Any
    tiers: Any
    fabric: Any
    moves: Any
    learning: Any
    life: Any
    stages: Any
    drafting: Any


class State(NamedTuple):
    """All that `advance` reads and writes; copying the arrays forks a replay."""

    cluster: np.ndarray  # CLUSTER (1,)
    requests: np.ndarray  # REQUEST (num_requests,)
    jobs: np.ndarray  # JOB (num_requests,)
    views: np.ndarray  # VIEW (num_instances,)
    prefill_views: np.ndarray  # the part of `views` that admit and route see
    decode_views: np.ndarray  # the part of `views` that decode sees
    instances: np.ndarray  # INSTANCE (num_instances,)
    batch: np.ndarray  # int64 (num_instances, 4, max_batch)
    growth: np.ndarray  # int32 (num_instances, block_tokens): decoding requests by residue at which they need a block
    tiers: np.ndarray  # int32 (num_instances, num_tiers): decoding requests by tier
    tree: np.ndarray  # int64 (4 * leaves,): next event of every link and instance
    histogram: np.ndarray  # int64 (num_tiers, BINS): gaps between tokens
    gaps: np.ndarray  # int64 (all output tokens,): every gap of every request, where asked for; else one element
    gap_first: np.ndarray  # int64 (num_requests,): where the gaps of a request begin
    tunables: np.ndarray  # float64 (slots, MAX_TUNABLES + memory): tunables, read only, then what a policy remembers
    log: np.ndarray  # EVENT (capacity,)
    cache: Cache
    cost: Cost
    hierarchy: Hierarchy
    wires: Wires
    asking: Asking
    lives: Lives
    pipeline: Pipeline
    speculation: Drafting
    policies: Any  # Policies, for interpreted code; compiled code finds them behind the state's table
