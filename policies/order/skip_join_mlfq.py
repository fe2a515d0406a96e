import math

from replay.policy import Span, policy


@policy("order")
def skip_join_mlfq(request, now_ps, quantum_s: Span(0.0001, 60.0, log=True) = 0.01, ratio: Span(1.1, 16.0) = 2.0,
                   starvation_s: Span(0.01, 86400.0, log=True) = 3.0):
    """Serve the lowest level first: the first whose quantum, `quantum_s` * `ratio`^level, covers service and prefill.

    A new request joins where its prefill fits; it sinks as its service uses up quanta, and may be preempted by a level
    below its own. What waited `starvation_s` is on level 0 until it has run for a quantum.

    source : FastServe (Wu et al., 2023), skip-join; levels go by service in total, KV is recomputed instead of swapped
    """
    level = 0.0
    used_s = request.served_s + request.prefill_s
    if used_s > quantum_s:
        level = math.ceil(math.log(used_s / quantum_s) / math.log(ratio))
    waits_long = not request.runs and request.stage_s >= starvation_s
    if waits_long or (request.runs and request.waited_s >= starvation_s and request.stage_s < quantum_s):
        level = 0.0
    return level, 0.5
