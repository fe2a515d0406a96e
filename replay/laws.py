"""Conservation laws, checked at the end of every replay: a broken one is a bug of the engine, never of the user."""

import numpy as np

from replay.engine import schema
from replay.engine.life_schema import DOWN, DRAINING, LIVES, OFF, STARTING, UP
from replay.engine.schema import State
from replay.errors import EngineError
from replay.fabric import KINDS


def check(state: State, order: str = "") -> None:
    """Check that requests, tokens and blocks are conserved, on instances and on the stores below them.

    order  : name of the order policy, for the law of `vtc`
    raises : EngineError naming the law, the place and both sides
    """
    if state.cluster["tiered"][0]:
        check_hierarchy(state)
    if state.cluster["fabric"][0]:
        check_fabric(state)
    if state.cluster["staged"][0]:
        check_stages(state)
    if state.cluster["lives"][0]:
        check_lives(state)
    if order == "vtc":
        check_fairness(state)
    jobs, views, instances = state.jobs, state.views, state.instances
    statuses = np.bincount(jobs["status"], minlength=4)
    _equal("requests", "the trace", int(statuses.sum()), len(jobs))
    gone = int((jobs["stage"] == schema.GONE).sum())
    _equal("requests that ended", "the cluster", int(state.cluster["gone"][0]), gone)
    for i in range(len(views)):
        parts = [int(views[name][i]) for name in ("free_blocks", "cached_blocks")]
        parts += [int(instances[name][i]) for name in ("private_blocks", "pinned_blocks")]
        _equal("KV blocks", f"instance {i}", sum(parts), int(views["total_blocks"][i]))
        if min(parts) < 0:
            raise EngineError(f"KV blocks must not be negative, but instance {i} has free, cached, private, pinned = "
                              f"{parts}: this is a bug.")
    finished = jobs["status"] == schema.FINISHED
    _equal("output tokens", "finished requests", int(state.requests["generated_tokens"][finished].sum()),
           int(jobs["output_tokens"][finished].astype(np.int64).sum()))
    running = jobs["stage"] == schema.DECODING
    again = int(state.lives.setting["wasted_tokens"][0])  # of requests that began anew after a failure
    if not running.any():
        _equal("generated tokens", "all instances", int(instances["tokens_out"].sum()),
               int(state.requests["generated_tokens"].astype(np.int64).sum()) + again)
    lives = bool(state.cluster["lives"][0])
    firsts = int(state.lives.totals["first_tokens"][0]) if lives else int((jobs["first_token_ps"] >= 0).sum())
    if not running.any():
        later = int(instances["tokens_out"].sum()) - firsts
        _equal("gaps between tokens", "the histogram", int(state.histogram.sum()), later)


def service_bound(state: State) -> np.ndarray:
    """Return by how much the service of tenants that wait on an instance may differ under `vtc`.

    A tenant is charged a prompt only while it has the least service of those that wait. What else it gets then comes
    from its running requests: as many as the batch has places for, each with no more output than the longest, or than
    the KV memory holds.

    returns : float64 (num_instances,)
    source  : Sheng et al., Fairness in serving large language models, OSDI 2024, lemma on backlogged clients
    """
    cluster, count = state.cluster[0], int(state.cluster["num_instances"][0])
    views = state.views[:count]
    longest = np.minimum(views["total_blocks"].astype(np.float64) * views["block_tokens"],
                         float(state.jobs["output_tokens"].max(initial=0)))
    tokens = longest * views["max_batch"]
    prompt = float(state.requests["prompt_tokens"].max(initial=0))
    return (cluster["input_weight"] * prompt + cluster["output_weight"] * tokens) / state.asking.shares.min()


def check_fairness(state: State) -> None:
    """Check that no two tenants that waited on an instance were ever further apart in service than `vtc` allows.

    raises : EngineError as `check`
    """
    for i, most in enumerate(service_bound(state)):
        gap = float(state.asking.ledgers["gap"][i])
        if gap > most * (1 + 1e-12):
            raise EngineError(f"service of tenants that wait may differ by at most {most:.6g} under vtc, but did by "
                              f"{gap:.6g} on instance {i}: this is a bug.")


def check_fabric(state: State) -> None:
    """Check that every byte that was sent came, and that nothing is left on a link when no transfer is under way.

    raises : EngineError as `check`
    """
    wires = state.wires
    for kind, name in zip(wires.kinds, KINDS, strict=True):
        if int(kind["transfers"]) == int(kind["delivered"]):
            _equal("bytes sent", f"traffic of kind {name}", int(kind["delivered_bytes"]), int(kind["bytes"]))
    if int(wires.kinds["transfers"].sum()) == int(wires.kinds["delivered"].sum()):
        _equal("flows", "all links together", int(wires.links["flows"].sum()), 0)
        _equal("handoff transfers under way", "all requests", int(wires.transits["under_way"].sum()), 0)


def check_stages(state: State) -> None:
    """Check that every call that came was served once, that finished requests passed their stages, and Little's law.

    raises : EngineError as `check`
    """
    pipeline = state.pipeline
    stations = pipeline.stations
    tasks = pipeline.tasks.reshape(len(state.jobs), len(stations))
    finished = state.jobs["status"] == schema.FINISHED
    for s, station in enumerate(stations):
        own = tasks[:, s]
        place = f"stage {s}"
        _equal("calls", f"{place} of finished requests", int(own["ended"][finished].sum()),
               int(own["calls"][finished].sum()))
        _equal("calls that came", place, int(own["issued"].sum()), int(own["ended"].sum()))
        _equal("calls served", place, int(station["calls"]), int(own["ended"].sum()))
        for name, spent in (("waiting_area", own["queue_ps"]), ("serving_area", own["service_ps"])):
            left, right = float(station[name]), float(spent.sum(dtype=np.float64)) * 1e-12
            if abs(left - right) > 1e-6 * right + 1e-12:
                raise EngineError(f"call-seconds must be the sum over calls, but {name} of {place} is {left:.9g} "
                                  f"instead of {right:.9g}: this is a bug.")


