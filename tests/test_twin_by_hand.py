"""The twin against small cases worked out by hand, so that it is right for a reason of its own.

Unless a case says otherwise an iteration costs 100 ps, 10 ps a prefill token and 1 ps a decoding request.
"""

from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from tests.twin import run

PROFILE = small_profile(iteration_ps=100, prefill_token_ps=10, decode_request_ps=1)


def one(role="mixed", **limits):
    return small_cluster([small_instance(role, PROFILE, **limits)])


def test_chunked_prefill_of_two_requests():
    """Budget 8: [8 of r0], [2 of r0 + 6 of r1], then r0 decodes beside the last token of r1."""
    trace = small_trace([(0, 10, 3), (0, 7, 2)])
    found = run(trace, one(token_budget=8), small_policies())
    # iteration 1 starts with r0 alone, since r1 arrives (row order) when the instance is busy
    first = 100 + 80
    second = first + 100 + 10 * (2 + 6)
    third = second + 100 + 10 * 1 + 1  # r0 decodes, r1 gets its last prompt token
    fourth = third + 100 + 2  # both decode
    assert found["scheduled_ps"] == [0, first]
    assert found["first_token_ps"] == [second, third]
    assert found["finish_ps"] == [fourth, fourth]
    assert found["max_itl_ps"] == [max(third - second, fourth - third), fourth - third]
    assert found["gaps"] == [sorted([third - second, fourth - third, fourth - third])]
    assert found["generated_tokens"] == [3, 2]
    assert found["events"] == [2 + 4]


def test_quadratic_and_kv_terms():
    """A chunk [a, b) adds b^2 - a^2, a decode its context: prompt and the tokens generated so far."""
    profile = small_profile(iteration_ps=7, prefill_token_sq_fs=500, kv_token_ps=3)
    cluster = small_cluster([small_instance("mixed", profile, token_budget=4)])
    found = run(small_trace([(0, 6, 3)]), cluster, small_policies())
    first = 7 + 500 * 16 // 1000
    second = first + 7 + 500 * (36 - 16) // 1000
    assert found["first_token_ps"] == [second]
    assert found["finish_ps"] == [second + (7 + 3 * 7) + (7 + 3 * 8)]


def test_piecewise_tables():
    """The token table is read at prefill tokens + decodes, the KV table at the sum of contexts."""
    profile = small_profile(token_segments=[(0, 50, 1), (4, 90, 2)], kv_segments=[(0, 0, 1), (8, 30, 5)])
    found = run(small_trace([(0, 6, 4)]), small_cluster([small_instance("mixed", profile)]), small_policies())
    first = 90 + 2 * (6 - 4)
    gaps = [51 + 7, 51 + 30, 51 + 30 + 5]  # contexts 7, 8 and 9
    assert found["first_token_ps"] == [first]
    assert found["finish_ps"] == [first + sum(gaps)]
    assert found["gaps"] == [sorted(gaps)]


def test_preemption_when_blocks_run_out():
    """Two requests of one full block in three blocks: both want a second, the later one loses its KV and recomputes."""
    trace = small_trace([(0, 4, 3), (0, 4, 3)])
    found = run(trace, one(kv_blocks=3), small_policies())
    first = 100 + 40  # r0 alone: r1 came when the instance was busy
    second = first + 100 + 40 + 1  # r1's prompt beside r0's second token: r0 took the third block
    # r1 needs a block now and none is left: it goes, and may not come back in the same iteration
    third = second + 100 + 1  # r0's last token, its blocks are free
    fourth = third + 100 + 50  # r1 computes 4 + 1 tokens anew and gets its second token
    fifth = fourth + 100 + 1
    assert found["preemptions"] == [0, 1]
    assert found["first_token_ps"] == [first, second]
    assert found["finish_ps"] == [third, fifth]
    assert found["scheduled_ps"] == [0, first]
    assert found["max_itl_ps"] == [second - first, fourth - second]


def test_preemption_by_order():
    """A more urgent request takes the only seat; the other goes on with its one token after it."""
    trace = small_trace([(0, 4, 3), (150, 4, 1)], tier=["late", "soon"])
    policies = small_policies(order=("priority_by_tier", {"preemptive": True}))
    found = run(trace, one(max_batch=1), policies, tiers=["soon", "late"])
    first = 140
    second = first + 101  # r1 arrived within this iteration and is seen at its end
    third = second + 140
    fourth = third + 100 + 60  # 4 + 2 tokens anew
    assert found["preemptions"] == [1, 0]
    assert found["finish_ps"] == [fourth, third]
    assert found["max_itl_ps"] == [fourth - second, -1]
    assert found["gaps"] == [[], sorted([101, fourth - second])]


def pair(layers=None, **link):
    ends = [small_instance("prefill", PROFILE, **link), small_instance("decode", PROFILE, **link)]
    return small_cluster(ends, layers=layers)


def test_whole_handoff():
    """A KV of n tokens takes 3 n ps on the link after the ones before it, and 50 ps more to arrive."""
    trace = small_trace([(0, 8, 3), (0, 8, 2)])
    found = run(trace, pair(token_fs=3000, latency_ps=50), small_policies())
    first = 180
    second = first + 180
    assert found["first_token_ps"] == [first, second]
    arrives = [first + 24 + 50, second + 24 + 50]
    # r0 decodes alone twice, then r1 alone
    assert found["finish_ps"][0] == arrives[0] + 101 + 101
    assert found["finish_ps"][1] == max(arrives[1], found["finish_ps"][0]) + 101
    assert found["max_itl_ps"][0] == 24 + 50 + 101
    assert (found["prefill_instance"], found["decode_instance"]) == ([0, 0], [1, 1])


