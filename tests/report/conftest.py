"""Runs that the tests of reports share, replayed once."""

from pathlib import Path

import pytest

from replay import cli

TIGHT = ["cluster=mixed_4", "cluster.kv_blocks=500", "policy/admit=queue_limit", "policy.admit.limit=6"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """Return a folder with the run directories `split`, `tight` (preemptions and refusals) and the multirun `many`."""
    folder = tmp_path_factory.mktemp("runs")
    few = ["trace.requests=250", "trace.arrivals.rate_per_s=8", "seed=1"]
    assert cli.main(["run", *few, "cluster=pd_1p1d", "events=true", f"out_dir={folder / 'split'}"]) == 0
    assert cli.main(["run", *few, *TIGHT, "events=true", f"out_dir={folder / 'tight'}"]) == 0
    swept = ["policy/route=least_loaded,kv_locality", "seed=1", f"out_dir={folder / 'many'}"]
    assert cli.main(["run", "-m", *few[:2], *swept]) == 0
    return folder
