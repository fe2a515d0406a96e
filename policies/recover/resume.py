from replay.policy import GIVE_UP, RESUME, Span, policy


@policy("recover")
def resume(request, losses, now_ps, most_losses: Span(1, 1000) = 1000):
    """Go on with prompt and tokens so far as a new prompt, with what is cached of it where it comes to run.

    A request that is lost for the `most_losses`-th time ends as failed.

    source : NVIDIA Dynamo, request migration with its limit of attempts: tokens so far become part of the prompt
    """
    return RESUME if losses < most_losses else GIVE_UP
