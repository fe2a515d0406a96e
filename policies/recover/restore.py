from replay.policy import RESTORE, policy


@policy("recover")
def restore(request, losses, now_ps):
    """Go on from the replica of a request's KV, as far as it was copied; the rest is computed.

    Without `failures.replica_tokens`, or before its first token, it goes on as under `resume`.

    source : DejaVu (Strati et al., ICML 2024), KV replicated to a neighbour so that decoding goes on after a failure
    """
    return RESTORE