def check_lives(state: State) -> None:
    """Check that what was lost went on or was given up, that nothing of what is gone holds KV, and times by changes.

    raises : EngineError as `check`
    """
    life, setting, losses = state.lives.life, state.lives.setting[0], state.lives.losses
    stages, count, nobody = state.jobs["stage"], len(state.lives.life), "all instances, with no request on any,"
    lost = int(setting["lost"])
    _equal("requests lost", "all requests", int(losses["losses"].sum()), lost)
    _equal("requests lost", "all instances", int(life["lost_requests"].sum()), lost)
    _equal("requests that went on or were given up", "the cluster", int(setting["retries"] + setting["given_up"]), lost)
    _equal("requests set aside", "the cluster", int(setting["aside"]), 0)
    _equal("prefilled requests kept", "all instances", int(life["stranded"].sum()), 0)
    if not np.isin(stages, (schema.WAITING, schema.FETCHING, schema.PREFILLING, schema.DECODING, schema.HANDOFF)).any():
        held = state.instances["private_blocks"][:count] + state.instances["pinned_blocks"][:count]
        _equal("KV blocks of requests", nobody, int(held.sum()), 0)
        for name in ("waiting", "running", "waiting_tokens", "queued_tokens"):
            _equal(f"{name} of views", nobody, int(state.views[name][:count].sum()), 0)
        _equal("transfers on cards", nobody, int(state.instances["linked"][:count].sum()), 0)
    check_times(state)


def check_times(state: State) -> None:
    """Check that the time paid, up and down of each instance and node is what its changes say, within the replay.

    raises : EngineError as `check`
    """
    now_ps = int(state.cluster["now_ps"][0])
    moments = state.lives.moments[: int(state.lives.setting["moments"][0])]
    in_order = int((np.diff(moments["time_ps"]) >= 0).sum())
    _equal("changes in order of time", "all instances", in_order, max(0, len(moments) - 1))
    for i, life in enumerate((*state.lives.life, *state.lives.node_lives)):
        own = moments[moments["instance"] == i]
        since, codes = [0, *own["time_ps"].tolist()], own["state"].tolist()
        first = (OFF if codes[0] == STARTING else UP) if codes else int(life["state"])
        spent = np.zeros(len(LIVES), np.int64)
        for state_code, begin_ps, end_ps in zip([first, *codes], since, [*since[1:], now_ps], strict=True):
            spent[state_code] += end_ps - begin_ps
        elapsed_ps, doing = now_ps - int(life["since_ps"]), int(life["state"])
        for name, counted in (("up", (UP, DRAINING)), ("down", (DOWN,)), ("paid", (UP, STARTING, DRAINING, DOWN))):
            kept_ps = int(life[f"{name}_ps"]) + elapsed_ps * (doing in counted)
            _equal(f"time {name} [ps]", f"member {i} of the pools", kept_ps, int(spent[list(counted)].sum()))
        _equal("time [ps]", f"all states of member {i} of the pools", int(spent.sum()), now_ps)


def check_hierarchy(state: State) -> None:
    """Check that no store made or lost a block, and that what the index says is there is there.

    raises : EngineError as `check`
    """
    cluster, hierarchy, cache = state.cluster[0], state.hierarchy, state.cache
    first, columns = int(cluster["num_instances"]), cache.slot_of.shape[1]
    num_prefill = int(cluster["num_prefill"])
    for c in range(columns):
        i = c if c < num_prefill else c - num_prefill + first
        rows = cache.slot_of[:, c]
        rows = np.where(rows < -1, -2 - rows, rows)
        indexed = int(cache.slots["blocks"][rows[rows >= 0]].sum())
        held = int(state.views["cached_blocks"][i] + state.instances["pinned_blocks"][i])
        _equal("indexed KV blocks", f"holder {i}", indexed, held)
    for s in range(int(cluster["num_stores"])):
        store, i = hierarchy.stores[s], first + s
        gone = sum(int(store[f"{name}_blocks"]) for name in ("lost", "expired"))
        came = int(state.instances["inserted_blocks"][i])
        held = int(state.views["cached_blocks"][i] + state.instances["pinned_blocks"][i])
        _equal("KV blocks that came", f"store {s}", came, held + gone + int(state.instances["evicted_blocks"][i]))
    disks = [first + s for s in range(int(cluster["num_stores"])) if hierarchy.stores["disk"][s] >= 0]
    if disks:
        on_disks = int((state.views["cached_blocks"] + state.instances["pinned_blocks"])[disks].sum())
        _equal("KV blocks in fragments", "all disks together", int(hierarchy.fragments["blocks"].sum()), on_disks)
    if not hierarchy.loads["under_way"].any() and not hierarchy.writes["used"].any():
        _equal("pinned KV blocks", "all stores together", int(state.instances["pinned_blocks"][first:].sum()), 0)


def _equal(what: str, where: str, left: int, right: int) -> None:
    if left != right:
        raise EngineError(f"{what} must be conserved, but {where} has {left} instead of {right}: this is a bug.")
