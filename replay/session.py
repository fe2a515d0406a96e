"""Replay a trace on a cluster under chosen policies: the Python face of the kernel."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors import given
from replay.energy import refuse_unknown_power
from replay.engine import adapters, compile, load, schema
from replay.engine.life_rows import more_moments
from replay.engine.wires import make_room
from replay.errors import ConfigError, EngineError, PolicyError
from replay.hardware import refuse_overflow
from replay.policy import SLOTS, Chosen, choose
from replay.prices import Prices, build_prices
from replay.slo import Slo, build_slo
from replay.speculation import refuse_long_iterations
from traces.outputs import with_outputs
from traces.trie import compress, isolated

if TYPE_CHECKING:
    from predictors import Predictions
    from replay.cluster import Cluster
    from replay.result import Result
    from traces import Trace

DEFAULTS = {"admit": "always", "route": "least_loaded", "decode": "least_kv", "order": "fcfs", "batch": "chunked",
            "evict": "lru", "fetch": "best_effort", "write": "through", "migrate": "llumnix", "scale": "fixed",
            "recover": "resume"}
TIERED_SLOTS = ("fetch", "write")  # asked only by a cluster with a KV hierarchy
LIFE_SLOTS = ("scale", "recover")  # asked only where instances start, drain or fail
SLICE_EVENTS = 1_000_000


def replay(
    trace: "Trace", cluster: "Cluster | str", policies: Mapping[str, Any] | None = None, **options: Any
) -> "Result":
    """Replay a trace to its end.

    trace    : Trace
    cluster  : Cluster, or the name of a preset of conf/cluster
    policies : slot -> name, {"name": ..., tunable: value} or Chosen; the rest by DEFAULTS
    options  : slo, seed, leap, events, gaps, predictions, prices, as in `Session`
    returns  : Result
    raises   : ConfigError, PolicyError, TraceError; EngineError if a law of the model is broken
    """
    session = Session(trace, cluster, policies, **options)
    while not session.advance(SLICE_EVENTS):
        pass
    return session.result()


class Session:
    """A replay in progress: advance it in slices, look at it, fork it.

    state    : engine State; kernel_s: seconds spent in compiled code; log: drained EVENT arrays when events are on
    """

    def __init__(self, trace: "Trace", cluster: "Cluster | str", policies: Mapping[str, Any] | None = None, *,
                 slo: "Slo | Mapping[str, Any] | str | None" = None, seed: int = 0, leap: bool = True,
                 events: bool = False, gaps: bool = False,
                 predictions: "Predictions | np.ndarray | None" = None,
                 prices: "Prices | Mapping[str, Any] | str | None" = None) -> None:
        """Prepare a replay; arguments as `replay`.

        slo         : Slo, a node of conf/slo, a name, or None for gold_silver_bronze
        leap        : False steps every iteration; the results are the same bytes
        gaps        : keep every gap between tokens, 8 bytes each, for itl_top10_s
        predictions : Predictions, or expected output tokens alone, int (requests,), -1 unknown
        prices      : Prices, a node of conf/prices, a name, or None for default; no policy sees them
        """
        self.trace, self.cluster = trace, _cluster(cluster, trace)
        _refuse_overflow(self.cluster, trace)
        self.slo = slo if isinstance(slo, Slo) else build_slo(slo)
        self.prices = build_prices(prices)
        refuse_unknown_power(self.cluster, self.prices)
        self.policies = _chosen(policies or {})
        self.log: list[np.ndarray] = []
        self.events, self.kernel_s, self.done = events, 0.0, False
        predicted = given(predictions)
        _refuse_length(predicted, trace)
        self._predicted = predicted
        self._functions = self._compiled()
        options = {"seed": int(seed), "leap": leap, "events": events, "gaps": gaps, "predictions": predicted,
                   "trie": _trie(trace, self.cluster)}
        self.state = load.state_of(trace, self.cluster, self.policies, self.slo, options)

    @property
    def gone(self) -> int:
        """Requests that have reached their end."""
        return int(self.state.cluster["gone"][0])

    @property
    def now_s(self) -> float:
        """Replayed time in seconds."""
        return float(self.state.cluster["now_ps"][0]) * 1e-12

    def advance(self, max_events: int) -> bool:
        """Run at most so many events; returns True at the end of the replay.

        raises : PolicyError if a policy raised or answered nonsense; EngineError if a law of the model is broken
        """
        if self.done:
            return True
        compile.load()
        before, started = int(self.state.cluster["events"][0]), time.perf_counter()
        try:
            code = compile.run(self.state, self._functions, max_events)
        except Exception as error:
            raise self._raised(error) from error
        self.kernel_s += time.perf_counter() - started
        self.state = more_moments(make_room(self.state))
        if self.events:
            self._drain_log(stuck=int(self.state.cluster["events"][0]) == before and code == schema.PAUSED)
        if code == schema.FAULT:
            raise self._fault()
        self.done = code == schema.DONE
        if self.done:
            from replay.laws import check

            check(self.state, self.policies["order"].policy.name)
        return self.done

    def result(self) -> "Result":
        """Return what was replayed so far; what is still under way is `unfinished`."""
        from replay.result import Result

        return Result.from_session(self)

    def where(self, request: int) -> list[dict[str, Any]]:
        """List where the KV of a request's prompt lies now, as `replay.tiers.where`."""
        from replay.tiers import where

        return where(self, request)

    def fork(self, policies: Mapping[str, Any] | None = None) -> "Session":
        """Return a copy that goes on alone, under other policies where given."""
        other = object.__new__(Session)
        other.__dict__.update(self.__dict__)
        other.state, other.log = load.copy(self.state), list(self.log)
        if policies:
            other.policies = {**self.policies, **{slot: _choose(slot, spec) for slot, spec in policies.items()}}
            other._functions = other._compiled()
            options = {"trie": _trie(self.trace, self.cluster),
                       "predictions": self._predicted}
            other.state = load.with_policies(other.state, other.policies, self.trace, self.slo, options)
        return other

    def _compiled(self) -> list[Any]:
        """Return what the event loop calls: a function a policy slot, then those of the hierarchy and the fabric."""
        tiered = self.cluster.kv is not None
        moves = self.cluster.migrate_ps > 0
        lives = self.cluster.life is not None
        idle = (() if tiered else TIERED_SLOTS) + (() if moves else ("migrate",)) + (() if lives else LIFE_SLOTS)
        functions = [compile.stand_in(slot) if slot in idle else adapters.adapter(self.policies[slot])
                     for slot in SLOTS]  # fmt: skip
        return [*functions, compile.hierarchy_function(tiered),
                compile.fabric_function(self.cluster.fabric is not None), compile.moves_function(moves),
                compile.learning_function(self._predicted is not None and self._predicted.online > 0),
                compile.life_function(lives), compile.stages_function(bool(self.cluster.stages)),
                compile.drafting_function(self.cluster.speculation is not None)]

    def _drain_log(self, stuck: bool) -> None:
        count = int(self.state.cluster["log_count"][0])
        self.log.append(np.asarray(self.state.log[:count]).copy())
        self.state.cluster["log_count"][0] = 0
        if stuck:  # one event may need more room than there is: give it twice as much
            log = np.zeros(2 * len(self.state.log), schema.EVENT)
            self.state = self.state._replace(log=log.view(type(self.state.log)))

    def _raised(self, error: Exception) -> Exception:
        names = ", ".join(f"{slot}={chosen.policy.name}" for slot, chosen in self.policies.items())
        return PolicyError(f"a policy raised {type(error).__name__}: {error} at {self.now_s:.6f} s (policies: {names})."
                           f" Run it interpreted to see where: NUMBA_DISABLE_JIT=1.")

    def _fault(self) -> Exception:
        row = self.state.cluster[0]
        code, at, value = int(row["fault"]), int(row["fault_at"]), int(row["fault_value"])
        names = {slot: chosen.policy.name for slot, chosen in self.policies.items()}
        prefills, decodes = len(self.state.prefill_views), len(self.state.decode_views)
        sentences = {
            schema.BAD_ROUTE: f"route policy '{names['route']}' returned instance {value} for request {at}, but "
                              f"the cluster has prefill-capable instances 0..{prefills - 1} (or HOLD = -1).",
            schema.BAD_SOURCE: f"route policy '{names['route']}' returned source {value} for request {at}, but a "
                               f"prefix can be fetched from instances 0..{prefills - 1} only (or -1 for no fetch).",
            schema.BAD_DECODE: f"decode policy '{names['decode']}' returned instance {value} for request {at}, but "
                               f"the cluster has decode-capable instances 0..{decodes - 1} (or REFUSE = -1).",
            schema.BAD_ORDER: f"order policy '{names['order']}' returned NaN for request {at}, but a key must be a "
                              f"number.",
            schema.BAD_BATCH: f"batch policy '{names['batch']}' returned {value} prefill tokens for instance {at}, but "
                              f"at least 0 are needed.",
            schema.BAD_FETCH: f"fetch policy '{names['fetch']}' returned a wait that is NaN or below 0 for request "
                              f"{at}, but the seconds to wait must be 0 or more.",
            schema.BAD_MIGRATE: f"migrate policy '{names['migrate']}' returned instances {at} and {value}, but the "
                                f"cluster has decode-capable instances 0..{decodes - 1} (or -1 and -1 for none).",
            schema.BAD_RECOVER: f"recover policy '{names['recover']}' returned {value} for request {at}, but "
                                f"must return RESTART, RESUME, RESTORE or GIVE_UP (0..3).",
            schema.BAD_EVICT: f"evict policy '{names['evict']}' returned NaN for trie node {at}, but a score must be a "
                              f"number.",
        }
        if code in sentences:
            return PolicyError(sentences[code])
        if code == schema.TIME_RANGE:
            days = float(schema.MAX_TIME_PS) * 1e-12 / 86400
            return ConfigError(f"replayed time must stay under {days:.0f} days, but instance {at} "
                               f"would pass it after {self.now_s:.0f} s. Use a shorter trace or a faster cluster.")
        return EngineError(f"the kernel stopped with fault {code} at {at} (value {value}) after {self.now_s:.6f} s: "
                           f"this is a bug.")