def test_whole_handoffs_share_the_link():
    """Two prompts that end together leave one after the other."""
    trace = small_trace([(0, 1, 1), (10, 4, 2), (10, 4, 2)])
    found = run(trace, pair(token_fs=100_000), small_policies())
    together = 110 + 100 + 80
    assert found["first_token_ps"] == [110, together, together]
    # the first arrives 400 ps later and decodes at once; the second 400 ps after that
    assert found["finish_ps"][1:] == [together + 400 + 101, together + 800 + 101]
    assert found["decode_instance"] == [-1, 1, 1]


def test_layerwise_handoff():
    """Sending starts with the prefill: only what the link could not carry meanwhile, at least one layer, is left."""
    trace = small_trace([(0, 8, 2)])
    fast = run(trace, pair(layers=4, token_fs=10_000), small_policies())
    assert fast["finish_ps"] == [180 + 80 // 4 + 101]  # 80 ps from 0 would be over: the last layer is not
    slow = run(trace, pair(layers=4, token_fs=100_000), small_policies())
    assert slow["finish_ps"] == [800 + 101]  # 800 ps from 0 on


def test_prefix_hit_while_pinned():
    """The second request shares two blocks that the first still holds; a full hit still computes the last block."""
    trace = small_trace([(0, 10, 8), (200, 8, 1)], chains=[[1, 2], [1, 2]])
    found = run(trace, one(), small_policies())
    first = 200  # r1 arrives at this very moment, before the end of the iteration is handled
    assert found["first_token_ps"][0] == first
    assert found["hit_tokens"] == [0, 4]
    assert found["first_token_ps"][1] == first + 100 + 40 + 1


def test_eviction_takes_the_end_of_the_oldest():
    """Six blocks: r0 leaves three cached, r1 takes five and so evicts two of them; r2 finds the first."""
    trace = small_trace([(0, 12, 1), (1000, 20, 1), (2000, 12, 1)], chains=[[1, 2, 3], [], [1, 2, 3]])
    found = run(trace, one(kv_blocks=6, token_budget=32), small_policies())
    assert found["hit_tokens"] == [0, 0, 4]
    assert found["preemptions"] == [0, 0, 0]


def test_fetch_from_the_holder():
    """Routed to the empty instance with the other as source: eight tokens cross the link, then they are a hit."""
    mixed = [small_instance("mixed", PROFILE, token_fs=2000, latency_ps=30) for _ in range(2)]
    trace = small_trace([(0, 9, 1), (1000, 100, 1), (1001, 9, 1)], chains=[[1, 2], [], [1, 2]])
    found = run(trace, small_cluster(mixed), small_policies(route="kv_locality"))
    # The router weighs seconds: a fetch of eight tokens costs 46 ps, the queue of r1 at instance 0 far more.
    assert found["prefill_instance"] == [0, 0, 1]
    assert found["hit_tokens"] == [0, 0, 8]
    assert found["scheduled_ps"][2] == 1001 + 16 + 30
    assert found["first_token_ps"][2] == 1001 + 46 + 110


def test_prefill_first_pauses_decodes():
    """Prompts go alone and whole: the decode waits for them, and its gap says so."""
    trace = small_trace([(0, 4, 3), (250, 8, 1)])
    found = run(trace, one(), small_policies(batch="prefill_first"))
    first, second = 140, 140 + 101
    assert found["first_token_ps"][0] == first
    paused = second + 101  # r1 arrived within r0's third iteration, which was its last
    assert found["finish_ps"] == [paused, paused + 180]
    longer = run(small_trace([(0, 4, 4), (250, 8, 1)]), one(), small_policies(batch="prefill_first"))
    assert longer["finish_ps"][1] == paused + 180
    assert longer["finish_ps"][0] == paused + 180 + 101
    assert longer["max_itl_ps"] == [180 + 101, -1]


def test_whole_prompts_beyond_the_budget():
    """A whole prompt larger than the budget goes alone; the next waits for it."""
    trace = small_trace([(0, 1, 1), (1, 20, 1), (1, 3, 1), (1, 3, 1)])
    found = run(trace, one(token_budget=8), small_policies(batch="prefill_first"))
    assert found["first_token_ps"] == [110, 110 + 300, 110 + 300 + 160, 110 + 300 + 160]


def test_turns_follow_their_parents():
    """A turn arrives its think time after its parent; with a rejected or failed parent it never does."""
    rows = [(0, 4, 1), (0, 4, 1), (5, 500, 1), (9, 4, 1)]
    trace = small_trace(rows, parent=[-1, 0, -1, 2], think_s=[0, 60e-12, 0, 0])
    found = run(trace, one(), small_policies())
    assert found["arrival_ps"] == [0, 140 + 60, 5, -1]
    assert found["status"] == ["finished", "finished", "failed", "failed"]
    assert found["first_token_ps"] == [140, 340, -1, -1]


def test_a_held_request_is_sent_when_a_seat_frees():
    """One seat: the central queue holds the others and sends the shortest prompt first."""
    trace = small_trace([(0, 4, 1), (1, 8, 1), (2, 2, 1)])
    found = run(trace, one(max_batch=1), small_policies(route="central_queue", order="shortest_prompt"))
    assert found["finish_ps"] == [140, 140 + 120 + 180, 140 + 120]
    assert found["prefill_instance"] == [0, 0, 0]


def test_a_full_queue_rejects():
    """One may wait: the third request of the same moment is turned away."""
    trace = small_trace([(0, 4, 1), (0, 4, 1), (0, 4, 1)])
    found = run(trace, one(max_batch=1), small_policies(admit=("queue_limit", {"limit": 1})))
    assert found["status"] == ["finished", "finished", "rejected"]
    assert found["finish_ps"] == [140, 280, -1]
