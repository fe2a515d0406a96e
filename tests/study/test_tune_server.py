"""A study on a real PostgreSQL server with two workers at once: every trial once, and as many as asked."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import polars as pl
import pytest

from replay.study.storage import open_storage
from tests.test_sweep import started

TRIALS = 24


def programs() -> Path:
    """Return the folder of PostgreSQL's programs, or skip."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    return found[-1].parent


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a server on a socket of its own; yields its URL."""
    pytest.importorskip("psycopg", reason="pip install 'kvreplay[postgresql]'")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # the server refuses to run as root
    if owner:
        if subprocess.run(["id", "postgres"], capture_output=True).returncode or not shutil.which("runuser"):
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres here")
        shutil.chown(folder, "postgres")
    bins, data = programs(), folder / "data"
    made = [*owner, bins / "initdb", "-D", data, "-A", "trust", "-U", "postgres"]
    subprocess.run(made, check=True, capture_output=True)
    control = [*owner, str(bins / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run([*control, "-o", f"-k {folder} -c listen_addresses='' -c fsync=off", "-l", str(folder / "log"),
                    "start"], check=True, capture_output=True)  # fmt: skip
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def test_two_workers_at_once_share_a_study(server: str, tmp_path: Path) -> None:
    arguments = ["tune", "trace.requests=2000", "cluster.mixed=2", "policy/route=kv_locality", f"study.trials={TRIALS}",
                 "study.objectives=[ttft_s_mean]", "study.pruner=none", f"study.storage='{server}'"]  # fmt: skip
    own = [[f"study.worker={worker}", f"out_dir={tmp_path / str(worker)}"] for worker in (0, 1)]
    workers = [started([*arguments, *one]) for one in own]
    for worker in workers:
        told, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0, told
    study = optuna.load_study(study_name="tune", storage=open_storage(server, tmp_path))
    judged = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(judged) == TRIALS and len({trial.number for trial in study.trials}) == len(study.trials)
    assert all(trial.user_attrs.get("stale") for trial in study.trials if trial not in judged)
    by = [trial.user_attrs["worker"] for trial in judged]
    assert len(set(by)) == 2 and min(by.count(worker) for worker in set(by)) >= 2
    assert len({tuple(trial.params.values()) for trial in judged}) == TRIALS  # nobody drew another's numbers
    for worker in ("0", "1"):
        rows = pl.read_parquet(tmp_path / worker / "trials.parquet").filter(state="complete")
        assert rows.height >= TRIALS - 4  # the other may still have been at its last batch
        values = dict(zip([trial.number for trial in judged], [trial.value for trial in judged], strict=True))
        assert all(values[row["number"]] == row["objective.ttft_s_mean"] for row in rows.to_dicts())


def test_one_command_starts_several_workers(server: str, tmp_path: Path) -> None:
    arguments = ["tune", "-m", "study.worker=0,1", "trace.requests=300", "cluster.mixed=2", "policy/route=kv_locality",
                 "study.name=second", "study.objectives=[ttft_s_mean]", f"study.storage='{server}'",
                 f"out_dir={tmp_path}", "hydra/launcher=joblib"]  # fmt: skip
    told, _ = (process := started([*arguments, "study.trials=12"])).communicate(timeout=300)
    assert process.returncode == 0, told
    study = optuna.load_study(study_name="second", storage=open_storage(server, tmp_path))
    judged = [one for one in study.trials if one.state.is_finished() and not one.user_attrs.get("stale")]
    assert len(judged) == 12 and len({one.user_attrs["worker"] for one in judged}) == 2
    assert {path.parent.name for path in tmp_path.glob("*/trials.parquet")} == {"0", "1"}
    told, _ = (process := started([*arguments, "study.trials=0"])).communicate(timeout=300)
    assert process.returncode == 1 and "study.trials must be a whole number" in told
