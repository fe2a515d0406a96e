"""Caches that forget by age, pools under LRU, tenants and whole prompts: hits and occupancy against closed forms.

Items are independent, item i is referenced by a Poisson process of rate a. With lifetime t and refresh a reference hits
if the one before is less than t ago: h = 1 - exp(-a t). Without, the first reference of a cycle misses and a t on
average hit before it ends: h = a t / (1 + a t) (Jung, Berger and Balakrishnan, INFOCOM 2003).
"""

from functools import cache

import numpy as np
import pytest

from tests.anchors import caches, formulas
from tests.anchors.holders import chains, finished, gib, quick, singles, through
from tests.anchors.stations import Run, batch_means, compiled, poisson
from tests.anchors.test_evictions import spaced
from traces import Trace

pytestmark = compiled
LIFE_S, COUNT = 1.0, 60_000
RATES = np.geomspace(0.05, 5.0, 20)
HOLDERS = ("hbm", "dram")
INDEX = {"shards": 0, "lookup_s": 0.0, "node_s": 0.0, "gc_node_s": 0.0, "belief": "exact", "lag_s": 0.0}


@cache
def references() -> tuple[np.ndarray, np.ndarray]:
    """Return (arrivals, items) of independent Poisson processes of RATES."""
    arrival_s = poisson(311, COUNT, float(RATES.sum()))
    return arrival_s, np.random.default_rng(311).choice(len(RATES), COUNT, p=RATES / RATES.sum())


@cache
def aged(holder: str, refresh: bool, gc_s: float | None = None) -> tuple[np.ndarray, Run]:
    """Send the references through a holder with a lifetime; returns which hit (1 or 0), and the run."""
    return through(holder, singles(*references()), ttl_s=LIFE_S, ttl_refresh=refresh, gc_s=gc_s, samples=1 << 12)


def hit_ratios(refresh: bool) -> np.ndarray:
    """Return the hit ratio of every item."""
    mean = RATES * LIFE_S
    return -np.expm1(-mean) if refresh else mean / (1 + mean)


def ratio_variances(refresh: bool) -> np.ndarray:
    """Return n times the variance of the hit ratio of n references to every item.

    With refresh, hits are independent. Without, a cycle has 1 + Poisson(m) references, one of them a miss; misses among
    n references are a renewal count, whose variance is n m / (1 + m)^3 (Cox, Renewal Theory, 1962).
    """
    mean, hits = RATES * LIFE_S, hit_ratios(refresh)
    return hits * (1 - hits) if refresh else mean / (1 + mean) ** 3


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("holder", HOLDERS)
def test_hit_ratio_of_a_lifetime(holder: str, refresh: bool) -> None:
    """Every item's share of hits is the closed form within four standard errors; the first reference is left out."""
    hit, _ = aged(holder, refresh)
    _, items = references()
    counts = np.bincount(items, minlength=len(RATES)) - 1
    ratio = np.bincount(items, weights=hit, minlength=len(RATES)) / counts
    errors = np.sqrt(ratio_variances(refresh) / counts)
    assert (np.abs(ratio - hit_ratios(refresh)) <= 4 * errors).all()
    assert errors.max() < 0.05


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("holder", HOLDERS)
def test_every_reference_is_as_old_as_it_is(holder: str, refresh: bool) -> None:
    """The same exactly: a reference hits if and only if the last use, or the last miss, is less than a lifetime ago."""
    hit, _ = aged(holder, refresh)
    born: dict[int, float] = {}
    expected = []
    for time_s, item in zip(*(column.tolist() for column in references()), strict=True):
        expected.append(item in born and time_s - born[item] < LIFE_S)
        if refresh or not expected[-1]:
            born[item] = time_s
    assert (hit == np.array(expected)).all()


@pytest.mark.parametrize("gc_s", [0.013_7, 0.739_085_1])
@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("holder", HOLDERS)
def test_garbage_collection_changes_occupancy_only(holder: str, refresh: bool, gc_s: float) -> None:
    """Collecting every g seconds, the holder keeps sum over items of 1 - (1 - h) (1 - exp(-a g)) / (a g) blocks.

    A dead item stays until the next collection, which is uniform on [0, g] away. It is absent if its last cycle ended
    and no reference came until then: Poisson references see time averages, so a miss has probability 1 - h at any time,
    and the collection came first with E[exp(-a U)] = (1 - exp(-a g)) / (a g). With g much below t this is the sum of h.
    """
    hit, run = aged(holder, refresh, gc_s)
    assert (hit == aged(holder, refresh)[0]).all()
    samples = run.state.hierarchy.occupancy[: int(run.state.cluster["samples"][0])]
    mean, error = batch_means(samples[:, 1 if holder == "hbm" else 2].astype(np.float64))
    lazy = -np.expm1(-RATES * gc_s) / (RATES * gc_s)
    expected = float(np.sum(1 - (1 - hit_ratios(refresh)) * lazy))
    assert error < 0.02 * expected
    assert abs(mean - expected) <= 4 * error
    if gc_s < 0.1 * LIFE_S:
        assert mean == pytest.approx(float(hit_ratios(refresh).sum()), rel=0.02)
    never = aged(holder, refresh)[1].state.hierarchy.occupancy
    assert never[2_000, 1 if holder == "hbm" else 2] == len(RATES)


