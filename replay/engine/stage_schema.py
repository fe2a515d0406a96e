"""Row types of the stages beside the transformer. STAGES.md beside this file says what they mean.

Times are int64 picoseconds (`_ps`), -1 where an event has not happened. Index letters: `s` stage, `b` server of a
stage, `c` call; sets of stages are bit masks.
"""

from typing import NamedTuple

import numpy as np

# what a request is in, in this order (JOURNEY.phase)
IN_BEFORE, IN_DECODER, IN_JOIN, IN_AFTER, ENDED = range(5)
NO_TOKENS = 2**31 - 1  # no call is due at any number of tokens

# operations: a request arrives, is admitted, has so many tokens, has all; an event of a stage; batches begin
OP_ENTER, OP_ADMITTED, OP_TOKENS, OP_DECODED, OP_STAGE_EVENT, OP_START = range(6)

# the whole of it
PIPE = np.dtype([
    ("before", "i8"), ("beside", "i8"), ("segments", "i8"), ("after", "i8"),  # which stages these are
    ("num_stages", "i4"), ("num_servers", "i4"),
    ("dirty", "i1"),               # a call came or a server became free: batches may begin
], align=True)
STATION = np.dtype([
    ("needs", "i8"),               # stages that come first
    ("base_ps", "i8"), ("wait_ps", "i8"), ("item_fs", "i8"), ("latency_ps", "i8"),
    ("place", "i4"), ("every_tokens", "i4"), ("servers", "i4"), ("first_server", "i4"), ("max_batch", "i4"),
    ("by_tier", "i1"),
    ("waiting", "i4"), ("serving", "i4"), ("busy", "i4"),  # calls in its queue and in batches; servers with a batch
    ("link_head", "i4"), ("link_tail", "i4"), ("link_free_ps", "i8"),
    ("changed_ps", "i8"), ("waiting_area", "f8"), ("serving_area", "f8"),  # call-seconds, for Little's law
    ("busy_ps", "i8"), ("batches", "i8"), ("calls", "i8"), ("items", "i8"),  # what it has served
], align=True)
BENCH = np.dtype([
    ("start_ps", "i8"), ("end_ps", "i8"),
    ("stage", "i4"),
    ("head", "i4"),                # first call of its batch whose end is not handled, -1 when free
], align=True)
# a stage of a request: row r * num_stages + s
TASK = np.dtype([
    ("ready_ps", "i8"), ("end_ps", "i8"),    # first call came; last one ended, its output there
    ("queue_ps", "i8"), ("service_ps", "i8"),  # summed over its calls
    ("first_call", "i4"), ("calls", "i4"), ("issued", "i4"), ("ended", "i4"),  # calls: 0 where it has not the stage
], align=True)
CALL = np.dtype([
    ("work_ps", "i8"),             # what it adds to its batch's time
    ("since_ps", "i8"), ("done_ps", "i8"),   # it came; its output comes
    ("items", "i8"),
    ("request", "i4"), ("stage", "i4"), ("next", "i4"),  # in the queue, then in its batch, then on the link
], align=True)
JOURNEY = np.dtype([
    ("started", "i8"), ("over", "i8"),       # stages
    ("entered_ps", "i8"), ("admitted_ps", "i8"), ("decoded_ps", "i8"),  # past the stages before; admitted; last token
    ("phase", "i4"),
    ("next_tokens", "i4"),         # generated tokens at which a call of a segment is due
], align=True)


class Pipeline(NamedTuple):
    """The stages' part of the state; one row each, unused, without `Cluster.stages`."""

    pipe: np.ndarray  # PIPE (1,)
    stations: np.ndarray  # STATION (num_stages,)
    benches: np.ndarray  # BENCH (servers of all stages,)
    tasks: np.ndarray  # TASK (num_requests * num_stages,)
    calls: np.ndarray  # CALL (calls of all requests,)
    journeys: np.ndarray  # JOURNEY (num_requests,)
    lines: np.ndarray  # int32 (num_stages, num_tiers, 2): first and last call that waits; by tier if it counts, else 0
    agendas: np.ndarray  # int64 (4 * leaves,): tree of the next events of [links | servers | waits] of stages
