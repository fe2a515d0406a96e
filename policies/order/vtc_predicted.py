from replay.policy import NEVER, Span, policy


@policy("order")
def vtc_predicted(request, now_ps, input_weight: Span(0.0, 64.0) = 1.0, output_weight: Span(0.0, 64.0) = 2.0):
    """Serve the tenant first with the least service, counting what its running requests are expected to get yet.

    Expected is the mean of the tenant's last 5 outputs; `input_weight` and `output_weight` as in `vtc`.

    source : Sheng et al., Fairness in serving large language models, OSDI 2024 (VTC with length prediction)
    """
    return request.tenant_expected, NEVER