def _refuse_length(predicted: "Predictions | None", trace: "Trace") -> None:
    if predicted is not None and len(predicted.tokens) != len(trace):
        raise ConfigError(f"there must be one prediction a request, but there are {len(predicted.tokens):,} for "
                          f"{len(trace):,} requests of {trace.name}. Predict this trace.")


def _cluster(spec: "Cluster | str", trace: "Trace") -> "Cluster":
    from replay.cluster import Cluster, cluster

    if isinstance(spec, Cluster):
        block_tokens = trace.block_tokens
        if block_tokens and spec.prefix_cache and block_tokens % spec.block_tokens:
            raise ConfigError(f"the trace's blocks must be a multiple of the cluster's, but {trace.name} has "
                              f"{block_tokens} tokens a block and the cluster {spec.block_tokens}. Build the cluster "
                              f"with trace_block_tokens={block_tokens}.")
        return spec
    return cluster(spec, trace_block_tokens=trace.block_tokens)


def _refuse_overflow(cluster: "Cluster", trace: "Trace") -> None:
    longest = int((trace.column("prompt_tokens").astype(np.int64) + trace.column("output_tokens")).max())
    for instance in {id(i.profile): i for i in cluster.instances}.values():
        refuse_overflow(instance.profile, instance.token_budget, instance.max_batch, longest)
        if cluster.speculation is not None:
            refuse_long_iterations(cluster.speculation, instance.profile, instance.max_batch, longest)


