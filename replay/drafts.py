"""What speculative decoding did in a run: columns of requests and numbers of the summary."""

from typing import TYPE_CHECKING

import numpy as np

from replay.metrics import Value

if TYPE_CHECKING:
    from replay.session import Session

COLUMNS = ("draft_iterations", "accepted_tokens")
FIELDS = ("iterations", "accepted_tokens")  # of DRAFT


def columns(session: "Session") -> dict[str, np.ndarray]:
    """Return the columns that speculation adds to the rows of requests; nothing without it.

    returns : draft_iterations, in which a request proposed tokens; accepted_tokens, proposed ones that it kept
    """
    if session.cluster.speculation is None:
        return {}
    drafts = session.state.speculation.drafts
    return {name: np.asarray(drafts[field]) for name, field in zip(COLUMNS, FIELDS, strict=True)}


def numbers(session: "Session") -> dict[str, Value]:
    """Return what speculation adds to the summary; nothing without it.

    returns : tokens_per_iteration, mean of a request in an iteration in which it decoded, its own token included;
              accepted_per_iteration, the same without its own; acceptance_rate, the share of proposed tokens kept;
              wasted_draft_tokens, the others: refused, or beyond the end of an output
    """
    found = columns(session)
    if not found:
        return {}
    assert session.cluster.speculation is not None
    iterations, accepted = (int(found[name].sum()) for name in COLUMNS)
    drafted = iterations * session.cluster.speculation.draft_tokens
    mean = accepted / iterations if iterations else None
    return {"tokens_per_iteration": None if mean is None else 1.0 + mean, "accepted_per_iteration": mean,
            "acceptance_rate": accepted / drafted if drafted else None,
            "draft_tokens": drafted, "wasted_draft_tokens": drafted - accepted}  # fmt: skip
