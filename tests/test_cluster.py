"""Clusters resolve from presets, overrides and lists, and refuse what cannot serve."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from replay.cluster import UNLIMITED_BLOCKS, build_cluster, cluster
from replay.errors import ConfigError
from replay.hardware.conf import conf_folder, load, names

LISTED = ("pd_8p11d_deepseek", "pd_hetero")  # every instance by name


def roles(built):
    return [built_instance.role for built_instance in built.instances]


@pytest.mark.parametrize(
    ("name", "prefill", "mixed", "decode"),
    [("mixed_1", 0, 1, 0), ("mixed_4", 0, 4, 0), ("mixed_16", 0, 16, 0), ("pd_1p1d", 1, 0, 1), ("pd_4p4d", 4, 0, 4),
     ("pd_8p8d", 8, 0, 8), ("pd_hetero", 2, 0, 2), ("pd_8p11d_deepseek", 8, 0, 11)],
)  # fmt: skip
def test_presets(name, prefill, mixed, decode):
    built = cluster(name, model="llama3_70b")
    assert roles(built) == ["prefill"] * prefill + ["mixed"] * mixed + ["decode"] * decode
    assert built.name == name and built.layers == 80 and built.gpus == sum(i.profile.gpus for i in built.instances)


def test_every_preset_is_tested():
    assert names("cluster") == sorted(["mixed_1", "mixed_4", "mixed_16", "pd_1p1d", "pd_4p4d", "pd_8p8d", *LISTED])


@pytest.mark.parametrize("name", [name for name in names("cluster") if name not in LISTED])
@settings(max_examples=10)
@given(prefill=st.integers(1, 20), decode=st.integers(1, 20))
def test_a_split_replaces_the_preset(name, prefill, decode):
    assert roles(cluster(name, prefill=prefill, decode=decode)) == ["prefill"] * prefill + ["decode"] * decode


def test_mixed_instances_stay_when_asked_for():
    assert roles(cluster("mixed_4", prefill=1, decode=1, mixed=2)) == ["prefill", "mixed", "mixed", "decode"]
    assert roles(cluster("pd_4p4d", prefill=2, decode=0, mixed=1)) == ["prefill", "prefill", "mixed"]


def test_defaults():
    built = cluster()
    one = built.instances[0]
    assert (len(built.instances), built.block_tokens, built.layerwise, built.prefix_cache) == (4, 16, False, True)
    assert (one.max_batch, one.token_budget, one.kv_blocks) == (256, 2048, UNLIMITED_BLOCKS)
    assert (one.nic_bytes_per_s, one.nic_latency_s) == (50e9, 1e-5)


def test_blocks_follow_the_trace_and_the_memory():
    built = cluster("mixed_1", hardware="mooncake_a800", trace_block_tokens=512)
    assert (built.block_tokens, built.instances[0].kv_blocks) == (512, 1278366 // 512)
    built = cluster("mixed_1", block_tokens=128, trace_block_tokens=512, kv_blocks=77)
    assert (built.block_tokens, built.instances[0].kv_blocks) == (128, 77)


def test_overrides_reach_the_hardware():
    built = cluster("pd_1p1d", hardware="h100", model="llama3_70b", tp=4, handoff="layerwise", nic_latency_s=1e-3)
    assert built.gpus == 8 and built.layerwise and built.instances[0].nic_latency_s == 1e-3
    assert built.instances[0].nic_bytes_per_s == pytest.approx(4 * 50e9 * 0.8)
    changed = cluster("pd_1p1d", hardware={"base": "linear", "iteration_s": 0.5})
    assert changed.instances[1].profile.token_table["base_ps"][0] == 5 * 10**11


def test_instances_may_differ():
    built = cluster(
        "mixed_1",
        default_mixed=0,
        instances=[
            {"role": "decode", "count": 2, "max_batch": 7},
            {"role": "prefill", "hardware": "mooncake_a800", "kv_blocks": 9, "nic_bytes_per_s": 1e9},
        ],
    )
    assert roles(built) == ["prefill", "decode", "decode"]
    assert (built.instances[0].kv_blocks, built.instances[0].nic_bytes_per_s, built.gpus) == (9, 1e9, 10)
    assert [one.max_batch for one in built.instances] == [256, 7, 7]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"prefil": 3}, "Did you mean cluster.prefill"),
        ({"prefill": 3}, "needs a decode or mixed instance, but has 3 prefill"),
        ({"decode": 3}, "needs a prefill or mixed instance, but has 3 decode"),
        ({"mixed": 0}, "needs a prefill or mixed instance"),
        ({"mixed": -1}, "cluster.mixed must be a whole number from 0"),
        ({"mixed": 10**6}, "at most 65536 instances"),
        ({"max_batch": 0}, "cluster.max_batch must be a whole number from 1"),
        ({"token_budget": 2.5}, "cluster.token_budget must be a whole number"),
        ({"max_batch": True}, "cluster.max_batch must be a whole number"),
        ({"block_tokens": 48, "trace_block_tokens": 512}, "512 is not a multiple of 48"),
        ({"kv_blocks": 2 * 10**9}, "cluster.kv_blocks must be a whole number"),
        ({"kv_capacity_tokens": 15}, "room for 15 tokens and a block is 16"),
        ({"handoff": "fast"}, "cluster.handoff must be one of whole, layerwise"),
        ({"prefix_cache": "yes"}, "cluster.prefix_cache must be one of true, false"),
        ({"prefix_cache": 1}, "cluster.prefix_cache must be one of true, false"),
        ({"nic_bytes_per_s": 0}, "cluster.nic_bytes_per_s must be finite, above 0"),
        ({"instances": [{"role": "mixed"}], "mixed": 2}, "lists every instance"),
        ({"instances": [{"rol": "mixed"}]}, r"cluster.instances\[0\].rol is not a known key"),
        ({"instances": {"role": "mixed"}}, "must be a list"),
        ({"hardware": "h10"}, "no hardware called 'h10'"),
        ({"hardware": 3}, "hardware must be a name or a mapping"),
        ({"model": "llama"}, "no model called 'llama'"),
        ({"prefill_token_sq_s": 1.0}, "could take"),
    ],
)
def test_refusals(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        cluster("mixed_4", **overrides)


def test_unknown_preset_and_missing_nodes():
    with pytest.raises(ConfigError, match="Did you mean 'mixed_4'"):
        cluster("mixed4")
    with pytest.raises(ConfigError, match="hardware must be a configuration node"):
        build_cluster({"cluster": load("cluster", "mixed_1")})
    with pytest.raises(ConfigError, match="cluster must be a configuration node"):
        build_cluster({})


def test_a_composed_configuration_gives_the_same_cluster():
    folder = conf_folder()
    merged = OmegaConf.create({group: OmegaConf.load(folder / group / f"{name}.yaml") for group, name in
                               (("cluster", "pd_4p4d"), ("hardware", "h100"), ("model", "llama3_8b"))})  # fmt: skip
    merged.cluster.prefill, merged.cluster.decode = 5, 11
    built = build_cluster(OmegaConf.to_container(merged, resolve=True), 16)
    assert roles(built) == ["prefill"] * 5 + ["decode"] * 11 and built.name == "pd_4p4d"
    twin = cluster("pd_4p4d", "h100", "llama3_8b", prefill=5, decode=11)
    assert [one.kv_blocks for one in built.instances] == [one.kv_blocks for one in twin.instances]
