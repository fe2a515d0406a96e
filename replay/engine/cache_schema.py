"""The groups of the state that hold prefix caches and cost tables; their rows are those of `schema`."""

from typing import NamedTuple

import numpy as np


class Cache(NamedTuple):
    """Prefix caches of all instances on the compressed trie."""

    nodes: np.ndarray  # NODE (num_nodes,)                read only
    # int32 (num_nodes, num_holders)  row s of `slots`; -2 - s if only its first blocks are resident, -1 if none
    slot_of: np.ndarray
    slots: np.ndarray  # SLOT (capacity of all holders,)
    pasts: np.ndarray  # PAST, as long as `slots`
    prefix: np.ndarray  # PREFIX (1,): what a policy is shown
    queue: np.ndarray  # int32, as long as `slots`: eviction heap of each holder, beside its slots
    next_use: np.ndarray  # int64 (num_nodes,): for oracles
    next_row: np.ndarray  # int64 (all path nodes,): for oracles, what next_use becomes when a request arrives
    path_first: np.ndarray  # int64 (num_requests,): where its nodes begin in next_row, leaf first
    classes: np.ndarray  # GROUP (kinds * TURNS,)
    tails: np.ndarray  # int32 (num_requests,), read only: deepest node of prompt and output, where outputs are cached


class Cost(NamedTuple):
    """Integer cost tables, read only."""

    profiles: np.ndarray  # PROFILE (num_profiles,)
    segments: np.ndarray  # SEGMENT (num_segments,)
