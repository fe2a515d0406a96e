"""The command from outside: exit codes, what it prints, what it writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from replay import cli, driving
from replay.errors import PolicyError
from replay.result import Result
from replay.session import keep_trie, trie_of
from tests.handmade import FakeSession

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["trace.requests=40"]


def engine(session):
    """Return a stand-in for the module replay.session whose sessions are of another class."""
    return SimpleNamespace(Session=session, keep_trie=keep_trie, trie_of=trie_of)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Put the hand-made session in the engine's place, and an empty folder in that of the working directory."""
    monkeypatch.setitem(sys.modules, "replay.session", engine(FakeSession))
    monkeypatch.setattr(driving, "ready", lambda: None)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_run_prints_a_table_and_writes_the_run_directory(fake, tmp_path, capsys):
    assert cli.main(["run", *SMALL, "out_dir=mine", "seed=3"]) == 0
    told = capsys.readouterr()
    for word in ("TTFT s", "gold", "silver", "bronze", "40 requests: 40 finished", "results in mine"):
        assert word in told.out
    assert told.err == ""
    result = Result.load(tmp_path / "mine")
    assert result.requests.height == 40 and result.summary["finished"] == 40
    assert result.config["seed"] == 3 and result.config["trace"]["requests"] == 40
    assert result.config["policy"]["route"]["name"] == "least_loaded" and result.config["out_dir"] == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_default_run_directories_are_apart(fake, tmp_path):
    assert cli.main(["run", *SMALL]) == cli.main(["run", *SMALL]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_multirun_ends_with_one_comparison(fake, tmp_path, capsys):
    swept = ["policy/route=round_robin,least_loaded", "seed=1,2,3"]
    assert cli.main(["run", "-m", *swept, "out_dir=sweep", "cluster=pd_1p1d", *SMALL]) == 0
    told = capsys.readouterr()
    assert told.out.count("TTFT s") == 1 and "round_robin" in told.out and "comparison.parquet" in told.out
    frame = pl.read_parquet(tmp_path / "sweep" / "comparison.parquet")
    assert frame.columns[:3] == ["run", "policy/route", "seed"] and frame.height == 6
    assert frame["seed"].to_list() == ["1", "2", "3"] * 2 and frame["error"].null_count() == 6
    for row in frame.to_dicts():
        saved = json.loads((tmp_path / "sweep" / str(row["run"]) / "summary.json").read_text())
        assert saved.items() <= row.items()
        assert Result.load(tmp_path / row["folder"]).config["out_dir"] == row["folder"]
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {*"012345", "jobs", "comparison.parquet"}
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


def test_a_failed_run_is_a_row_and_the_others_go_on(fake, tmp_path, capsys):
    assert cli.main(["run", "-m", "cluster.kv_blocks=0,5000", "events=true,false", "out_dir=sweep", *SMALL]) == 1
    frame = pl.read_parquet(tmp_path / "sweep" / "comparison.parquet")
    assert frame["finished"].to_list() == [None, None, 40, 40]
    assert "kv_blocks must be a whole number" in frame["error"][0] and frame["error"][2] is None
    assert frame["config.events"].to_list() == ["true", "false"] * 2
    assert "run 0 failed" in capsys.readouterr().out and not (tmp_path / "sweep" / "0").exists()


def test_a_sweep_of_which_every_run_fails_still_compares(fake, tmp_path):
    assert cli.main(["run", "-m", "cluster.kv_blocks=0,-1", "out_dir=sweep", *SMALL]) == 1
    assert pl.read_parquet(tmp_path / "sweep" / "comparison.parquet")["error"].null_count() == 0


def test_runs_of_a_sweep_share_the_loaded_trace(fake, tmp_path):
    import traces.synthetic

    loads = []
    load = traces.synthetic.from_config
    fake.setattr(traces.synthetic, "from_config", lambda *given: loads.append(given) or load(*given))
    assert cli.main(["run", "-m", "policy/route=round_robin,random,least_loaded", *SMALL]) == 0
    assert len(loads) == 1


class Interrupted(FakeSession):
    """Presses Ctrl-C in its first slice."""

    def advance(self, max_events: int) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        self.state.jobs["status"][20:] = 2
        return super().advance(max_events)


def test_ctrl_c_keeps_what_was_replayed(fake, tmp_path, capsys):
    fake.setitem(sys.modules, "replay.session", engine(Interrupted))
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(["run", *SMALL, "out_dir=mine"]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    told = capsys.readouterr()
    assert "interrupted: what was replayed is kept" in told.err and "20 unfinished" in told.out
    assert Result.load(tmp_path / "mine").summary["unfinished"] == 20


class InterruptedLater(FakeSession):
    """Presses Ctrl-C in the session of seed 2."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.seed = options["seed"]

    def advance(self, max_events: int) -> bool:
        if self.seed == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # the main thread looks ten times a second
            super().advance(max_events)
            return False
        return super().advance(max_events)


def test_ctrl_c_stops_a_sweep_and_compares_what_ran(fake, tmp_path, capsys):
    fake.setitem(sys.modules, "replay.session", engine(InterruptedLater))
    command = ["run", "-m", "seed=1,2,3", "out_dir=sweep", "hydra.launcher.workers=1", *SMALL]
    assert cli.main(command) == 130
    told = capsys.readouterr().err
    assert "interrupted: finished runs are kept. The same command with out_dir=sweep does the rest." in told
    assert pl.read_parquet(tmp_path / "sweep" / "comparison.parquet").height == 1
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"0", "jobs", "comparison.parquet"}
    fake.setitem(sys.modules, "replay.session", engine(FakeSession))
    assert cli.main(command) == 0
    assert "run 0: kept" in capsys.readouterr().err
    assert pl.read_parquet(tmp_path / "sweep" / "comparison.parquet")["seed"].to_list() == ["1", "2", "3"]


class Broken(FakeSession):
    """Fails in its second slice."""

    error: Exception = PolicyError("route policy 'mine' returned instance 99.")

    def advance(self, max_events: int) -> bool:
        if super().advance(max_events) or self._advanced == 2:
            raise self.error
        return False


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Broken.error, "PolicyError: route policy 'mine' returned instance 99."),
        (MemoryError(), "memory of this machine is not enough"),
        (RuntimeError("odd\nthing"), "unexpected RuntimeError: odd thing"),
    ],
)
def test_an_error_during_the_replay_is_one_sentence_and_leaves_no_folder(fake, tmp_path, capsys, error, words):
    fake.setattr(Broken, "error", error)
    fake.setitem(sys.modules, "replay.session", engine(Broken))
    assert cli.main(["run", *SMALL]) == 1
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and list(tmp_path.iterdir()) == []
    fake.setenv("KVREPLAY_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["run", *SMALL])


def test_a_plug_in_policy_can_be_chosen_in_the_same_command(fake, tmp_path):
    (tmp_path / "my_router.py").write_text(
        "from replay.policy import Span, policy\n\n\n"
        '@policy("route")\n'
        "def cli_test_router(request, instances, now_ps, weight: Span(0.0, 8.0) = 1.0):\n"
        '    """Send everything to the first."""\n'
        "    return 0\n"
    )
    arguments = ["plugins=[my_router.py]", "policy/route=cli_test_router", "policy.route.weight=2", "out_dir=mine"]
    try:
        assert cli.main(["run", *SMALL, *arguments]) == 0
    finally:
        from replay.policy import registry

        registry()["route"].pop("cli_test_router", None)
    assert Result.load(tmp_path / "mine").config["policy"]["route"] == {"name": "cli_test_router", "weight": 2}


def test_a_folder_that_cannot_be_written_is_refused_before_the_replay(fake, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    fake.setattr(FakeSession, "advance", lambda *given: pytest.fail("replayed"))
    assert cli.main(["run", *SMALL, "out_dir=taken"]) == 1
    assert "cannot be written to 'taken'" in capsys.readouterr().err


def test_verbs_help_and_version(capsys):
    assert cli.main(["--help"]) == 0 and cli.main(["--version"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in cli.VERBS) and "kvreplay 0.1.0" in out
    assert cli.main([]) == 2 and cli.main(["rnu"]) == 2 and cli.main(["frobnicate"]) == 2
    err = capsys.readouterr().err
    verbs = ", ".join(cli.VERBS)
    assert f"there is no verb 'rnu'; the verbs are {verbs}. Did you mean 'run'?" in err


def test_policies_lists_every_policy_with_its_ranges(capsys):
    assert cli.main(["policies"]) == 0
    out = capsys.readouterr().out
    from replay.policy import registry

    for policies in registry().values():
        for name, policy in policies.items():
            assert name in out and all(tunable in out for tunable in policy.tunables)
    assert cli.main(["policies", "rout"]) == 1 and "Did you mean 'route'?" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--cfg=job", "--help"])
def test_hydra_flags_show_the_configuration_and_run_nothing(fake, flag, capsys, tmp_path):
    assert cli.main(["run", flag, "cluster=pd_4p4d"]) == 0
    out = capsys.readouterr().out
    assert "pd_4p4d" in out and "least_loaded" in out and list(tmp_path.iterdir()) == []


def test_python_m_replay_is_run_on_the_real_engine(tmp_path):
    command = [sys.executable, "-m", "replay", "trace.requests=60", "cluster=pd_1p1d", "events=true", "out_dir=mine"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "60 requests: 60 finished" in done.stdout and "…" not in done.stdout
    result = Result.load(tmp_path / "mine")
    assert result.events.num_rows > 4 * 60 and result.summary["gold.requests"] > 0
    kinds = result.events.column("kind").to_pylist()
    assert kinds.count("arrive") == kinds.count("finish") == 60
