"""Row types of speculative decoding: what a request's drafts came to, and what drafting costs.

Times are int64 picoseconds (`_ps`). What speculation does is in *Speculative decoding* of MODEL.md.
"""

from typing import NamedTuple

import numpy as np

# operations: a request joins or leaves the decoding ones; what drafts add to the cost of an iteration; it is over
OP_JOIN, OP_LEAVE, OP_COST, OP_VERIFIED = range(4)

STREAM = 1 << 61  # of draws, far from those of policies and of stages

# what one drafted token costs, of every iteration with decodes
DRAFTING = np.dtype([
    ("draft_ps", "i8"),            # for the whole batch
    ("draft_request_ps", "i8"),    # and for each decoding request
    ("share_ppm", "i8"),           # and as a share of the time of an iteration that only decodes this batch
], align=True)
# of each request
DRAFT = np.dtype([
    ("iterations", "i8"),          # in which it proposed tokens
    ("accepted_tokens", "i8"),     # proposed tokens that it kept
    ("blocks", "i4"),              # KV blocks that it holds while it decodes, those for proposed tokens included
], align=True)


class Drafting(NamedTuple):
    """The part of the state for speculative decoding; one row each, unused, without `Cluster.speculation`."""

    drafting: np.ndarray  # DRAFTING (1,)
    drafts: np.ndarray  # DRAFT (num_requests,)
    reach: np.ndarray  # float64 (draft_tokens,): probability that so many proposed tokens, and one more, are accepted
