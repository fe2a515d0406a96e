"""A session made by hand: the kernel's rows filled in directly, to test what is computed from them."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from replay.engine.request_schema import REQUEST
from replay.engine.schema import BINS, CLUSTER, GONE, INSTANCE, JOB, PENDING, STATUSES, VIEW
from replay.prices import Prices
from replay.slo import Slo, build_slo
from traces.schema import Trace, build

PS = 10**12
SLO = {"gold": {"ttft_s": 1.0, "tpot_s": 0.1, "weight": 3.0}, "bronze": {"ttft_s": 5.0, "itl_s": 2.0}}


def request(arrival_s: float, **fields: Any) -> dict[str, Any]:
    """Return one request's history; times in seconds, status by name, defaults for a plain finished request."""
    row = {
        "arrival_s": arrival_s, "prompt_tokens": 100, "output_tokens": 11, "tier": "gold", "status": "finished",
        "scheduled_s": arrival_s + 0.25, "first_token_s": arrival_s + 0.5, "finish_s": arrival_s + 1.5,
        "max_itl_s": 0.1, "prefill_instance": 0, "decode_instance": 1, "hit_tokens": 20, "preemptions": 0,
    }  # fmt: skip
    return row | fields


def waiting(arrival_s: float | None, status: str = "unfinished", **fields: Any) -> dict[str, Any]:
    """Return a request that never ran: rejected, failed or still waiting; arrival None if it never arrived."""
    nothing = dict.fromkeys(("scheduled_s", "first_token_s", "finish_s", "max_itl_s"))
    none = {"prefill_instance": -1, "decode_instance": -1, "hit_tokens": 0, "status": status}
    return request(0.0) | nothing | none | {"arrival_s": arrival_s} | fields


def bin_of(gap_ps: int) -> int:
    """Return the histogram bin of a gap of at least 64 ps: octave, then sixty-fourths of it."""
    octave = gap_ps.bit_length() - 1
    return octave * 64 + ((gap_ps - (1 << octave)) * 64 >> octave)


def session(rows: list[dict[str, Any]], gaps_s: dict[str, list[float]] | None = None, **more: Any) -> Any:
    """Return an object with what `Result.from_session` reads of a session, on a cluster without a KV hierarchy.

    rows   : histories as `request` and `waiting` make them; instance 0 prefills and instance 1 decodes
    gaps_s : tier -> gaps between tokens, for the histogram
    """
    slo: Slo = build_slo(more.pop("slo", SLO))
    requests, jobs = np.zeros(len(rows), REQUEST), np.zeros(len(rows), JOB)
    for index, row in enumerate(rows):
        requests[index]["arrival_ps"] = _ps(row["arrival_s"])
        requests[index]["tier"] = slo.names.index(row["tier"])
        requests[index]["generated_tokens"] = row["output_tokens"] if row["status"] == "finished" else 0
        for name in ("scheduled", "first_token", "finish", "max_itl"):
            jobs[index][f"{name}_ps"] = _ps(row[f"{name}_s"])
        for name in ("output_tokens", "hit_tokens", "preemptions", "prefill_instance", "decode_instance"):
            jobs[index][name] = row[name]
        requests[index]["prompt_tokens"] = row["prompt_tokens"]
        jobs[index]["status"] = STATUSES.index(row["status"])
        jobs[index]["stage"] = PENDING if row["arrival_s"] is None else GONE
    histogram = np.zeros((len(slo.tiers), BINS), np.int64)
    for tier, gaps in (gaps_s or {}).items():
        for gap_s in gaps:
            histogram[slo.names.index(tier), bin_of(_ps(gap_s))] += 1
    cluster = np.zeros(1, CLUSTER)
    cluster["events"] = 7 * len(rows)
    instances, views = np.zeros(2, INSTANCE), np.zeros(2, VIEW)
    computed = requests["prompt_tokens"] - jobs["hit_tokens"]
    instances["prefill_done_tokens"][0] = computed[jobs["scheduled_ps"] >= 0].sum()
    instances["busy_ps"] = PS // 4 * len(rows)
    state = SimpleNamespace(requests=requests, jobs=jobs, histogram=histogram, cluster=cluster, instances=instances,
                            prefill_views=views[:1])  # fmt: skip
    alone = SimpleNamespace(kv=None, fabric=None, life=None, instances=(), stages=(), speculation=None)
    return SimpleNamespace(state=state, slo=slo, trace=trace_of(rows), cluster=alone, kernel_s=0.5, prices=Prices(),
                           events=False, log=[], **more)  # fmt: skip


def trace_of(rows: list[dict[str, Any]]) -> Trace:
    """Return a trace with the rows' lengths and tiers, and a kind for each."""
    return build(
        "handmade",
        {
            "arrival_s": np.sort([row["arrival_s"] or 0.0 for row in rows]),
            "prompt_tokens": [row["prompt_tokens"] for row in rows],
            "output_tokens": [row["output_tokens"] for row in rows],
            "tier": [row["tier"] for row in rows],
            "kind": ["chat"] * len(rows),
        },
    )


def _ps(seconds: float | None) -> int:
    return -1 if seconds is None else round(seconds * PS)


class FakeSession:
    """Stands in for `replay.session.Session`: every request takes a quarter, a half and one and a half seconds."""

    slices = 3

    def __init__(self, trace: Trace, cluster: Any, policies: Any, *, slo: Slo, seed: int, prices: Prices,
                 **switches: bool):
        rows = [request(float(arrival_s)) for arrival_s in trace.column("arrival_s")]
        tiers = [slo.names[code] for code in slo.codes(trace)]
        for row, tier, prompt, output in zip(
            rows, tiers, trace.column("prompt_tokens"), trace.column("output_tokens"), strict=True
        ):
            row |= {"tier": tier, "prompt_tokens": int(prompt), "output_tokens": int(output)}
        self._whole = session(rows, slo=slo)
        self.trace, self.slo, self.kernel_s, self.events, self.log = trace, slo, 0.5, switches["events"], []
        self.cluster, self.prices = cluster, prices
        self.state, self.policies, self.seed = self._whole.state, policies, seed
        self.state.instances = np.resize(self.state.instances, max(2, len(cluster.instances)))
        self._advanced = 0

    def advance(self, max_events: int) -> bool:
        """Count a slice; the replay is done after `slices` of them."""
        self._advanced += 1
        return self._advanced >= self.slices

    @property
    def gone(self) -> int:
        """Requests that reached an end so far."""
        return len(self.trace) * self._advanced // self.slices


