"""Kernels are asked for by a model's shape, and written as tables that others can read; no GPU is needed here."""

import json
from pathlib import Path

import polars as pl
import pytest

from replay import cli
from replay.fidelity import measure
from replay.fidelity.kernel_grid import TOKENS, Product, grid, weights
from replay.fidelity.kernel_timer import Device
from replay.hardware.conf import load
from replay.hardware.model import model_of
from replay.write import WriteError
from tests.recorded import recorded
from tests.refusals import contents, refused

LLAMA = model_of(load("model", "llama3_8b"))
TABLES = {  # ours -> one that others measured
    "data/l40s/gemm/torch/2.5.1/gemm_perf": "h100_sxm/gemm/vllm/0.24.0/gemm_perf",
    "data/l40s/attention/torch/2.5.1/context_attention_perf": "h100_sxm/attention/vllm/0.24.0/context_attention_perf",
    "data/l40s/attention/torch/2.5.1/generation_attention_perf":
        "h100_sxm/attention/vllm/0.24.0/generation_attention_perf",
    "data/l40s/comm/nccl/2.21.5/nccl_perf": "h100_sxm/comm/nccl/2.29.2/nccl_perf",
}  # fmt: skip


class Counted:
    """Answers what arithmetic and bytes would take at 1e14 flops and 1e12 bytes a second."""

    def __init__(self, gpus: int = 2) -> None:
        self.device = Device("NVIDIA L40S", gpus, 48e9, "550.54", "2.5.1", "12.4", "2.21.5")
        self.asked: list[object] = []

    def gemm_s(self, product: Product) -> float:
        self.asked.append(product)
        return max(2e-14 * product.m * product.n * product.k, 2e-12 * product.n * product.k)

    def prompt_s(self, attention) -> float:
        return 1e-6 + 2e-14 * attention.batch * attention.heads * attention.tokens**2 * attention.head_dim

    def decode_s(self, attention) -> float:
        return 1e-6 + 4e-12 * attention.batch * attention.kv_heads * attention.tokens * attention.head_dim

    def copy_s(self, kind: str, size_bytes: int) -> float:
        return size_bytes / {"h2d": 25e9, "d2h": 20e9, "d2d": 400e9}[kind]

    def collective_s(self, name: str, gpus: int, numbers: int) -> float:
        return 1e-5 + 2e-10 * numbers


def test_the_matrices_are_those_of_the_model():
    """Queries, keys and values; output; gate and up; down; head: with all layers, what the model weighs."""
    assert weights(LLAMA, 1) == [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]
    whole = LLAMA.layers * sum(n * k for n, k in weights(LLAMA, 1)[:-1])
    assert whole == LLAMA.common_weights and weights(LLAMA, 8)[0] == (512 + 2 * 128, 4096)


def test_the_grid_fits_the_memory():
    small, large = (grid(LLAMA, (1,), memory) for memory in (8e9, 80e9))
    assert {one.m for one in small.products} == set(TOKENS) and len(small.products) == 5 * len(TOKENS)
    assert len(small.decodes) < len(large.decodes)
    assert max(4 * one.batch * one.tokens * one.kv_heads * one.head_dim for one in large.decodes) <= 8e9
    assert {one.heads for one in grid(LLAMA, (1, 8), 80e9).prompts} == {32, 4}


def test_the_tables_have_the_layout_of_others(tmp_path, capsys):
    timer = Counted()
    assert measure.main([f"out={tmp_path / 'mine'}", "tp=1,2"], timer) == 0
    assert "backend=torch" in capsys.readouterr().out and len(set(timer.asked)) == len(timer.asked)
    frame = pl.read_parquet(tmp_path / "mine/data/l40s/gemm/torch/2.5.1/gemm_perf.parquet")
    row = frame.filter(m=8192, n=6144, k=4096).to_dicts()[0]
    assert row["latency"] == pytest.approx(1e3 * 2e-14 * 8192 * 6144 * 4096) and row["gemm_dtype"] == "bfloat16"
    decode = pl.read_parquet(tmp_path / "mine/data/l40s/attention/torch/2.5.1/generation_attention_perf.parquet")
    assert decode.filter(step=1023, batch_size=8)["latency"].n_unique() == 2 and set(decode["isl"]) == {1}
    said = json.loads((tmp_path / "mine/provenance.json").read_text())
    assert said["gpu"] == "NVIDIA L40S" and said["driver"] == "550.54" and said["tp"] == [1, 2] and said["date"]
    system = (tmp_path / "mine/systems/l40s.yaml").read_text()
    assert "mem_bw: 800000000000" in system and "bfloat16_tc_flops: 100000000000000" in system
    assert (tmp_path / "mine/data/l40s/comm/torch/2.5.1/custom_allreduce_perf.parquet").exists()


@pytest.mark.parametrize("ours", TABLES)
def test_columns_are_those_of_published_tables(ours, tmp_path):
    theirs = pl.read_parquet_schema(recorded(f"measured/aiconfigurator/data/{TABLES[ours]}.parquet"))
    measure.main([f"out={tmp_path}"], Counted())
    assert pl.read_parquet_schema(tmp_path / f"{ours}.parquet") == theirs


def test_one_gpu_has_no_collectives(tmp_path):
    measure.main([f"out={tmp_path}"], Counted(gpus=1))
    assert {path.name for path in tmp_path.rglob("*.parquet")} == {
        "gemm_perf.parquet", "context_attention_perf.parquet", "generation_attention_perf.parquet", "copy_perf.parquet"}


@pytest.mark.parametrize(("name", "folder"), [
    ("NVIDIA H100 80GB HBM3", "h100_sxm"), ("NVIDIA H100 PCIe", "h100_pcie"), ("NVIDIA A100-SXM4-80GB", "a100_sxm"),
    ("NVIDIA L40S", "l40s"), ("NVIDIA GeForce RTX 4090", "geforce_rtx_4090")])  # fmt: skip
def test_a_gpu_has_the_folder_that_others_give_it(name, folder):
    assert Device(name, 1, 1.0, "", "", "", "").folder == folder


class Broken(Counted):
    """Fails at the last table."""

    def copy_s(self, kind: str, size_bytes: int) -> float:
        raise WriteError("no room")


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(WriteError):
        measure.main([f"out={tmp_path / 'mine'}"], Broken())
    assert not contents(tmp_path)


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "needs PyTorch, which is not installed here"),
    (["dtype=fp8"], "dtype must be bf16"),
    (["model=deepseek_v3"], "but model deepseek_v3 has experts"),
    (["tp=3"], "tp must divide the 32 heads"),
    (["tp=x"], "tp must be a number"),
    (["outt=x"], "kvreplay profile measure has no key 'outt'. Did you mean 'out'?"),
    (["out"], "kvreplay profile measure takes model="),
    (["model=lama"], "there is no model called 'lama'")])  # fmt: skip
def test_what_cannot_be_timed_is_refused(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    refused(["profile", "measure", *arguments], words, tmp_path, capsys)


def test_help(capsys):
    assert cli.main(["profile", "measure", "--help"]) == 0 and Path("out").name in capsys.readouterr().out
