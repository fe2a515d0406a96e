"""Build the part of the state for speculative decoding."""

from typing import TYPE_CHECKING

import numpy as np

from replay.engine.drafting_schema import DRAFT, DRAFTING, Drafting

if TYPE_CHECKING:
    from replay.speculation import Speculation


def drafting_of(speculation: "Speculation | None", num_requests: int) -> Drafting:
    """Return the rows of a replay before the first event; one row each where nothing is proposed."""
    setting = np.zeros(1, DRAFTING)
    if speculation is None:
        return Drafting(setting, np.zeros(1, DRAFT), np.zeros(1))
    for name in DRAFTING.names or ():
        setting[name] = getattr(speculation, name)
    return Drafting(setting, np.zeros(num_requests, DRAFT), np.cumprod(speculation.acceptance))


def copy_drafting(drafting: Drafting) -> Drafting:
    """Return drafts that go their own way."""
    return drafting._replace(drafts=drafting.drafts.copy())
