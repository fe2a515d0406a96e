"""A folder of kernel tables in the recorded layout, made from formulas whose values are known at every point."""

from pathlib import Path

import polars as pl

GPU, VERSION = "h100_sxm", "0.24.0"
ROWS = (1, 16, 256, 1024, 4096, 16384)
WIDTHS = (64, 1024, 4096, 8192, 32768, 131072)
BATCHES = (1, 4, 16, 64, 256)
LENGTHS = (1, 16, 256, 1024, 4096, 16384)
NUMBERS = (128, 65536, 2**20, 2**24, 2**29)
LAUNCH_S, FLOPS_PER_S, BYTES_PER_S = 4e-6, 5e14, 2.5e12
SYSTEM = """
gpu: {mem_bw: 3350000000000, mem_bw_empirical_scaling_factor: 0.8, mem_empirical_constant_latency: 0.000003,
      mem_capacity: 85899345920}
node: {num_gpus_per_node: 8, inter_node_bw: 50000000000, p2p_latency: 0.00001}
"""


def gemm_s(m: float, n: float, k: float) -> float:
    """Cost a product in the made tables: a launch, and the longer of arithmetic and weights."""
    return LAUNCH_S + max(2 * m * n * k / FLOPS_PER_S, 2 * n * k / BYTES_PER_S)


def context_s(batch: float, tokens: float, heads: int) -> float:
    """Cost the attention of whole prompts in the made tables."""
    return LAUNCH_S + batch * tokens**2 * heads * 256 / FLOPS_PER_S


def generation_s(batch: float, step: float, kv_heads: int) -> float:
    """Cost the attention of decodes in the made tables; step is one less than the context."""
    return LAUNCH_S + batch * step * kv_heads * 512 / BYTES_PER_S


def reduce_s(numbers: float) -> float:
    """Cost an all-reduce in the made tables."""
    return LAUNCH_S + numbers * 2 / 2e11


def make(folder: Path, gpu: str = GPU) -> Path:
    """Write the tables and constants of a GPU below a folder, for the shapes of Llama 3 8B and Mixtral 8x7B.

    returns : the folder
    """
    shapes = [(heads, max(1, heads // 4)) for heads in (4, 8, 16, 32)]
    tables = {
        "gemm/gemm": [{"gemm_dtype": dtype, "m": m, "n": n, "k": k, "latency": 1e3 * gemm_s(m, n, k) * scale}
                      for dtype, scale in (("bfloat16", 1.0), ("fp8", 0.5))
                      for m in ROWS for n in WIDTHS for k in WIDTHS],
        "attention/context_attention": [
            {"batch_size": batch, "isl": tokens, **_shape(heads, kv), "latency": 1e3 * context_s(batch, tokens, heads)}
            for heads, kv in shapes for batch in BATCHES for tokens in LENGTHS if batch * tokens <= 65536],
        "attention/generation_attention": [
            {"batch_size": batch, "step": step, **_shape(heads, kv), "latency": 1e3 * generation_s(batch, step, kv)}
            for heads, kv in shapes for batch in BATCHES for step in (*LENGTHS, 65536) if batch * step <= 2**20],
        "comm/custom_allreduce": [
            {"num_gpus": gpus, "message_size": size, "backend": backend, "latency": 1e3 * reduce_s(size) * scale}
            for gpus in (2, 4, 8) for size in NUMBERS for backend, scale in (("vllm_graph", 1.0), ("vllm_eager", 9.0))],
        "moe/moe": [
            {"moe_dtype": "bfloat16", "num_tokens": tokens, "hidden_size": 4096, "inter_size": 14336, "topk": 2,
             "num_experts": 8, "moe_tp_size": tp, "moe_ep_size": 1, "distribution": "power_law_1.01",
             "latency": 1e3 * gemm_s(2 * tokens, 3 * 14336 / tp, 4096)}
            for tokens in LENGTHS for tp in (1, 2, 4)],
    }  # fmt: skip
    for name, rows in tables.items():
        group, _, table = name.partition("/")
        path = folder / "data" / gpu / group / "vllm" / VERSION / f"{table}_perf.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows).write_parquet(path)
    (folder / "systems").mkdir(exist_ok=True)
    (folder / "systems" / f"{gpu}.yaml").write_text(SYSTEM, encoding="utf-8")
    return folder


def _shape(heads: int, kv_heads: int) -> dict[str, object]:
    return {"num_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 128, "window_size": 0,
            "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16"}  # fmt: skip
