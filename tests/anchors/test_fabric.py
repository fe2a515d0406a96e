"""The fabric against theory: max-min shares, incast, hashing on equal paths, FIFO links as queues."""

from fractions import Fraction
from math import comb, factorial, perm, sqrt
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay.fabric import Background
from replay.session import Session
from tests.anchors.stations import compiled
from tests.fabrics import random_fabric
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from tests.wires import FAR_PS, PLAIN, Wires, quiet, star

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
pytestmark = compiled


# max-min fair shares


def water_filled(rates: list[int], paths: list[list[int]]) -> list[Fraction]:
    """Raise all rates together; whoever crosses a full link stops. Exact, by brute force."""
    shares = [Fraction(0)] * len(paths)
    rising = set(range(len(paths)))
    while rising:
        steps = []
        for link, rate in enumerate(rates):
            crossing = [f for f in rising if link in paths[f]]
            if crossing:
                used = sum(shares[f] for f, path in enumerate(paths) if link in path)
                steps.append((Fraction(rate) - used) / len(crossing))
        step = min(steps)
        for f in rising:
            shares[f] += step
        full = {link for link, rate in enumerate(rates)
                if sum(shares[f] for f, path in enumerate(paths) if link in path) == rate}  # fmt: skip
        rising = {f for f in rising if not full & set(paths[f])}
    return shares


def random_wires(seed: int) -> tuple[Wires, list[tuple[int, int, int]]]:
    """Draw a topology and flows over it, all of one class and without incast loss."""
    random = Random(seed)
    drawn = random_fabric(random, quiet(random.randint(2, 7)))
    plain = {name: PLAIN[name] for name in ("loss", "class_of", "background", "signal_ps", "request_token_bytes")}
    wires = Wires(type(drawn)(**{**drawn.__dict__, **plain, "fair": True, "striping": False}))
    ends = range(len(drawn.endpoints))
    flows = [(random.choice(ends), random.choice(ends), random.randint(1, 10**6)) for _ in range(random.randint(1, 14))]
    return wires, flows


@QUICK
@given(st.integers(0, 10**6))
def test_shares_are_max_min_fair(seed: int) -> None:
    """Equal to water-filling within a unit a flow; no link carries more than it can; each flow has a bottleneck."""
    wires, flows = random_wires(seed)
    rows = [f for f in wires.send(*flows) if wires.path(f)]
    paths, found = [wires.path(f) for f in rows], [int(wires.wires.flows["rate"][f]) for f in rows]
    rates = [int(rate) for rate in wires.wires.links["rate"]]
    for exact, rate in zip(water_filled(rates, paths), found, strict=True):
        assert abs(exact - rate) <= len(rows)
    for link, rate in enumerate(rates):
        assert sum(found[k] for k, path in enumerate(paths) if link in path) <= rate
    for k, path in enumerate(paths):
        assert any(full_at(link, k, rates, paths, found) for link in path), (path, found)


def full_at(link: int, k: int, rates: list[int], paths: list[list[int]], found: list[int]) -> bool:
    """Whether a link is full up to rounding and nobody on it has more than flow k."""
    crossing = [j for j, path in enumerate(paths) if link in path]
    left = rates[link] - sum(found[j] for j in crossing)
    return left < len(crossing) and all(found[j] <= found[k] for j in crossing)


@QUICK
@given(st.integers(0, 10**6))
def test_bytes_are_conserved(seed: int) -> None:
    """Every link has carried the bytes of the flows over it when all are through, and nothing is left on it."""
    wires, flows = random_wires(seed)
    expected = np.zeros(len(wires.wires.links), np.int64)
    for f in wires.send(*flows):
        for link in wires.path(f):
            expected[link] += int(wires.wires.flows["bytes"][f])
    wires.run()
    kinds = wires.wires.kinds
    while kinds["delivered"].sum() < kinds["transfers"].sum():
        wires.step()
    assert np.array_equal(wires.wires.links["bytes"], expected)
    assert not wires.wires.links["flows"].any()
    assert kinds["delivered_bytes"].sum() == kinds["bytes"].sum() == sum(size for _, _, size in flows)


@pytest.mark.parametrize("fair", [False, True])
def test_a_lone_flow_has_the_line_to_itself(fair: bool) -> None:
    """Bytes over the slowest link, to the picosecond."""
    fabric = star(5, {"nic": 2.0, "uplink": 0.5}, per_leaf=1, spines=2, fair=fair)
    wires = Wires(fabric)
    wires.send((0, 1, 10_000))
    assert wires.run() == 20_000


