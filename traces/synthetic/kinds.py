"""The synthetic workloads: one function a kind; its keywords are the parameters that a user may set.

A function takes (seed, requests) and its parameters and returns columns for `traces.schema.build` and the block size.
The keywords are a configuration node, so they may be more than the six arguments that a function has elsewhere.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from traces.params import number, stream, whole
from traces.synthetic.arrivals import draw_arrivals
from traces.synthetic.lengths import draw_tokens
from traces.synthetic.prefixes import Shape, sessions
from traces.synthetic.servegen import servegen

Made = tuple[dict[str, Any], int | None]


def _single(arrivals: dict[str, Any], prompt_tokens: Any, output_tokens: Any, seed: int, requests: int) -> Made:
    """Draw unrelated requests: arrivals, and two independent lengths each."""
    columns = {
        "arrival_s": draw_arrivals(arrivals, seed, requests),
        "prompt_tokens": draw_tokens(prompt_tokens, seed, "prompt_tokens", requests),
        "output_tokens": draw_tokens(output_tokens, seed, "output_tokens", requests),
    }
    return columns, None


def poisson(seed: int, requests: int, *, rate_per_s: float, prompt_tokens: Any, output_tokens: Any) -> Made:
    """Unrelated requests, Poisson arrivals."""
    return _single({"law": "poisson", "rate_per_s": rate_per_s}, prompt_tokens, output_tokens, seed, requests)


def gamma(seed: int, requests: int, *, rate_per_s: float, cv: float, prompt_tokens: Any, output_tokens: Any) -> Made:
    """Unrelated requests, gamma gaps: burstier than Poisson for cv > 1, smoother below."""
    arrivals = {"law": "gamma", "rate_per_s": rate_per_s, "cv": cv}
    return _single(arrivals, prompt_tokens, output_tokens, seed, requests)


def weibull(seed: int, requests: int, *, rate_per_s: float, cv: float, prompt_tokens: Any, output_tokens: Any) -> Made:
    """Unrelated requests, Weibull gaps."""
    arrivals = {"law": "weibull", "rate_per_s": rate_per_s, "cv": cv}
    return _single(arrivals, prompt_tokens, output_tokens, seed, requests)


def onoff(
    seed: int,
    requests: int,
    *,
    on_rate_per_s: float,
    off_rate_per_s: float = 0.0,
    on_s: float,
    off_s: float,
    prompt_tokens: Any,
    output_tokens: Any,
) -> Made:
    """Unrelated requests, two-state Markov-modulated Poisson arrivals."""
    arrivals = {"law": "onoff", "on_rate_per_s": on_rate_per_s, "off_rate_per_s": off_rate_per_s}
    return _single(arrivals | {"on_s": on_s, "off_s": off_s}, prompt_tokens, output_tokens, seed, requests)


def diurnal(
    seed: int,
    requests: int,
    *,
    rate_per_s: float,
    amplitude: float = 0.5,
    period_s: float = 86_400.0,
    peak_s: float = 43_200.0,
    prompt_tokens: Any,
    output_tokens: Any,
) -> Made:
    """Unrelated requests, Poisson arrivals whose rate swings as a cosine around its mean."""
    arrivals = {"law": "diurnal", "rate_per_s": rate_per_s, "amplitude": amplitude}
    return _single(arrivals | {"period_s": period_s, "peak_s": peak_s}, prompt_tokens, output_tokens, seed, requests)


def training(
    seed: int, requests: int, *, interval_s: float, batch: int, prompt_tokens: Any, output_tokens: Any = 1
) -> Made:
    """Training contrast (D/D): `batch` equal requests every `interval_s`."""
    arrivals = {"law": "batches", "interval_s": interval_s, "batch": batch}
    columns, _ = _single(arrivals, prompt_tokens, output_tokens, seed, requests)
    return columns | {"kind": ["training"] * requests}, None


def shared_prefix(
    seed: int,
    requests: int,
    *,
    arrivals: Any,
    turns: Any,
    user_tokens: Any,
    output_tokens: Any,
    think_s: Any,
    system: Any,
    branching: float = 0.0,
    answer_token_s: float = 0.02,
    block_tokens: int = 16,
    max_prompt_tokens: int = 131_072,
) -> Made:
    """Multi-turn sessions that share system prompts, open loop: every arrival time is fixed beforehand."""
    size, longest = whole("block_tokens", block_tokens), whole("max_prompt_tokens", max_prompt_tokens)
    chance, token_s = number("branching", branching, 0.0, 1.0), number("answer_token_s", answer_token_s, low=0.0)
    shape = Shape(arrivals, turns, user_tokens, output_tokens, think_s, system, chance, token_s, size, longest)
    return sessions(shape, seed, requests, closed_loop=False), size


def closed_sessions(
    seed: int,
    requests: int,
    *,
    arrivals: Any,
    turns: Any,
    user_tokens: Any,
    output_tokens: Any,
    think_s: Any,
    system: Any,
    branching: float = 0.0,
    block_tokens: int = 16,
    max_prompt_tokens: int = 131_072,
) -> Made:
    """Multi-turn sessions, closed loop: a turn arrives think_s after the one before it finished."""
    size, longest = whole("block_tokens", block_tokens), whole("max_prompt_tokens", max_prompt_tokens)
    chance = number("branching", branching, 0.0, 1.0)
    shape = Shape(arrivals, turns, user_tokens, output_tokens, think_s, system, chance, 0.0, size, longest)
    return sessions(shape, seed, requests, closed_loop=True), size


def multimodal(
    seed: int,
    requests: int,
    *,
    rate_per_s: float,
    prompt_tokens: Any,
    output_tokens: Any,
    share: float,
    images: Any,
    image_tokens: int,
) -> Made:
    """Unrelated requests, Poisson arrivals; a share of them brings images, whose tokens come beside the text."""
    columns, none = _single({"law": "poisson", "rate_per_s": rate_per_s}, prompt_tokens, output_tokens, seed, requests)
    brings = stream(seed, "share of images").random(requests) < number("share", share, 0.0, 1.0)
    columns["images"] = np.where(brings, draw_tokens(images, seed, "images", requests), 0).astype(np.int64)
    columns["prompt_tokens"] = columns["prompt_tokens"] + columns["images"] * whole("image_tokens", image_tokens)
    return columns, none


KINDS: dict[str, Callable[..., Made]] = {
    "poisson": poisson,
    "gamma": gamma,
    "weibull": weibull,
    "onoff": onoff,
    "diurnal": diurnal,
    "shared_prefix": shared_prefix,
    "sessions": closed_sessions,
    "training": training,
    "servegen": servegen,
    "multimodal": multimodal,
}
