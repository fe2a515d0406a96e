"""Every configuration file composes and builds, alone and in pairs; what cannot run is refused in one sentence."""

import re
from functools import cache
from itertools import product
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from replay.cluster import Cluster, build_cluster, cluster
from replay.configuration import offer_policies, settings
from replay.engine import schema
from replay.errors import ConfigError, TraceError
from replay.hardware.conf import conf_folder, load, names
from replay.hardware.profile import Profile
from replay.policy import SLOTS, registry
from replay.session import Session
from replay.slo import build_slo
from replay.study.trials import goals
from replay.study.tune import planned
from traces.synthetic import from_config

GROUPS = ("cluster", "experiment", "fabric", "failures", "hardware", "kv", "model", "predictor", "prices", "scale",
          "slo", "speculation", "stages", "study", "trace")
MEASURED = {"measured"}  # needs a profile file: tests/hardware/test_file.py
NEEDS_A_FILE = {"recorded": "trace.path", "servegen": "servegen_path"}
offer_policies([])


def composed(*overrides: str) -> dict[str, Any]:
    """Compose the main configuration as the command does."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        node = compose("config", overrides=list(overrides))
    container = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def test_every_file_of_conf_belongs_to_a_group() -> None:
    files = {str(path.relative_to(conf_folder())) for path in conf_folder().rglob("*.yaml")}
    assert files == {"config.yaml"} | {f"{group}/{name}.yaml" for group in GROUPS for name in names(group)}
    assert {"mixed_1", "mixed_4", "mixed_16", "pd_1p1d", "pd_4p4d", "pd_8p8d"} <= set(names("cluster"))
    assert {"poisson", "shared_prefix", "sessions", "training"} <= set(names("trace"))
    assert {"none", "dram", "dram_ssd", "dram_store", "private", "disk_cache", "levels"} <= set(names("kv"))


@pytest.mark.parametrize("name", names("experiment"))
def test_an_experiment_composes_and_builds(name: str) -> None:
    config = composed(f"+experiment={name}", "trace.requests=20", "cluster=mixed_1")
    where = build_cluster(config)
    assert where.instances[0].max_batch == config["cluster"]["max_batch"] and where.prefix_cache
    assert config["policy"]["batch"]["name"] in ("chunked", "prefill_first")


@pytest.mark.parametrize("group", ["scale", "failures"])
def test_the_life_of_instances_composes_and_builds(group: str) -> None:
    for name in names(group):
        where = build_cluster(composed(f"{group}={name}", "cluster=mixed_4"))
        assert (where.life is None) == (name == "none")


@pytest.mark.parametrize("name", names("study"))
def test_a_study_composes_and_is_planned(name: str) -> None:
    plan = planned(composed(f"+study={name}")["study"])
    aims = goals(plan)
    assert plan["trials"] >= 1 and len(aims.objectives) == len(aims.directions) >= 1


@pytest.mark.parametrize("name", names("trace"))
def test_a_trace_composes_and_is_made(name: str) -> None:
    node = composed(f"trace={name}", "trace.requests=40")["trace"]
    if name in NEEDS_A_FILE:
        with pytest.raises(TraceError, match=NEEDS_A_FILE[name]):
            from_config(node, 0)
        return
    trace = from_config(node, 0)
    assert len(trace) == 40 and trace.digest(True) == from_config(node, 0).digest(True)
    assert "tier" in trace and set(trace.column("tier")) <= {"gold", "silver", "bronze"}
    assert trace.digest(True) != from_config(node, 1).digest(True) or name == "training"


@pytest.mark.parametrize("name", names("cluster"))
def test_a_cluster_builds_a_session(name: str) -> None:
    config = composed(f"cluster={name}", "trace.requests=20")
    trace = from_config(config["trace"], 0)
    found = build_cluster(config, trace.block_tokens)
    session = Session(trace, found, settings(config).policies, slo=build_slo(config["slo"]))
    roles = [instance.role for instance in found.instances]
    assert roles == sorted(roles, key=schema.ROLES.index) and len(session.state.views) == len(roles)
    digits = [int(digit) for digit in name.removeprefix("mixed_").replace("pd_", "").replace("p", " ").replace(
        "d", " ").split() if digit.isdigit()]  # fmt: skip
    assert sum(digits) == len(roles) or name == "pd_hetero"


@pytest.mark.parametrize("name", names("kv"))
def test_a_hierarchy_builds_a_session(name: str) -> None:
    """Each has the stores that its first line promises, and rows in the session; all but one are switched on."""
    config = composed(f"kv={name}", "trace.requests=20", "cluster=pd_1p1d")
    trace = from_config(config["trace"], 0)
    found = build_cluster(config, trace.block_tokens)
    assert (found.kv is None) == (name == "none") and config["kv"]["name"] == name
    session = Session(trace, found, settings(config).policies, slo=build_slo(config["slo"]))
    stores = found.kv.stores if found.kv is not None else ()
    assert len(session.state.views) == len(found.instances) + len(stores)
    assert session.state.views["total_blocks"][len(found.instances) :].tolist() == [one.blocks for one in stores]


@pytest.mark.parametrize("name", names("fabric"))
def test_a_fabric_builds_a_session(name: str) -> None:
    """Each has a row in the session for every link; all but one are switched on."""
    config = composed(f"fabric={name}", "trace.requests=20", "cluster=pd_1p1d")
    trace = from_config(config["trace"], 0)
    found = build_cluster(config, trace.block_tokens)
    assert (found.fabric is None) == (name == "none") and config["fabric"]["name"] == name
    session = Session(trace, found, settings(config).policies, slo=build_slo(config["slo"]))
    links = found.fabric.links if found.fabric is not None else ()
    assert len(session.state.wires.links) == max(1, len(links))


@pytest.mark.parametrize("name", names("stages"))
def test_stages_build_a_session(name: str) -> None:
    """Each has a row in the session for every stage; all but one are switched on."""
    config = composed(f"stages={name}", "trace=multimodal", "trace.requests=20", "cluster=pd_1p1d")
    trace = from_config(config["trace"], 0)
    found = build_cluster(config, trace.block_tokens)
    assert (found.stages == ()) == (name == "none") and config["stages"]["name"] == name
    session = Session(trace, found, settings(config).policies, slo=build_slo(config["slo"]))
    assert len(session.state.pipeline.stations) == max(1, len(found.stages)) == max(1, len(config["stages"]) - 1)


@pytest.mark.parametrize("name", names("speculation"))
def test_speculation_builds_a_session(name: str) -> None:
    """Each drafts as many tokens as its file says; all but one are switched on."""
    config = composed(f"speculation={name}", "trace.requests=20", "cluster=pd_1p1d")
    trace = from_config(config["trace"], 0)
    found = build_cluster(config, trace.block_tokens)
    assert (found.speculation is None) == (name == "none") and config["speculation"]["name"] == name
    session = Session(trace, found, settings(config).policies, slo=build_slo(config["slo"]))
    assert int(session.state.cluster["draft_tokens"][0]) == config["speculation"]["draft_tokens"]


@cache
def built(hardware: str, model: str) -> Cluster | str:
    """Build one instance of a pair of files; returns the sentence if it is refused."""
    try:
        return cluster("mixed_1", hardware, model)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("hardware, model", list(product(sorted({*names("hardware")} - MEASURED), names("model"))))
def test_hardware_and_model_build_or_say_why_not(hardware: str, model: str) -> None:
    """Every pair: a profile with room for a prompt, or one sentence with the arithmetic and a remedy that works."""
    found = built(hardware, model)
    if isinstance(found, str):
        assert found.count("\n") == 0 and "GB" in found and model in found
        remedy = re.findall(r"hardware\.(tp|ep)=(\d+)", found)
        if not remedy:
            assert "a larger GPU" in found
            return
        found = cluster("mixed_1", {"base": hardware, **{key: int(value) for key, value in remedy}}, model)
    check_profile(found.instances[0].profile)
    assert found.instances[0].kv_blocks * found.block_tokens >= 1024


def check_profile(profile: Profile) -> None:
    """Check what every profile promises the kernel: positive integer costs, tables that start at zero and rise."""
    for table, least in ((profile.token_table, 1), (profile.kv_table, 0)):
        assert table["start"][0] == 0 and (table["start"][1:] > table["start"][:-1]).all()
        assert (table["base_ps"] >= least).all() and (table["slope_ps"] >= 0).all()
        assert (table["base_ps"][1:] >= table["base_ps"][:-1]).all()
    assert profile.prefill_token_ps >= 0 and profile.prefill_token_sq_fs >= 0 and profile.decode_request_ps >= 0
    assert profile.nic_bytes_per_s > 0 and profile.kv_token_bytes > 0 and profile.gpus >= 1 and profile.provenance


@pytest.mark.parametrize("group", ["hardware", "model"])
def test_hardware_and_models_compose(group: str) -> None:
    """What Hydra composes is what Python reads."""
    for name in names(group):
        assert composed(f"{group}={name}")[group] == load(group, name)


def test_each_hardware_runs_a_model_and_each_model_a_hardware() -> None:
    """No file is there for nothing."""
    fits = {pair for pair in product(names("hardware"), names("model")) if isinstance(built(*pair), Cluster)}
    assert {hardware for hardware, _ in fits} == set(names("hardware")) - MEASURED
    giants = {"moe_10t", "moe_100t", "dense_1t"}  # need more GPUs than one node: hardware.tp, hardware.ep
    rooflines = {model for hardware, model in fits if load("hardware", hardware)["kind"] == "roofline"}
    assert rooflines | giants == set(names("model"))


@pytest.mark.parametrize("name", names("slo"))
def test_an_slo_builds_and_takes_the_default_trace(name: str) -> None:
    config = composed(f"slo={name}", "trace.requests=20")
    slo = build_slo(config["slo"])
    codes = slo.codes(from_config(config["trace"], 0))
    assert len(codes) == 20 and set(codes.tolist()) <= set(range(len(slo.names)))


@pytest.mark.parametrize("slot", SLOTS)
def test_every_policy_is_a_node_with_its_defaults(slot: str) -> None:
    for name, policy in registry()[slot].items():
        assert composed(f"policy/{slot}={name}")["policy"][slot] == {"name": name, **policy.defaults}


def test_counts_replace_a_preset() -> None:
    """The shapes that others build on: any number of prefill and decode instances."""
    found = build_cluster(composed("cluster.prefill=5", "cluster.decode=11"))
    assert [instance.role for instance in found.instances] == ["prefill"] * 5 + ["decode"] * 11


def test_the_keys_that_others_build_on() -> None:
    config = composed()
    assert {"path", "format", "requests"} <= set(config["trace"])
    assert {"prefill", "decode", "max_batch", "token_budget", "block_tokens", "kv_blocks"} <= set(config["cluster"])
    linear = composed("hardware=linear")["hardware"]
    assert {"iteration_s", "prefill_token_s", "prefill_token_sq_s", "decode_request_s", "kv_token_s"} <= set(linear)
    assert {"seed", "out_dir", "leap", "events", "plugins", "slo", "kv"} <= set(config)
    assert {"dram", "dram_nodes", "dram_gib", "disk", "disk_gib", "media", "index", "changes"} <= set(config["kv"])
    assert set(config["policy"]) == set(SLOTS)
