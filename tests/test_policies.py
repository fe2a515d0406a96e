"""Contract of every policy in the registry: valid, deterministic, pure, alike interpreted and compiled, described."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numba
import numpy as np
import pytest

from replay import catalogue
from replay.engine import adapters, life_schema, schema
from replay.engine.request_schema import PREFIX_KEYS, SEEN
from replay.kv import DISK, DRAM, Store
from replay.life import Failures, Life, Pool
from replay.policy import (
    GIVE_UP,
    HOLD,
    MAX_TUNABLES,
    MEMORY,
    ORACLES_ONLY,
    REFUSE,
    RESTART,
    RESTORE,
    RESUME,
    SLOTS,
    Choice,
    Chosen,
    Policy,
    Span,
    choose,
    describe,
    load_all,
    registry,
)
from replay.session import replay
from tests.hierarchy_cases import kv
from tests.small import small_cluster, small_instance, small_policies, small_profile, small_trace
from traces.jit import INTERPRETED

ROOT = Path(__file__).resolve().parents[1]
ROWS = 60
LONGEST = 1 << 20
PLAN = ({"at_s": 2e-9, "kind": "instance", "what": 0, "for_s": 3e-9},
        {"at_s": 9e-9, "kind": "node", "what": 0, "for_s": 1e-9})  # fmt: skip
POOLS = (Pool("mixed", 1, 2, 1), Pool("memory", 0, 2, 1), Pool("storage", 1, 2, 1))
LIFE = Life(POOLS, 1500, 800, 0, Failures(PLAN, {}, {}, None, 0.0), 300, 4, 2)
TIERS = kv([Store(DRAM, 0, -1, 6, 1, 5000, 1000, 20), Store(DISK, 0, -1, 12, -1, 0, 0, 0)], overlap=True)
STORES = kv([Store(DRAM, k, -1, 6, 2, 5000, 1000, 20) for k in range(2)]
            + [Store(DISK, -1, -1, 30, -1, 0, 0, 0)], shared_nodes=2)  # fmt: skip
load_all()
POLICIES = [policy for group in registry().values() for policy in group.values() if "policies" in policy.path.parts]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.slot}-{policy.name}")


def requests(random: Random) -> np.ndarray:
    """Draw a SEEN row."""
    row = np.zeros(1, SEEN)
    row["id"], row["sequence"] = random.randrange(1 << 30), random.randrange(1 << 30)
    row["arrival_ps"] = random.choice([0, random.randrange(1 << 60)])
    row["random_key"] = random.getrandbits(64)
    row["prompt_tokens"] = random.choice([1, random.randint(1, LONGEST)])
    row["generated_tokens"] = random.choice([0, 1, random.randint(0, LONGEST)])
    row["predicted_tokens"] = random.choice([-1, random.randint(1, LONGEST)])
    row["tier"] = random.randrange(4)
    for name in ("tenant", "session", "kind"):
        row[name] = random.randint(-1, 5)
    row["turn"] = random.choice([0, random.randint(0, 40)])
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        row[name] = random.choice([math.inf, 10.0 ** random.uniform(-6, 3)])
    for name in ("weight", "tenant_weight"):
        row[name] = 10.0 ** random.uniform(-2, 2)
    row["runs"], row["true_tokens"] = random.randrange(2), random.randint(1, LONGEST)
    for name in ("stage_s", "waited_s", "served_s", "prefill_s", "tenant_service", "tenant_expected"):
        row[name] = random.choice([0.0, 10.0 ** random.uniform(-9, 6)])
    row["prefill_tokens"] = random.randint(0, LONGEST)
    row["predicted_p90_tokens"], row["predicted_p99_tokens"] = sorted(random.randint(-1, LONGEST) for _ in range(2))
    row["predicted_left_tokens"] = random.choice([-1.0, 0.0, random.uniform(0.0, LONGEST)])
    row["prefix_keys"] = [random.getrandbits(64) for _ in range(PREFIX_KEYS)]
    return row


def instances(random: Random, count: int) -> np.ndarray:
    """Draw VIEW rows: idle, full, tied and strained instances of the same or other hardware."""
    rows = np.zeros(count, schema.VIEW)
    for row in rows if random.random() < 0.8 else rows[:1]:
        row["role"] = random.randrange(3)
        row["max_batch"], row["token_budget"] = random.choice([1, 8, 256]), random.choice([1, 512, 8192])
        row["running"] = random.randint(0, row["max_batch"])
        row["decoding"] = random.randint(0, row["running"])
        row["waiting"] = random.choice([0, random.randrange(1000)])
        row["block_tokens"] = random.choice([1, 16, 512])
        row["total_blocks"] = random.choice([1, random.randint(1, 10**9)])
        row["free_blocks"] = random.randint(0, row["total_blocks"])
        row["cached_blocks"] = random.randint(0, row["total_blocks"] - row["free_blocks"])
        row["hit_tokens"] = random.choice([0, random.randint(0, LONGEST)])
        row["sent"] = random.randrange(1 << 30)
        for name in ("queued_tokens", "waiting_tokens"):
            row[name] = random.choice([0, random.randrange(1 << 40)])
        for name in ("iteration_s", "prefill_token_s", "prefill_token_sq_s", "decode_request_s", "kv_token_s"):
            row[name] = random.choice([0.0, 10.0 ** random.uniform(-12, 0)])
        row["prefill_tokens_per_s"] = 10.0 ** random.uniform(0, 9)
        row["transfer_token_s"] = 10.0 ** random.uniform(-15, 0)
        row["transfer_latency_s"] = random.choice([0.0, 1e-5])
        row["transfer_s"] = random.choice([0.0, 10.0 ** random.uniform(-6, 3)])
        row["link_flows"], row["link_utilisation"] = random.randrange(100), random.random()
        row["home"], row["in_flight"] = random.randrange(3), row["waiting"] + row["running"]
        row["kv_tokens"] = random.choice([0, random.randrange(1 << 40)])
        row["least_itl_s"] = random.choice([math.inf, 10.0 ** random.uniform(-6, 3)])
        row["slack_s"] = random.choice([math.inf, random.uniform(-1e3, 1e3), 10.0 ** random.uniform(-6, 3)])
    if (rows["block_tokens"] == 0).any():  # all alike
        rows[:] = rows[0]
    return rows


def nodes(random: Random) -> np.ndarray:
    """Draw a PREFIX row: of any tier, new or used before, asked about by the way or because it is up for eviction."""
    row = np.zeros(1, schema.PREFIX)
    row["first_used_ps"] = random.randrange(1 << 50)
    row["last_used_ps"] = row["first_used_ps"] + random.randrange(1 << 50)
    row["node"], row["start_blocks"] = random.randrange(1 << 20), random.randrange(1 << 16)
    row["blocks"], row["uses"] = random.randint(1, 1 << 16), random.randint(1, 1000)
    row["uses_since"] = random.choice([0, random.randrange(row["uses"][0])])
    row["tier"], row["examined"] = random.randrange(3), random.randrange(2)
    row["score"] = random.choice([0.0, random.uniform(-1e18, 1e18), random.uniform(0.0, 1e7)])
    row["clock"] = random.choice([-1e308, 0.0, random.uniform(-1e18, 1e18), random.uniform(0.0, 1e12)])
    row["total_blocks"] = random.choice([1, random.randint(1, 10**9)])
    row["inserted_blocks"] = random.choice([0, random.randrange(1 << 40)])
    row["evicted_blocks"] = random.randint(0, int(row["inserted_blocks"][0]))
    row["next_use"] = random.choice([-1, random.randrange(1 << 30)])
    row["group_share"] = random.choice([0.0, 1.0, random.random()])
    row["group_reuse_s"] = random.choice([1e-12, 10.0 ** random.uniform(-9, 7)])
    return row


def offers(random: Random) -> np.ndarray:
    """Draw an OFFER row: something in DRAM, on disk or on both, loaded sooner or later than it is computed."""
    row = np.zeros(1, schema.OFFER)
    hbm, dram, disk = sorted(random.choice([0, random.randint(0, LONGEST)]) for _ in range(3))
    row["hbm_tokens"], row["dram_tokens"], row["disk_tokens"] = hbm, dram, disk
    for name in ("dram_s", "dram_compute_s"):
        row[name] = 0.0 if dram == hbm else random.choice([0.0, 10.0 ** random.uniform(-12, 3)])
    for name in ("disk_s", "disk_compute_s"):
        row[name] = row[f"dram_{name[5:]}"] + random.choice([0.0, 10.0 ** random.uniform(-12, 3)])
    return row


def pools(random: Random, count: int) -> np.ndarray:
    """Draw POOL rows: idle, loaded and strained pools, counts of an interval that are none or many."""
    rows = np.zeros(count, life_schema.POOL)
    for k, row in enumerate(rows):
        row["index"], row["role"], row["most"] = k, random.randrange(5), random.choice([1, 4, 64])
        row["least"] = random.randint(1, row["most"])
        row["up"] = random.randint(0, row["most"])
        row["starting"] = random.randint(0, row["most"] - row["up"])
        for name in ("waiting", "running", "held", "queued_tokens", "arrivals", "arrived_tokens", "first_tokens"):
            row[name] = random.choice([0, random.randrange(1 << 20)])
        row["finished"], row["max_batch"] = random.choice([0, random.randrange(1 << 20)]), random.choice([0, 256])
        row["kv_share"], row["busy_share"] = random.random(), random.random()
        row["read_tokens"] = random.randrange(1 << 40)
        row["tail_age_s"] = random.choice([0.0, 10.0 ** random.uniform(-3, 5)])
        row["interval_s"], row["since_s"] = random.choice([1.0, 15.0, 180.0]), random.uniform(0.0, 1e6)
        for name in ("ttft_s", "itl_s", "mean_output_tokens"):
            row[name] = random.choice([0.0, 10.0 ** random.uniform(-3, 3)])
        for name in ("iteration_s", "prefill_token_s", "decode_request_s", "kv_token_s"):
            row[name] = random.choice([0.0, 10.0 ** random.uniform(-12, 0)])
        row["prefill_tokens_per_s"] = 10.0 ** random.uniform(0, 9)
        row["places"], row["kv_tokens"] = random.choice([1, 256]), random.randint(1, 10**9)
        row["start_s"], row["budget"] = random.choice([0.0, 130.0]), random.choice([0, 2, 16])
        for name in ("ttft_target_s", "itl_target_s"):
            row[name] = random.choice([math.inf, 10.0 ** random.uniform(-3, 2)])
    return rows


def context(slot: str, random: Random) -> list[Any]:
    """Draw what a slot's adapter is given, but for the time: arrays of rows, and whether a node is being evicted."""
    count = random.choice([1, 1, 2, 3, 16])
    if slot == "scale":
        rows = pools(random, random.choice([1, 2, 3]))
        return [rows[random.randrange(len(rows)) :][:1], rows]
    drawn = {"request": requests, "instances": lambda r: instances(r, count), "node": nodes, "offer": offers,
             "instance": lambda r: instances(r, 1), "evicting": lambda r: r.randrange(2),
             "losses": lambda r: r.randint(1, 1100)}  # fmt: skip
    more = [instances(random, random.choice([1, 3]))] if slot == "admit" else []
    return [drawn[name](random) for name in SLOTS[slot] if name != "now_ps"] + more


