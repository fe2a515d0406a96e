"""Row types of what iterations cost: profiles and the segments of their tables; integer picoseconds (`_ps`)."""

import numpy as np

# cost of an iteration (see timing.iteration_ps)
PROFILE = np.dtype([
    ("prefill_token_ps", "i8"), ("prefill_token_sq_fs", "i8"), ("decode_request_ps", "i8"), ("mixed_request_ps", "i8"),
    ("transfer_token_fs", "i8"), ("transfer_latency_ps", "i8"),
    ("token_first", "i4"), ("token_count", "i4"), ("kv_first", "i4"), ("kv_count", "i4"),
    ("decode_first", "i4"), ("decode_count", "i4"),  # in place of token where nothing is prefilled
    ("mixed_first", "i4"), ("mixed_count", "i4"),    # in place of kv where something is
    # of ranks in step together: by all their tokens, by those of the fullest, by those where nothing is prefilled
    ("together_first", "i4"), ("together_count", "i4"), ("fullest_first", "i4"), ("fullest_count", "i4"),
    ("captured_first", "i4"), ("captured_count", "i4"),
    ("layers", "i4"),
], align=True)
SEGMENT = np.dtype([("start", "i8"), ("base_ps", "i8"), ("slope_ps", "i8")])
