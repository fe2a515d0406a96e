"""Replay a trace with the peer, ai-dynamo-runtime; run by `tests.bench.peer` with the interpreter that has it.

python peer_dynamo.py TRACE INSTANCES round_robin|kv_router BLOCK_TOKENS KV_BLOCKS MAX_BATCH TOKEN_BUDGET
"""

import json
import os
import sys
import time

os.environ.setdefault("DYN_LOG", "error")  # else it writes a line for each request, and that would be timed too


def main(arguments: list[str]) -> None:
    """Print one line of JSON: the peer's own time, the time of the call, and the metrics to compare."""
    from importlib.metadata import version

    from dynamo._core import run_mocker_trace_replay

    path, mode = arguments[0], arguments[2]
    instances, block_tokens, kv_blocks, max_batch, token_budget = map(int, (arguments[1], *arguments[3:]))
    engine = {
        "backend": "vllm",
        "block_size": block_tokens,
        "num_gpu_blocks": kv_blocks,
        "max_num_seqs": max_batch,
        "max_num_batched_tokens": token_budget,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
    }
    started_s = time.perf_counter()
    result = run_mocker_trace_replay(
        [path],
        extra_engine_args={"engine": engine},
        num_workers=instances,
        router_mode=mode,
        trace_block_size=block_tokens,
        capture_planner_details=False,
    )
    call_s = time.perf_counter() - started_s
    summary = result.summary
    found = {
        "version": version("ai-dynamo-runtime"),
        "kernel_s": summary["wall_time_ms"] / 1e3,
        "call_s": call_s,
        "finished": summary["completed_requests"],
        "hit_rate": summary["prefix_cache_reused_ratio"],
        "ttft_s_mean": summary["mean_ttft_ms"] / 1e3,
        "tpot_s_mean": summary["mean_tpot_ms"] / 1e3,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
