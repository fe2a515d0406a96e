"""What the command line's configuration refuses, and with which sentence; nothing is left behind."""

from pathlib import Path

import pytest

from replay import cli, configuration
from replay.errors import ConfigError
from replay.hardware.conf import conf_folder
from replay.policy import registry

BAD = [
    (["policy.route.wating_weight=2"], "Did you mean 'policy.route.waiting_weight'?"),
    (["policy.route.foo=2"], "no configuration key 'policy.route.foo'"),
    (["cluster.prefil=3"], "Did you mean 'cluster.prefill'?"),
    (["polcy/route=x"], "Did you mean 'policy/route'?"),
    (["policy/route=kv_localty"], "no policy/route called 'kv_localty'. Did you mean 'kv_locality'?"),
    (["cluster=mixed_5"], "no cluster called 'mixed_5'. Did you mean 'mixed_4'?"),
    (["cluster=nothing_like_it"], "Known: mixed_1"),
    (["trace.requests=abc"], "'abc'"),
    (["trace.requests=-4"], "-4"),
    (["trace.path=nope.csv"], "nope.csv"),
    (["seed=abc"], "seed must be a whole number with 0 <= seed < 2^63, but is 'abc'"),
    (["seed=-1"], "but is -1"),
    (["seed=1.5"], "but is 1.5"),
    (["leap=2"], "leap must be true or false, but is 2"),
    (["events=maybe"], "events must be true or false, but is 'maybe'"),
    (["out_dir=7"], "out_dir must be the path of a folder, but is 7"),
    (["out_dir=${nowhere}"], "configuration key 'out_dir' cannot be resolved"),
    (["+foo=1"], "no configuration key 'foo'"),
    (["+policy.rout.name=x"], "no policy slot 'rout'. Did you mean 'route'?"),
    (["slo.tiers.gold.ttft_s=fast"], "slo.tiers.gold.ttft_s must be a positive number, but is 'fast'"),
    (["+slo.tiers.gold.tfft_s=1"], "Did you mean 'ttft_s'?"),
    (["policy/route=kv_locality", "policy.route.balancing_threshold=1e9"], "1.0 <= value <= 64.0"),
    (["cluster.kv_blocks=0"], "cluster.kv_blocks must be a whole number"),
    (["plugins=[nope.py]"], "nope.py"),
    (["plugins=7"], "plugins must be a list of Python files, but is 7"),
    (["trace.tiers={vip: 1.0}"], "no configuration key 'trace.tiers.vip' yet. Add it with +trace.tiers.vip="),
    (["+trace.tiers.vip=0.5", "trace.tiers.bronze=null"], "has tier 'vip' and the tiers are gold, silver, bronze."),
    (["seed=1,2"], "'seed=1,2' lists several values. Add -m"),
    (["seed=[1"], "the argument 'seed=[1' cannot be read as key=value"),
    (["trace.path=a=b"], "the argument 'trace.path=a=b' cannot be read"),
    (["-m", "seed=1,2", "policy.route.foo=2"], "no configuration key 'policy.route.foo'"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_configuration_gives_one_sentence_and_no_folder(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *arguments]) == 1
    told = capsys.readouterr()
    assert words in told.err and told.err.count("\n") == 1 and "Traceback" not in told.err
    assert told.out == "" and list(tmp_path.iterdir()) == []


def test_every_default_names_an_existing_choice():
    configuration.offer_policies([])
    keys = configuration.known_keys([])
    assert {"seed", "out_dir", "leap", "events", "plugins", "trace.path", "trace.format", "trace.requests"} <= set(keys)
    assert {f"policy.{slot}.name" for slot in registry()} <= set(keys)
    assert {"cluster.prefill", "cluster.decode", "cluster.max_batch", "cluster.kv_blocks"} <= set(keys)


def test_every_policy_is_a_choice_with_its_defaults():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    configuration.offer_policies([])
    for slot, policies in registry().items():
        for name, policy in policies.items():
            with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
                node = compose("config", overrides=[f"policy/{slot}={name}"])
            assert OmegaConf.to_container(node.policy[slot]) == {"name": name, **policy.defaults}


@pytest.mark.parametrize(
    ("arguments", "paths"),
    [
        ([], []),
        (["seed=1", "plugins=[a.py,b/c.py]"], ["a.py", "b/c.py"]),
        (["plugins=a.py"], ["a.py"]),
        (["plugins=[a.py],[b.py]"], ["a.py", "b.py"]),
        (["plugins=['with space.py']", "trace.path=plugins.csv"], ["with space.py"]),
    ],
)
def test_plugins_are_read_before_composition(arguments, paths):
    assert configuration.plugin_paths(arguments) == paths


def test_settings_refuses_a_node_replaced_by_a_value():
    good = {"trace": {}, "policy": {}, "seed": 0, "out_dir": "x", "leap": True, "events": False, "gaps": False}
    assert configuration.settings(good).out_dir == "x"
    for node in ("trace", "policy"):
        with pytest.raises(ConfigError, match=f"{node} must be a configuration node, but is 3"):
            configuration.settings({**good, node: 3})


def test_no_configuration_file_has_a_tab_or_an_absolute_path():
    for path in conf_folder().rglob("*.yaml"):
        text = Path(path).read_text(encoding="utf-8")
        assert "\t" not in text and str(Path.home()) not in text, path