@pytest.mark.parametrize("capacity", [50, 200, 500])
def test_a_pool_under_lru_hits_as_che_approximates(capacity: int) -> None:
    """Below an HBM that keeps nothing a pool node is an LRU cache: exactly the plain list, and near Che's formula."""
    items, count = 2_000, 100_000
    popularity, ids = caches.zipf(items, count, 0.8, seed=113)
    hit, run = through("dram", singles(poisson(113, count, 1.0), ids), dram_gib=gib(capacity))
    assert (hit == np.array(caches.lru(ids.tolist(), capacity))).all()
    assert int(run.state.views["total_blocks"][1]) == capacity
    kept = hit[count // 20 :]
    error = float(np.sqrt(kept.mean() * (1 - kept.mean()) / len(kept)))
    assert kept.mean() == pytest.approx(formulas.che(popularity, capacity), abs=4 * error + 0.002)


def test_isolated_tenants_hit_as_if_alone() -> None:
    """With kv.isolate each tenant finds, request by request, what it finds when its requests are all there are."""
    offsets, ids = spaced().prefix()
    tenants = np.random.default_rng(313).integers(5, size=len(offsets) - 1)
    names = np.array([f"tenant {code}" for code in range(5)], dtype=object)[tenants]
    arrival_s = np.arange(len(tenants), dtype=np.float64)
    both = chains(arrival_s, offsets, ids, tenant=names)
    together = finished(both, quick({"base": "none", "isolate": True})).jobs["hit_tokens"]
    shared = finished(both, quick({"base": "none", "samples": 2})).jobs["hit_tokens"]
    assert (together <= shared).all() and 0 < together.sum() < shared.sum()
    for code in range(5):
        rows = np.flatnonzero(tenants == code)
        own = np.concatenate([ids[offsets[row] : offsets[row + 1]] for row in rows])
        lengths = np.append(0, np.cumsum(np.diff(offsets)[rows]))
        alone = finished(chains(arrival_s[rows], lengths, own), quick({"base": "none", "samples": 2}))
        assert (alone.jobs["hit_tokens"] == together[rows]).all()


@cache
def growing() -> tuple[Trace, list[tuple[int, ...]]]:
    """Return prompts that repeat, extend or cut earlier ones, as a trace and as chains."""
    random = np.random.default_rng(317)
    prompts: list[tuple[int, ...]] = [(0,)]
    for row in range(1, 4_000):
        old = prompts[random.integers(max(0, row - 300), row)]
        kind = random.integers(4)
        if kind == 0:
            prompts.append(old)
        elif kind == 1:
            prompts.append(old[: random.integers(1, len(old) + 1)])
        elif kind == 2 and len(old) < 40:
            prompts.append(old + tuple(10 * row + k for k in range(random.integers(1, 5))))
        else:
            prompts.append((10 * row,))
    offsets = np.append(0, np.cumsum([len(chain) for chain in prompts]))
    return chains(np.arange(len(prompts), dtype=np.float64), offsets, np.concatenate(prompts)), prompts


@pytest.mark.parametrize("holder", HOLDERS)
def test_exact_match_is_a_dictionary_of_whole_prompts(holder: str) -> None:
    """Exact match finds a prompt only if the very same one came before, and then all of it; prefix match the most."""
    trace, prompts = growing()
    exact, _ = through(holder, trace, index=INDEX | {"match": "exact"})
    longest, _ = through(holder, trace, samples=2)
    whole: set[tuple[int, ...]] = set()
    starts: set[tuple[int, ...]] = set()
    for row, chain in enumerate(prompts):
        assert exact[row] == (len(chain) if chain in whole else 0)
        assert longest[row] == max((k for k in range(1, len(chain) + 1) if chain[:k] in starts), default=0)
        whole.add(chain)
        starts |= {chain[:k] for k in range(1, len(chain) + 1)}
    assert 0 < exact.sum() < longest.sum()