def keep_trie(trace: "Trace", trie: Any) -> None:
    """Keep a trace's compressed trie with it, for every replay to come."""
    object.__setattr__(trace, "_trie", trie)


def trie_of(trace: "Trace", isolate: bool = False) -> Any:
    """Return the trace's compressed trie, built once per trace object.

    isolate : a trie in which no two tenants share a node
    """
    if isolate:
        if "_isolated" not in trace.__dict__:
            object.__setattr__(trace, "_isolated", compress(isolated(trace)))
        return trace.__dict__["_isolated"]
    if "_trie" not in trace.__dict__:
        keep_trie(trace, compress(trace))
    return trace.__dict__["_trie"]


def _trie(trace: "Trace", cluster: "Cluster") -> Any:
    """Return the trie that a cluster needs of a trace, built once per trace object."""
    if not (cluster.cache_outputs and cluster.prefix_cache):
        return trie_of(trace, cluster.kv is not None and cluster.kv.isolate)
    if "_outputs" not in trace.__dict__:
        object.__setattr__(trace, "_outputs", with_outputs(trace))
    return trace.__dict__["_outputs"]


def _chosen(policies: Mapping[str, Any]) -> dict[str, Chosen]:
    unknown = [slot for slot in policies if slot not in SLOTS]
    if unknown:
        raise PolicyError(f"policy slot must be one of {', '.join(SLOTS)}, but got {unknown[0]!r}")
    return {slot: _choose(slot, policies.get(slot, DEFAULTS[slot])) for slot in SLOTS}


def _choose(slot: str, spec: Any) -> Chosen:
    if isinstance(spec, Chosen):
        return spec
    if isinstance(spec, str):
        return choose(slot, spec)
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise PolicyError(f"policy.{slot} must have the name of a policy and its tunables, but is {spec!r}. Choose one "
                          f"with policy/{slot}=NAME.")
    return choose(slot, spec["name"], {key: value for key, value in spec.items() if key != "name"})
