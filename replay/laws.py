"""Conservation laws, checked at the end of every replay: a broken one is a bug of the engine, never of the user."""

import numpy as np

from replay.engine import schema
from replay.engine.schema import State
from replay.errors import EngineError


def check(state: State) -> None:
    """Check that requests, tokens and blocks are conserved.

    raises : EngineError naming the law, the place and both sides
    """
    jobs, views, instances = state.jobs, state.views, state.instances
    statuses = np.bincount(jobs["status"], minlength=4)
    _equal("requests", "the trace", int(statuses.sum()), len(jobs))
    gone = int((jobs["stage"] == schema.GONE).sum())
    _equal("requests that ended", "the cluster", int(state.cluster["gone"][0]), gone)
    for i in range(len(views)):
        parts = [int(views[name][i]) for name in ("free_blocks", "cached_blocks")]
        parts += [int(instances[name][i]) for name in ("private_blocks", "pinned_blocks")]
        _equal("KV blocks", f"instance {i}", sum(parts), int(views["total_blocks"][i]))
        if min(parts) < 0:
            raise EngineError(f"KV blocks must not be negative, but instance {i} has free, cached, private, pinned = "
                              f"{parts}: this is a bug.")
    finished = jobs["status"] == schema.FINISHED
    _equal("output tokens", "finished requests", int(state.requests["generated_tokens"][finished].sum()),
           int(jobs["output_tokens"][finished].astype(np.int64).sum()))
    running = jobs["stage"] == schema.DECODING
    if not running.any():
        _equal("generated tokens", "all instances", int(instances["tokens_out"].sum()),
               int(state.requests["generated_tokens"].astype(np.int64).sum()))
    firsts = int((jobs["first_token_ps"] >= 0).sum())
    if not running.any():
        later = int(instances["tokens_out"].sum()) - firsts
        _equal("gaps between tokens", "the histogram", int(state.histogram.sum()), later)


def _equal(what: str, where: str, left: int, right: int) -> None:
    if left != right:
        raise EngineError(f"{what} must be conserved, but {where} has {left} instead of {right}: this is a bug.")
