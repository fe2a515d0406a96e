"""kvreplay profile build: what it writes and prints, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from replay import cli
from replay.fidelity import installed
from replay.hardware import build
from replay.hardware.conf import load as node_of
from tests.fidelity.kernel_folder import GPU, VERSION, make
from tests.refusals import refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("kernels"))


def test_build_writes_a_profile_that_a_run_takes_and_prints_its_iterations(
    made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["profile", "build", "--from", str(made), f"gpu={GPU}", "model=llama3_8b", "tp=2", "price_per_gpu_hour=2"]
    assert cli.main([*given, "out=mine/profile.json"]) == 0
    told = capsys.readouterr().out
    assert "prefill 2,048" in told and "decode 128 x 4,096" in told and "roofline ms" in told and "(median)" in told
    profile = build({"hardware": {**node_of("hardware", "measured"), "path": "mine/profile.json"}})
    assert profile.gpus == 2 and profile.price_per_hour == 4.0 and profile.kv_token_bytes == 131072
    # 80 GiB x 0.9 less 2 GB and half of 16.06 GB, over half of a token's bytes.
    assert profile.kv_capacity_tokens == pytest.approx((0.9 * 85899345920 - 2e9 - 8.03e9) * 2 / 131072, rel=1e-3)
    assert cli.main(given) == 0
    content = json.loads((tmp_path / f"2x{GPU}_llama3_8b.json").read_text())
    assert content["format"] == "kvreplay profile 1" and VERSION in content["provenance"]


@pytest.mark.parametrize(("changes", "words"), [
    (["gpu=h200_sxm"], "gpu must be one of h100_sxm, but is 'h200_sxm'"),
    (["model=llama3_9b"], "Did you mean 'llama3_8b'?"),
    (["model=llama3_70b", "tp=2"], "num_heads 32, num_key_value_heads 4"),
    (["tp=3"], "tp must divide the 32 heads"),
    (["tp=0"], "tp must be a whole number from 1"),
    (["tp=two"], "tp must be a number, but is 'two'"),
    (["ep=2"], "ep must be 1 for the dense model"),
    (["dtype=fp4"], "GEMMs must have been measured in nvfp4"),
    (["dtype=int3"], "dtype must be one of bf16, fp8, fp4"),
    (["backend=sglang"], "only those of vllm"),
    (["gpus=1"], "profile build has no key 'gpus'. Did you mean 'gpu'?"),
    (["memory_share=0.1"], "model llama3_8b needs 16.1 GB of weights"),
    (["tp"], "profile build takes from=..., out=..., gpu=..."),
    (["from=nowhere"], "'nowhere' is no folder"),
])  # fmt: skip
def test_build_refuses_with_one_sentence(
    changes: list[str], words: str, made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["profile", "build", f"from={made}", f"gpu={GPU}", "model=llama3_8b", *changes]
    refused(given, words, tmp_path, capsys)


def test_build_refuses_a_folder_that_is_incomplete(
    made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(made, folder)
    monkeypatch.chdir(tmp_path)
    given = ["profile", "build", "from=broken", f"gpu={GPU}", "model=llama3_8b"]
    table = folder / "data" / GPU / "attention" / "vllm" / VERSION / "generation_attention_perf.parquet"
    frame = pl.read_parquet(table)
    frame.with_columns(latency=pl.col("latency") - 1.0).write_parquet(table)
    refused(given, "must have positive latencies", tmp_path, capsys)
    table.unlink()
    refused(given, "there must be a table generation_attention_perf of h100_sxm", tmp_path, capsys)
    (folder / "systems" / f"{GPU}.yaml").write_text("gpu: {mem_bw: 1}\nnode: {}\n")
    frame.write_parquet(table)
    refused(given, "must have the numbers gpu.mem_capacity", tmp_path, capsys)


def test_the_package_of_tables_is_never_needed(
    made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(installed, "PACKAGE", "no_such_package")
    refused(["profile", "build", "from=aiconfigurator", f"gpu={GPU}"], "which is not installed", tmp_path, capsys)
    package = tmp_path / "tables_of_kernels"
    shutil.copytree(made / "data", package / "systems" / "data")
    shutil.copy(made / "systems" / f"{GPU}.yaml", package / "systems")
    (package / "__init__.py").write_text("raise SystemExit('no code of the package may run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(installed, "PACKAGE", package.name)
    assert cli.main(["profile", "build", "from=aiconfigurator", f"gpu={GPU}", "model=llama3_8b", "out=a.json"]) == 0
    assert (tmp_path / "a.json").exists() and "roofline" in capsys.readouterr().out