def values_of(policy: Policy, random: Random) -> dict[str, Any]:
    """Draw tunables: a low or high end, the default, or something between."""
    return {name: random.choice([*ends(tunable), policy.defaults[name]]) for name, tunable in policy.tunables.items()}


def ends(tunable: Span | Choice) -> list[Any]:
    """Return the ends of a range, or every choice."""
    return list(tunable.values) if isinstance(tunable, Choice) else [tunable.low, tunable.high]


def called(policy: Policy, given: list[Any], now_ps: int, values: Mapping[str, Any], memory: np.ndarray) -> Any:
    """Call a policy as plain Python on records, as a debugger does."""
    records = [part.view(np.recarray) if isinstance(part, np.ndarray) else part for part in given]
    names = [name for name in SLOTS[policy.slot] if name != "now_ps"]
    whole = ("instances", "evicting", "pools", "losses")
    shown = [part if name in whole else part[0] for name, part in zip(names, records, strict=False)]
    extras = {"decodes": records[-1], "memory": memory}
    return policy.function(*shown, now_ps, **{name: extras[name] for name in policy.extras}, **values)


def copied(given: list[Any]) -> list[Any]:
    """Return copies of drawn arguments."""
    return [part.copy() if isinstance(part, np.ndarray) else part for part in given]


