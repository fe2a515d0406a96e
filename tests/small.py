"""Small traces, clusters and policies for tests, without configuration files."""

from collections.abc import Mapping, Sequence
from typing import Any

from replay.cluster import Cluster, Instance
from replay.hardware.profile import Profile, table
from replay.policy import Chosen, choose
from traces.schema import Trace, build

PS = 1e-12
BYTES_PER_TOKEN = 1000
DEFAULTS = {
    "admit": "always",
    "route": "least_loaded",
    "decode": "least_kv",
    "order": "fcfs",
    "batch": "chunked",
    "evict": "lru",
    "fetch": "best_effort",
    "write": "through",
    "migrate": "llumnix",
    "scale": "fixed",
    "recover": "resume",
}


def small_trace(
    rows: Sequence[tuple[int, int, int]],
    chains: Sequence[Sequence[int]] | None = None,
    block_tokens: int = 4,
    **columns: Any,
) -> Trace:
    """Make a trace of (arrival [ps], prompt tokens, output tokens), with prefix ids if given."""
    given = dict(columns)
    if chains is not None:
        given["prefix_blocks"] = [list(chain) for chain in chains]
    arrivals, prompts, outputs = zip(*rows, strict=True)
    return build(
        "small",
        {
            "arrival_s": [arrival * PS for arrival in arrivals],
            "prompt_tokens": prompts,
            "output_tokens": outputs,
            **given,
        },
        block_tokens if chains is not None else None,
    )


def small_profile(
    iteration_ps: int = 0,
    prefill_token_ps: int = 0,
    prefill_token_sq_fs: int = 0,
    decode_request_ps: int = 0,
    kv_token_ps: int = 0,
    token_segments: Sequence[tuple[int, int, int]] | None = None,
    kv_segments: Sequence[tuple[int, int, int]] | None = None,
    decode_segments: Sequence[tuple[int, int, int]] | None = None,
    mixed_kv_segments: Sequence[tuple[int, int, int]] | None = None,
    mixed_request_ps: int = 0,
) -> Profile:
    """Make a profile from integers: plain coefficients, or tables of (start, base_ps, slope_ps) in their place."""
    return Profile(
        name="small",
        token_table=table(token_segments or [(0, iteration_ps, 0)]),
        kv_table=table(kv_segments or [(0, 0, kv_token_ps)]),
        prefill_token_ps=prefill_token_ps,
        prefill_token_sq_fs=prefill_token_sq_fs,
        decode_request_ps=decode_request_ps,
        kv_token_bytes=BYTES_PER_TOKEN,
        kv_capacity_tokens=None,
        gpus=1,
        price_per_hour=0.0,
        nic_bytes_per_s=BYTES_PER_TOKEN / PS,
        nic_latency_s=0.0,
        interpolation_error=0.0,
        provenance="test",
        decode_table=table(decode_segments) if decode_segments else None,
        mixed_kv_table=table(mixed_kv_segments) if mixed_kv_segments else None,
        mixed_request_ps=mixed_request_ps,
    )


def small_instance(role: str, profile: Profile, token_fs: int = 1000, latency_ps: int = 0, **limits: int) -> Instance:
    """Make an instance whose link takes `token_fs` femtoseconds a token.

    limits : max_batch, token_budget, block_tokens, kv_blocks
    """
    given = {"max_batch": 8, "token_budget": 16, "block_tokens": 4, "kv_blocks": 64, **limits}
    return Instance(
        role=role,
        profile=profile,
        nic_bytes_per_s=BYTES_PER_TOKEN / (token_fs * 1e-15),
        nic_latency_s=latency_ps * PS,
        **given,
    )


def small_cluster(
    instances: Sequence[Instance], prefix_cache: bool = True, layers: int | None = None, **more: Any
) -> Cluster:
    """Make a cluster of instances ordered prefill, mixed, decode; `layers` makes its handoffs layer by layer."""
    return Cluster(
        name="small",
        instances=tuple(instances),
        block_tokens=instances[0].block_tokens,
        layerwise=layers is not None,
        layers=layers or 1,
        prefix_cache=prefix_cache,
        gpus=len(instances),
        **more,
    )


def small_policies(**named: str | tuple[str, Mapping[str, Any]]) -> dict[str, Chosen]:
    """Choose a policy for every slot: the default, or a name, or a name with its tunables."""
    chosen = {}
    for slot, default in DEFAULTS.items():
        choice = named.get(slot, default)
        name, tunables = (choice, {}) if isinstance(choice, str) else choice
        chosen[slot] = choose(slot, name, tunables)
    return chosen
