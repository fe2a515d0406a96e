"""Prices: their files, what the command line refuses of them, and hardware's power."""

from dataclasses import fields

import pytest

from replay import cli
from replay.errors import ConfigError
from replay.hardware import build
from replay.hardware.conf import load, names
from replay.prices import KEYS, Prices, build_prices
from replay.session import Session
from tests.small import small_cluster, small_instance, small_profile, small_trace

BAD = [
    (["prices=clowd"], "there is no prices called 'clowd'. Did you mean 'cloud'?"),
    (["prices.pue=0.9"], "prices.pue must be finite, at least 1, but is 0.9"),
    (["prices.dram_usd_per_gb_hour=1"], "Did you mean 'prices.dram_usd_per_gib_hour'?"),
    (["+prices.foo=1"], "prices.foo is not a known key"),
    (["hardware=linear", "prices.electricity_usd_per_kwh=0.1"], "needs the power of every GPU, but the hardware of "
     "'linear' has no idle_w. Set hardware.idle_w, or the price to 0."),
    (["hardware.idle_w=900"], "hardware.idle_w must be at most hardware.busy_w, but they are 900 and 700 W."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_prices_give_one_sentence_and_no_folder(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "trace.requests=10", "trace=poisson", *arguments]) == 1
    told = capsys.readouterr()
    assert words in told.err and told.err.count("\n") == 1 and told.out == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", names("prices"))
def test_every_file_names_every_price(name):
    node = load("prices", name)
    assert set(node) == {"name", *KEYS} and node["name"] == name
    assert build_prices(name) == build_prices(node) == Prices(**{key: float(node[key]) for key in KEYS})


def test_the_default_counts_nothing_but_gpus_and_ports():
    assert build_prices(None) == build_prices("default") == build_prices({}) == Prices()
    assert all(getattr(Prices(), field.name) == 0.0 for field in fields(Prices) if "usd" in field.name)


@pytest.mark.parametrize(("spec", "words"), [
    (3, "prices must be a configuration node or a name, but is 3. Write prices=cloud."),
    ({"pue": float("nan")}, "prices.pue must be finite, at least 1, but is nan"),
    ({"cpu_usd_per_core_hour": -1}, "prices.cpu_usd_per_core_hour must be finite, at least 0, but is -1"),
    ({"ssd_usd_per_tib_hour": "much"}, "prices.ssd_usd_per_tib_hour must be a number, but is 'much'"),
    ({"egress_usd_per_gb": None}, "prices.egress_usd_per_gb must be a number, but is None"),
])  # fmt: skip
def test_what_are_no_prices_is_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        build_prices(spec)


def test_power_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="hardware.busy_w must be a number, but is 'lots'"):
        build({"hardware": {**load("hardware", "linear"), "busy_w": "lots"}})


def test_a_session_refuses_to_charge_for_unknown_power():
    cluster = small_cluster([small_instance("mixed", small_profile(iteration_ps=1))])
    with pytest.raises(ConfigError, match="the hardware of 'small' has no idle_w"):
        Session(small_trace([(0, 4, 2)]), cluster, prices={"electricity_usd_per_kwh": 0.1})


@pytest.mark.parametrize("name", [name for name in names("hardware") if name != "measured"])  # it needs a file
def test_the_power_of_the_shipped_hardware(name):
    """A GPU at rest takes less than at work; what is unknown is null, and then no energy is computed."""
    profile = build({"hardware": load("hardware", name), "model": load("model", "llama3_8b")})
    assert (profile.idle_w, profile.busy_w) == (load("hardware", name)["idle_w"], load("hardware", name)["busy_w"])
    unknown = name in ("linear", "gb200", "deepseek_decode", "deepseek_prefill")
    assert unknown or 0 < profile.idle_w < profile.busy_w <= 1000