def same(given: list[Any], copies: list[Any]) -> bool:
    """Whether drawn arguments are what they were."""
    return all(np.all(part == copy) for part, copy in zip(given, copies, strict=True))


def normal(slot: str, answer: Any) -> tuple[float, ...]:
    """Return an answer in the shape of the slot's compiled type."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    missing = {"route": (-1,), "decode": (-1,), "order": (math.inf,)}.get(slot, ()) if len(parts) == 1 else ()
    return tuple(float(part) for part in (*parts, *missing))


def check_answer(slot: str, answer: tuple[float, ...], instances_given: int) -> None:
    """Check an answer against the contract of its slot."""
    assert not any(map(math.isnan, answer)), answer
    if slot == "admit":
        assert answer[0] in (0, 1)
    elif slot == "route":
        assert answer[0] == int(answer[0]) and HOLD <= answer[0] < instances_given
        assert answer[1] == int(answer[1]) and -1 <= answer[1] < instances_given
    elif slot == "decode":
        assert answer[0] == int(answer[0]) and REFUSE <= answer[0] < instances_given
    elif slot == "migrate":
        assert all(part == int(part) and -1 <= part < instances_given for part in answer)
    elif slot == "scale":
        assert answer[0] == int(answer[0]) and answer[0] >= 0
    elif slot == "recover":
        assert answer[0] in (RESTART, RESUME, RESTORE, GIVE_UP)
    elif slot == "batch":
        assert answer[0] == int(answer[0]) and answer[0] >= 0 and set(answer[1:]) <= {0, 1}
    elif slot == "fetch":
        assert answer[0] == int(answer[0]) and answer[1] >= 0
    elif slot == "write":
        assert len(answer) == 1 and answer[0] in (0, 1)
    else:
        assert math.isfinite(answer[0]) and (slot == "evict" or answer[1] >= 0)


def compiled(
    policy: Policy, given: list[Any], now_ps: int, values: Mapping[str, Any], memory: np.ndarray
) -> tuple[float, ...]:
    """Call the adapter that the kernel calls, through a driver that picks the rows; memory modified in place."""
    chosen = Chosen(policy, {**policy.defaults, **values})
    adapter, table = adapters.adapter(chosen), adapters.tunables({policy.slot: chosen})
    rows = [part.view(np.recarray) if INTERPRETED and isinstance(part, np.ndarray) else part for part in given]
    if "memory" in policy.extras:
        table[adapters.ROWS[policy.slot], MAX_TUNABLES:] = memory
    answer = driver_of(policy.slot)(adapter, *rows, now_ps, table)
    memory[:] = table[adapters.ROWS[policy.slot], MAX_TUNABLES:] if "memory" in policy.extras else memory
    return tuple(float(part) for part in (answer if isinstance(answer, tuple) else (answer,)))


def driver_of(slot: str) -> Any:
    """Return a compiled function (adapter, what the slot reads, now_ps, tunables) -> answer, one a slot."""
    if slot not in _drivers:
        names = SLOTS[slot][:-1] if SLOTS[slot][-1] == "now_ps" else SLOTS[slot]
        if slot == "admit":
            driver = numba.njit(
                lambda call, rows, views, decodes, now_ps, table: call(rows[0], views, decodes, now_ps, table))
        elif slot == "migrate":
            driver = numba.njit(lambda call, views, now_ps, table: call(views, now_ps, table))
        elif names[1:] == ("instances",):
            driver = numba.njit(lambda call, rows, views, now_ps, table: call(rows[0], views, now_ps, table))
        elif slot == "scale":
            driver = numba.njit(lambda call, rows, pools, now_ps, table: call(rows[0], pools, now_ps, table))
        elif names[1:] == ("losses",):
            driver = numba.njit(lambda call, rows, losses, now_ps, table: call(rows[0], losses, now_ps, table))
        elif names == ("request", "instance", "offer"):
            driver = numba.njit(
                lambda call, rows, views, offers, now_ps, table: call(rows[0], views[0], offers[0], now_ps, table))
        elif names == ("node", "evicting"):
            driver = numba.njit(lambda call, rows, evicting, now_ps, table: call(rows[0], evicting, now_ps, table))
        else:
            driver = numba.njit(lambda call, rows, now_ps, table: call(rows[0], now_ps, table))
        _drivers[slot] = driver
    return _drivers[slot]


_drivers: dict[str, Any] = {}


@every_policy
def test_answers_are_valid_deterministic_and_pure(policy: Policy) -> None:
    """Twice the same answer from the same rows, which stay as they were, and the same memory, which ends alike."""
    random = Random(f"{policy.slot} {policy.name}")
    memory = np.zeros(MEMORY)
    for _ in range(ROWS):
        given = context(policy.slot, random)
        now_ps, values = random.randrange(1 << 61), values_of(policy, random)
        before, kept, again = copied(given), memory.copy(), memory.copy()
        answer = normal(policy.slot, called(policy, given, now_ps, values, memory))
        names = SLOTS[policy.slot]
        check_answer(policy.slot, answer, len(given[names.index("instances")]) if "instances" in names else 0)
        assert normal(policy.slot, called(policy, given, now_ps, values, again)) == answer
        assert same(given, before) and (memory == again).all()
        assert "memory" in policy.extras or (memory == kept).all()


@every_policy
def test_interpreted_equals_compiled(policy: Policy) -> None:
    """The plain function's answer is the adapter's, and the adapter leaves the rows alone too."""
    random = Random(f"{policy.slot} {policy.name}")
    memory, other = np.zeros(MEMORY), np.zeros(MEMORY)
    for _ in range(ROWS):
        given = context(policy.slot, random)
        now_ps, values = random.randrange(1 << 61), values_of(policy, random)
        plain = normal(policy.slot, called(policy, given, now_ps, values, memory))
        before = copied(given)
        assert compiled(policy, given, now_ps, values, other)[: len(plain)] == plain, (given, now_ps, values)
        assert same(given, before) and np.allclose(memory, other, rtol=1e-12)


@every_policy
def test_a_replay_ends_at_both_ends_of_every_tunable(policy: Policy) -> None:
    """Every request finishes, is rejected, or is held; and a value outside the range is refused."""
    trace = small_trace([(700 * row, 4 + row % 5 * 4, 1 + row % 7) for row in range(24)], [
        [row % 3, 10 + row % 6] if row % 5 > 1 else [] for row in range(24)])  # fmt: skip
    profile = small_profile(iteration_ps=100, prefill_token_ps=10, decode_request_ps=1)
    cluster = small_cluster([small_instance(role, profile, kv_blocks=12, max_batch=3) for role in ("mixed", "mixed")])
    if policy.slot in ("evict", "fetch", "write"):  # the last two are asked of a hierarchy only
        cluster = replace(cluster, kv=TIERS)
    if policy.slot == "migrate":
        cluster = replace(cluster, migrate_ps=900)
    if policy.slot == "recover":
        cluster = replace(cluster, life=replace(LIFE, pools=POOLS[:1]))
    if policy.slot == "scale":
        cluster = replace(cluster, life=LIFE, kv=replace(STORES, disk_servers=2))
    settings = [{}] + [{name: end} for name, tunable in policy.tunables.items() for end in ends(tunable)]
    for values in settings:
        done = replay(trace, cluster, small_policies(**{policy.slot: (policy.name, values)})).summary
        assert done["finished"] + done["rejected"] + done["failed"] == 24, (values, done)
    for name, tunable in policy.tunables.items():
        outside = "heavy" if isinstance(tunable, Choice) else tunable.high + 1
        with pytest.raises(ValueError, match=f"policy.{policy.slot}.{name} of '{policy.name}' must be"):
            choose(policy.slot, policy.name, {name: outside})


@every_policy
def test_the_function_is_named_and_described(policy: Policy) -> None:
    """File, function and registry agree; the docstring begins with a verb and says its source."""
    assert policy.path == ROOT / "policies" / policy.slot / f"{policy.name}.py"
    first = policy.doc.partition("\n")[0]
    verb = first.split()[0]
    assert verb[0].isupper() and not verb.endswith(("s", "ing", "ed")) and first.endswith((".", ":")), first
    assert len(policy.source) > 2, "a docstring needs a line 'source : where the algorithm comes from'"
    assert 5 <= len(policy.path.read_text(encoding="utf-8").splitlines()) <= 40
    described = [line.split(":")[0].strip() for line in policy.doc.splitlines() if ":" in line]
    assert all(name in described or name in policy.doc for name in policy.tunables)


def test_no_policy_reads_the_future() -> None:
    """No row that a policy receives has a field of the true output, or of what is still to come, but for oracles."""
    rows = (SEEN, schema.VIEW, schema.PREFIX, schema.OFFER, life_schema.POOL)
    known = {name for row in rows for name in row.names or ()}
    assert not known & {"output_tokens", "finish_ps", "think_ps", "next_finish"}
    assert not any("output_tokens" in policy.reads for policy in POLICIES)
    oracles = {policy.name for policy in POLICIES if policy.reads & ORACLES_ONLY}
    named = {policy.name for policy in POLICIES if policy.name.startswith("oracle_")}
    assert oracles == named == {"oracle_belady", "oracle_sjf", "oracle_srpt"}
    assert all("future" in policy.doc for policy in POLICIES if policy.name in oracles)


def test_every_file_registers_a_policy() -> None:
    files = {path for path in (ROOT / "policies").glob("*/*.py") if path.name != "__init__.py"}
    assert files == {policy.path for policy in POLICIES} and len(POLICIES) >= 16
    assert {policy.slot for policy in POLICIES} == set(SLOTS)


def test_the_readme_lists_every_policy() -> None:
    """The README's table is the registry's; `python -m replay.catalogue README.md` writes it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert catalogue.updated(text) == text
    assert all(f"| {policy.slot} | `{policy.name}` |" in text for policy in POLICIES)


def test_threads_compile_a_policy_once() -> None:
    """Runs of a multirun that begin at once ask for the same policies: one compiles, the others have what it made."""
    def threaded(request, instances, now_ps):
        """Send every request to the first instance.

        source : of this test
        """
        return 0

    chosen = Chosen(registry()["route"].setdefault("threaded", describe("route", threaded)), {})
    try:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: adapters.adapter(chosen), range(8)))
    finally:
        registry()["route"].pop("threaded")
    assert all(one is made[0] for one in made)
