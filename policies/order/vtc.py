from replay.policy import NEVER, Span, policy


@policy("order")
def vtc(request, now_ps, input_weight: Span(0.0, 64.0) = 1.0, output_weight: Span(0.0, 64.0) = 2.0):
    """Serve the tenant first that got the least service so far, each tenant in order of arrival.

    Service is `input_weight` a prompt token and `output_weight` an output token by the tenant's share (slo.tenants); a
    tenant that comes back starts no lower than those that wait. Asked anew after every admission.

    source : Sheng et al., Fairness in serving large language models, OSDI 2024 (virtual token counter, weighted)
    """
    return request.tenant_service, NEVER