@pytest.mark.parametrize("senders", [1, 2, 3, 7])
@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("loss", [0, 50])
def test_incast_of_k_senders(senders: int, fair: bool, loss: int) -> None:
    """k senders of S bytes to a card of speed C take k S / C, and 1 + loss (k - 1) times that if goodput is lost.

    Fair, all end together; fifo, the last one ends then when nothing is lost: each reserves with those before it.
    """
    wires = Wires(star(senders + 2, fair=fair, loss=loss))
    wires.send(*[(1 + k, 0, 42_000) for k in range(senders)])
    end_ps = wires.run()
    if fair:
        factor = 1 + loss / 1000 * (senders - 1)
        assert end_ps == pytest.approx(42_000 * senders * factor, abs=2)
    else:
        assert end_ps == sum(42_000 * (1000 + loss * k) // 1000 for k in range(senders))


def test_urgent_flows_go_first() -> None:
    """With strict priorities a handoff has the card alone, then loads, then background traffic."""
    classes = {"handoff": 0, "load": 1, "background": 2}
    from replay.fabric import KINDS

    wires = Wires(star(6, class_of=tuple(classes.get(kind, 0) for kind in KINDS)))
    ends = {}
    rows = {kind: wires.send((k + 1, 0, 1000), kind=kind)[0] for k, kind in enumerate(("background", "load", "fetch"))}
    while under := wires.under_way():
        now = wires.step()
        ends |= {kind: now for kind, f in rows.items() if f in under and f not in wires.under_way()}
    assert ends == {"fetch": 1000, "load": 2000, "background": 3000}


# hashing


def test_flows_hashed_on_paths_collide_as_they_should() -> None:
    """F flows on L paths use L (1 - (1 - 1/L)^F) of them on average, all different ones with L! / ((L-F)! L^F)."""
    rounds = 300
    for flows, paths in ((8, 8), (4, 8), (16, 8)):
        wires = Wires(star(2 * flows + 1, per_leaf=flows, spines=paths))
        used = []
        for _ in range(rounds):
            rows = wires.send(*[(k, flows + k, 10) for k in range(flows)])
            used.append(len({wires.path(f)[1] for f in rows}))
            wires.run()
        expected = paths * (1 - (1 - 1 / paths) ** flows)
        assert np.mean(used) == pytest.approx(expected, abs=4 * np.std(used) / sqrt(rounds))
        for count in range(1, min(flows, paths) + 1):
            chance = exactly(count, flows, paths)
            found = used.count(count) / rounds
            assert found == pytest.approx(chance, abs=4 * sqrt(chance * (1 - chance) / rounds) + 1e-9)
        if flows <= paths:
            assert exactly(flows, flows, paths) == pytest.approx(perm(paths, flows) / paths**flows)
    assert 8 * (1 - (1 - 1 / 8) ** 8) / 8 == pytest.approx(0.656, abs=5e-4)


def exactly(count: int, flows: int, paths: int) -> float:
    """Return the chance that F flows use exactly so many of L paths (occupancy)."""
    surjections = sum((-1) ** j * comb(count, j) * (count - j) ** flows for j in range(count + 1))
    assert surjections % factorial(count) == 0
    return comb(paths, count) * surjections / paths**flows


def test_spraying_and_adaptive_choice_do_not_collide() -> None:
    """Adaptive choice gives 8 flows 8 different paths; sprayed over one path of all capacity they take as long."""
    adaptive = Wires(star(17, per_leaf=8, spines=8, balance="adaptive"))
    rows = adaptive.send(*[(k, 8 + k, 1000) for k in range(8)])
    assert len({adaptive.path(f)[1] for f in rows}) == 8
    sprayed = Wires(star(17, {"uplink": 8.0}, per_leaf=8, spines=1, balance="spray"))
    sprayed.send(*[(k, 8 + k, 1000) for k in range(8)])
    assert adaptive.run() == sprayed.run() == 1000


# queues


def background(generators: list[tuple[int, float]], flows: int, **changes: Any) -> Session:
    """Replay background flows from one instance to the gateway, whose links carry a byte a picosecond."""
    fabric = star(2, background=tuple(Background(size, mean_ps) for size, mean_ps in generators), **changes)
    rate = sum(1 / mean_ps for _, mean_ps in generators)
    profile = small_profile(iteration_ps=round(flows / rate))
    cluster = small_cluster([small_instance("mixed", profile)])
    object.__setattr__(cluster, "fabric", fabric)
    session = Session(small_trace([(0, 1, 1)]), cluster, small_policies(), slo="none")
    while not session.advance(1_000_000):
        pass
    return session


@pytest.mark.parametrize("load", [0.5, 0.7, 0.8])
def test_a_fifo_link_is_an_m_d_1_queue(load: float) -> None:
    """Flows of one size: Wq = rho D / (2 (1 - rho)), within 3 %."""
    size = 1000
    session = background([(size, size / load)], 400_000, fair=False)
    kind = session.state.wires.kinds[-1]
    wait_ps = (kind["time_ps"] - kind["alone_ps"]) / kind["delivered"]
    assert kind["delivered"] > 390_000
    assert wait_ps == pytest.approx(load * size / (2 * (1 - load)), rel=0.03)


def test_a_fifo_link_is_an_m_g_1_queue() -> None:
    """Flows of three sizes: Wq = lambda E[S^2] / (2 (1 - rho)) (Pollaczek and Khinchine), within 3 %."""
    kinds = [(200, 1_000.0), (1000, 5_000.0), (5000, 25_000.0)]
    session = background(kinds, 600_000, fair=False)
    rate, load = sum(1 / mean for _, mean in kinds), sum(size / mean for size, mean in kinds)
    second = sum(size**2 / mean for size, mean in kinds) / rate
    kind = session.state.wires.kinds[-1]
    wait_ps = (kind["time_ps"] - kind["alone_ps"]) / kind["delivered"]
    assert load == pytest.approx(0.6)
    assert wait_ps == pytest.approx(rate * second / (2 * (1 - load)), rel=0.03)


def test_a_fair_link_is_processor_sharing() -> None:
    """Sojourn of an M/G/1 queue with processor sharing: E[S] / (1 - rho), whatever the sizes; within 3 %."""
    kinds = [(200, 1_000.0), (1000, 5_000.0), (5000, 25_000.0)]
    session = background(kinds, 400_000, fair=True)
    rate, load = sum(1 / mean for _, mean in kinds), sum(size / mean for size, mean in kinds)
    kind = session.state.wires.kinds[-1]
    assert kind["time_ps"] / kind["delivered"] == pytest.approx(load / rate / (1 - load), rel=0.03)


def test_time_far_ahead_is_never_reached() -> None:
    """What the other tests rely on: the only request comes long after all that they do."""
    wires = Wires(star(3))
    wires.send((0, 1, 10_000))
    assert wires.run() < FAR_PS / 1000
