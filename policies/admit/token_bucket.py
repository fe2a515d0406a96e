from replay.policy import Span, policy


@policy("admit")
def token_bucket(request, instances, now_ps, memory, tokens_per_s: Span(1.0, 1e9, log=True) = 10_000.0,
                 burst_tokens: Span(1, 1_000_000_000, log=True) = 200_000):
    """Take a request while its tenant's bucket holds its prompt: `burst_tokens`, filled at `tokens_per_s`.

    A prompt larger than the bucket passes when that is full. The memory keeps what each tenant used, and when.

    source : leaky bucket (Turner 1986); rate limits of every inference service, by prompt tokens
    """
    used, when = 2 * (request.tenant + 1), 2 * (request.tenant + 1) + 1
    now_s = now_ps * 1e-12
    left = max(0.0, memory[used] - tokens_per_s * (now_s - memory[when]))
    memory[when] = now_s
    memory[used] = left
    if left > 0.0 and left + request.prompt_tokens > burst_tokens:
        return False
    memory[used] = left + min(request.prompt_tokens, burst_tokens)
    return True
