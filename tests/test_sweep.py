"""Multiruns on threads, on processes and on Ray: the same digests, and nothing that finished is done twice or lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from omegaconf import DictConfig

from replay import cli
from replay.compositions import Compositions, Job
from replay.errors import WriteError
from replay.jobs import Record, identity
from replay.study.composed import compose_all
from replay.sweep import Sweep

ROOT = Path(__file__).resolve().parents[1]
CLI = [sys.executable, "-c", "import sys; from replay.cli import main; sys.exit(main())"]
SWEPT = ["policy/route=round_robin,least_loaded", "seed=1,2", "trace.requests=300", "cluster.mixed=2"]
LONG = ["seed=1,2,3,4,5,6", "trace.requests=60000", "policy/route=power_of_two", "cluster.prefix_cache=false"]


def digests(folder: Path) -> list[str]:
    """Return the digests of a sweep's runs, by number."""
    count = len(list((folder / "jobs").iterdir()))
    return [(folder / str(number) / "digest.txt").read_text() for number in range(count)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the digests of the sweep, its runs one after another."""
    folder = tmp_path_factory.mktemp("alone")
    assert cli.main(["run", "-m", *SWEPT, f"out_dir={folder}", "hydra/launcher=basic"]) == 0
    return digests(folder)


def test_threads_and_processes_give_the_digests_of_one_run_at_a_time(alone: list[str], tmp_path: Path) -> None:
    assert len(set(alone)) == 4
    for launcher in ("threads", "joblib"):
        folder = tmp_path / launcher
        assert cli.main(["run", "-m", *SWEPT, f"out_dir={folder}", f"hydra/launcher={launcher}"]) == 0
        assert digests(folder) == alone, launcher
        assert pl.read_parquet(folder / "comparison.parquet")["seed"].to_list() == ["1", "2"] * 2


def test_what_finished_is_kept_and_what_changed_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "-m", *SWEPT, f"out_dir={tmp_path}"]
    assert cli.main(command) == 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/requests.parquet")}
    (tmp_path / "2" / "digest.txt").unlink()
    capsys.readouterr()
    assert cli.main(command) == 0
    told = capsys.readouterr().err
    assert [f"run {number}: kept" in told for number in range(4)] == [True, True, False, True]
    changed = {path.parent.name for path, at in written.items() if path.stat().st_mtime_ns != at}
    assert changed == {"2"}
    assert cli.main([*command, "cluster.max_batch=4"]) == 0
    assert "kept" not in capsys.readouterr().err


def test_an_identity_follows_what_a_result_follows_from(tmp_path: Path) -> None:
    trace, plugin = tmp_path / "a.csv", tmp_path / "mine.py"
    trace.write_text("1")
    plugin.write_text("x = 1")
    config = {"seed": 1, "out_dir": "a", "trace": {"path": str(trace)}, "plugins": [str(plugin)]}
    first = identity(config)
    assert identity({**config, "out_dir": "b"}) == first
    assert identity({**config, "seed": 2}) != first
    plugin.write_text("x = 2")
    second = identity(config)
    trace.write_text("12")
    third = identity(config)
    profile, folder = tmp_path / "p.json", tmp_path / "many"
    folder.mkdir()
    for path in (profile, folder / "one.csv"):
        path.write_text("1")
    listed = {"instances": [{"hardware": {"path": str(profile)}}]}
    nested = {**config, "cluster": listed, "trace": {"path": str(folder)}}
    seen = {first, second, third, identity(nested)}
    (folder / "one.csv").write_text("12")
    seen.add(identity(nested))
    profile.write_text("12")
    assert len(seen | {identity(nested)}) == 6
    before = identity(nested, files=False)
    profile.write_text("123")
    assert identity(nested, files=False) == before


def test_a_folder_that_holds_another_run_is_not_taken_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "-m", "seed=1,2", "trace.requests=50", "cluster.mixed=1", f"out_dir={tmp_path}"]
    assert cli.main(command) == 0
    own = digests(tmp_path)
    save = Record.save
    monkeypatch.setattr(Record, "save", lambda *_: None)  # another sweep, killed before it notes what it did
    assert cli.main([*command, "cluster.max_batch=2"]) == 0
    monkeypatch.setattr(Record, "save", save)
    assert [(tmp_path / str(number) / "digest.txt").read_text() for number in (0, 1)] != own
    capsys.readouterr()
    assert cli.main(command) == 0 and "kept" not in capsys.readouterr().err
    assert digests(tmp_path) == own


def test_what_cannot_be_noted_ends_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    begun = []

    def full(self: Sweep, job: Job, config: dict[str, Any]) -> None:
        begun.append(job.number)
        time.sleep(0.02)
        raise WriteError("the disk is full.")

    def unwritten(self: Record, folder: Path) -> None:
        raise WriteError("the disk is full.")

    monkeypatch.setattr(Sweep, "_replay", full)
    monkeypatch.setattr(Record, "save", unwritten)
    seeds = ",".join(map(str, range(40)))
    assert cli.main(["run", "-m", f"seed={seeds}", f"out_dir={tmp_path}", "hydra.launcher.workers=1"]) == 1
    assert "the disk is full" in capsys.readouterr().err and len(begun) < 40


def test_a_sweep_is_composed_as_hydra_composes_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []
    compose = Compositions._compose

    def both(self: Compositions, overrides: list[str], number: int) -> DictConfig:
        whole, own = compose(self, overrides, number), self._loader.load_sweep_config(self._master, list(overrides))
        pairs.append([{key: value for key, value in one.items() if key != "hydra"} for one in (whole, own)])
        return whole

    monkeypatch.setattr(Compositions, "_compose", both)
    swept = ["policy/order=fcfs,priority_by_tier", "cluster.max_batch=8,16", "+slo.tiers.iron={ttft_s: 3.0}",
             "~trace.tiers.gold", "trace=poisson", "policy.route.waiting_weight=2,3",
             "cluster.instances=null,[{role: mixed, count: 2}]"]
    found, _ = compose_all(swept)
    assert len(found) == len(pairs) == 16
    for mine, hydras in pairs:
        assert mine == hydras
    assert len({json.dumps(one.config, sort_keys=True) for one in found}) == 16


def started(arguments: list[str], **options: object) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}
    return subprocess.Popen([*CLI, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]


def wait_for(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many jobs of a sweep are done."""
    for _ in range(1200):
        if len(list((folder / "jobs").glob("*.json"))) >= count or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError("the sweep did nothing for a minute")


def test_a_killed_driver_loses_nothing_that_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "-m", *LONG, f"out_dir={tmp_path}", "hydra.launcher.workers=1"]
    driver = started(command)
    wait_for(tmp_path, 2, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    done = {path.stem for path in (tmp_path / "jobs").glob("*.json")}
    assert 2 <= len(done) < 6
    assert cli.main(command) == 0
    told = capsys.readouterr().err
    assert {number for number in map(str, range(6)) if f"run {number}: kept" in told} == done
    frame = pl.read_parquet(tmp_path / "comparison.parquet")
    assert frame["finished"].to_list() == [60000] * 6 and frame["digest"].n_unique() == 6


def test_ray_gives_the_same_digests_and_survives_the_death_of_a_worker(alone: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'kvreplay[ray]'")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'kvreplay[ray]'")
    ray = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2",
           "+hydra.launcher.ray.init.include_dashboard=false"]
    driver = started(["run", "-m", *LONG, f"out_dir={tmp_path / 'long'}", *ray])
    wait_for(tmp_path / "long", 1, driver)
    workers = subprocess.run(["pgrep", "-f", "ray::_run_job"], capture_output=True, text=True).stdout.split()
    assert len(workers) >= 1
    os.kill(int(workers[0]), signal.SIGKILL)
    told, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, told
    frame = pl.read_parquet(tmp_path / "long" / "comparison.parquet")
    assert frame["finished"].to_list() == [60000] * 6 and frame["digest"].n_unique() == 6
    driver = started(["run", "-m", *SWEPT, f"out_dir={tmp_path / 'short'}", *ray])
    told, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, told
    assert digests(tmp_path / "short") == alone
