"""The `trace` node: presets, recorded traces, windows, ServeGen populations and its errors."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.recorded import recorded
from traces.errors import TraceError
from traces.schema import check
from traces.synthetic import from_config, trie_from_config
from traces.trie import compress

CONF = Path(__file__).resolve().parents[2] / "conf" / "trace"


def default(preset: str, /, **changes: Any) -> dict[str, Any]:
    return {**preset_node(preset), **changes}


@cache
def preset_node(preset: str) -> dict[str, Any]:
    node = OmegaConf.to_container(OmegaConf.load(CONF / f"{preset}.yaml"))
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


@pytest.mark.parametrize(
    "kind", sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("recorded", "servegen"))
)
def test_every_kind_has_a_configuration_that_works(kind: str) -> None:
    node = default(kind, requests=300)
    trace = check(from_config(node, 1))
    assert len(trace) == 300 and ("tier" in trace) == (node["tiers"] is not None)
    assert trace.notes["kind"] == node["kind"] and (kind == node["kind"] or kind == "deepseek")


def test_window_requests_and_rate_apply_in_this_order(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    rows = "".join(f"{second},{second + 1},1\n" for second in range(100))
    source.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    node = default("poisson", path=str(source), window={"start_s": 10, "end_s": 50}, requests=20, rate_scale=2.0)
    trace = from_config(node, 0)
    assert len(trace) == 20 and trace.column("prompt_tokens")[0] == 11
    np.testing.assert_allclose(np.diff(trace.column("arrival_s")), 0.5)
    assert len(from_config(default("recorded", path=str(source)), 0)) == 100


def test_the_trie_comes_from_the_sidecar_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from traces.importer import write_trace

    made = from_config(default("shared_prefix", requests=200, tiers=None), 1)
    write_trace(made, tmp_path / "made.arrow")
    node = default("shared_prefix", path=str(tmp_path / "made.arrow"), rate_scale=3.0)
    expected = compress(made)
    cut = trie_from_config(node | {"requests": 50}, from_config(node | {"requests": 50}, 0))
    assert len(cut.leaf) == 50
    monkeypatch.setattr("traces.synthetic.config.compress", None)
    mapped = trie_from_config(node, from_config(node, 0))
    for left, right in zip(expected[:4], mapped[:4], strict=True):
        np.testing.assert_array_equal(left, right)


def test_servegen_windows_keep_their_rates() -> None:
    folder = recorded("traces/servegen/client_rate_windows.parquet").parent
    node = default("servegen", servegen_path=str(folder), clients=10, rate_per_s=None, requests=200_000)
    trace = check(from_config(node, 2))
    windows = pl.read_parquet(folder / "client_rate_windows.parquet").filter(pl.col("model") == "m-large")
    names = sorted(set(trace.column("tenant")))
    used = int(trace.column("arrival_s")[-1] // 600)
    rates = windows.filter(pl.col("client_id").is_in([int(n[7:]) for n in names]) & (pl.col("t") < used * 600))
    expected = float(rates["rate"].sum()) * 600
    got = np.count_nonzero(trace.column("arrival_s") < used * 600)
    variance = 600 * float((rates["rate"].to_numpy() * rates["cv"].to_numpy() ** 2).sum())  # of renewal counts
    assert used >= 2 and abs(got - expected) < 5 * math.sqrt(variance)
    scaled = from_config(node | {"rate_per_s": 50.0}, 2)
    assert len(scaled) / scaled.column("arrival_s")[-1] == pytest.approx(50.0, rel=0.15)
    assert scaled.digest() == from_config(node | {"rate_per_s": 50.0}, 2).digest()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rate_per_s": -1.0}, "'rate_per_s' must be above 0, but got -1.0"),
        ({"rate_per_s": "fast"}, "'rate_per_s' must be a number, but got 'fast'"),
        ({"rate_per_s": float("inf")}, "must be finite"),
        ({"rate_per_s": True}, "must be a number"),
        ({"rate_per_s": None}, "needs the parameter 'rate_per_s'"),
        ({"rate": 3}, "got 'trace.rate'"),
        ({"kind": "poison"}, "trace.kind must be one of poisson, .* but got 'poison'"),
        ({"kind": None}, "needs trace.path or trace.kind .*, but both are null"),
        ({"requests": 0}, "'requests' must be in 1 .. 2.14748e\\+09, but got 0"),
        ({"requests": 2.5}, "must be a whole number"),
        ({"prompt_tokens": {"law": "normal", "mean": 3}}, "the law of 'prompt_tokens' must be one of constant"),
        ({"prompt_tokens": {"mean": 3}}, "must be one of constant, .* but got None"),
        ({"prompt_tokens": {"law": "constant", "mean": 3, "cv": 1}}, "has the parameters mean, but got 'cv'"),
        ({"prompt_tokens": {"law": "lognormal", "mean": 3}}, "needs the parameter 'cv'"),
        ({"prompt_tokens": {"law": "pareto", "mean": 3, "alpha": 1}}, "'alpha' must be above 1"),
        ({"prompt_tokens": {"law": "uniform", "low": 9, "high": 3}}, "'high' must be at least 9"),
        ({"prompt_tokens": {"law": "empirical", "values": []}}, "list of finite numbers"),
        ({"prompt_tokens": {"law": "empirical"}}, "give exactly one"),
        ({"prompt_tokens": [1, 2]}, "'prompt_tokens' must be a number"),
        ({"prompt_tokens": -5}, "'prompt_tokens' must be at least 0, but got -5"),
        ({"tiers": {"gold": 0.5}}, "must add up to 1"),
        ({"rate_scale": 0}, "'rate_scale' must be above 0"),
        ({"window": {"start": 3}}, "trace.window has the parameters start_s, end_s, but got 'start'"),
        ({"window": 3}, "trace.window must be"),
        ({"format": "azure"}, "trace.format goes with trace.path"),
        ({"path": "/no/such/file.csv"}, "there is none at"),
        ({"rate_per_s": 1e-9}, "within 106 days"),
    ],
)
def test_a_bad_configuration_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TraceError, match=sentence):
        from_config(default("poisson", **changes), 0)


def test_shared_prefix_has_a_few_nodes_a_request() -> None:
    trace = from_config(default("shared_prefix"), 0)
    trie = compress(check(trace))
    depth = np.zeros(len(trie.parent), int)
    for node, above in enumerate(trie.parent):
        depth[node] = 1 + (depth[above] if above >= 0 else 0)
    offsets, ids = trace.prefix()
    assert len(trace) == 20_000
    assert 90 < len(ids) / len(trace) < 140
    assert 3.5 < depth[trie.leaf].mean() < 6
    assert set(trace.column("tier")) == {"gold", "silver", "bronze"}


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 3, 10**400, 2**63, 1e-300, 1e308, float("nan"), float("-inf"), 0.5]),
    st.sampled_from(["", "poisson", "x", "/nowhere", "empirical", b"bytes"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(
        st.sampled_from(["law", "mean", "cv", "max", "prompts", "column", "gold"]), st.integers(-1, 9), max_size=3
    ),
    st.fixed_dictionaries(
        {"law": st.sampled_from(["poisson", "pareto", "geometric", "onoff"]), "mean": st.just(1e300)}
    ),
)


@settings(max_examples=60, deadline=None)
@given(preset=st.sampled_from(["poisson", "onoff", "sessions", "training"]), data=st.data())
def test_junk_in_a_node_gives_a_trace_or_one_sentence(preset: str, data: st.DataObject) -> None:
    node = default(preset, requests=20)
    names = data.draw(st.lists(st.sampled_from(sorted(set(node) - {"requests"})), min_size=1, max_size=2, unique=True))
    for name in names:
        inner = isinstance(node[name], dict) and node[name] and data.draw(st.booleans())
        if inner:
            node[name] = node[name] | {data.draw(st.sampled_from(sorted(node[name]))): data.draw(JUNK)}
        else:
            node[name] = data.draw(JUNK)
    try:
        trace = from_config(node, 0)
    except TraceError as error:
        assert str(error).count("\n") == 0 and str(error).endswith(".")
    else:
        assert len(check(trace)) == 20
