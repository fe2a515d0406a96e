"""Time kernels of the local GPU through PyTorch, which is looked for only when it is asked for."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from replay.errors import ConfigError
from replay.fidelity.kernel_grid import Attention, Product

WARM_UPS, REPEATS = 3, 7
LAUNCHES = 10  # kernels of one timed graph; each has operands of its own, so that a cache does not hold them all
FRESH_BYTES = 512e6  # of operands of one graph, at most: several times the largest cache on a chip
KNOWN = ("gb200", "b200", "h200", "h100", "h800", "h20", "a100", "a800", "a30", "l40s", "l40", "l4")
BY_BOARD = ("b200", "h200", "h100", "h800", "a100", "a800")  # sold as modules and as cards


@dataclass(frozen=True)
class Device:
    """Where something was timed."""

    gpu: str
    gpus: int
    memory_bytes: float
    driver: str
    torch: str
    cuda: str
    nccl: str

    @property
    def folder(self) -> str:
        """The GPU's name as folders of kernel tables have it: h100_sxm."""
        name = self.gpu.lower()
        for known in KNOWN:
            if re.search(rf"\b{known}\b", name):
                board = "pcie" if "pcie" in name else "sxm"
                return f"{known}_{board}" if known in BY_BOARD else known
        return re.sub(r"[^a-z0-9]+", "_", name.removeprefix("nvidia")).strip("_")


class Timer(Protocol):
    """What `replay.fidelity.measure` asks; every answer is the median of repeats, in seconds."""

    device: Device

    def gemm_s(self, product: Product) -> float:
        """Time a matrix product."""

    def prompt_s(self, attention: Attention) -> float:
        """Time causal attention of whole prompts."""

    def decode_s(self, attention: Attention) -> float:
        """Time attention of one token a request over its context."""

    def copy_s(self, kind: str, size_bytes: int) -> float:
        """Time a copy: h2d and d2h from and to pinned memory of the host, d2d within the GPU."""

    def collective_s(self, name: str, gpus: int, numbers: int) -> float:
        """Time a collective of `numbers` bf16 numbers over the first so many GPUs."""


def local_timer() -> Timer:
    """Return the timer of this machine.

    raises : ConfigError without PyTorch or without a GPU that it can use
    """
    try:
        torch = import_module("torch")
    except ImportError:
        raise ConfigError("kvreplay profile measure needs PyTorch, which is not installed here. Install torch on a "
                          "machine with a GPU, or build a profile from published tables.") from None  # fmt: skip
    if not torch.cuda.is_available():
        raise ConfigError("kvreplay profile measure needs a GPU that PyTorch can use, but there is none here. Run it "
                          "on a machine with one, or build a profile from published tables.")
    return TorchTimer(torch)


class TorchTimer:
    """Times by CUDA events around replayed graphs, so that launches by the host do not count."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        properties = torch.cuda.get_device_properties(0)
        self.device = Device(
            gpu=properties.name,
            gpus=torch.cuda.device_count(),
            memory_bytes=float(properties.total_memory),
            driver=_driver(),
            torch=str(torch.__version__),
            cuda=str(torch.version.cuda),
            nccl=".".join(map(str, torch.cuda.nccl.version())),
        )

    def gemm_s(self, product: Product) -> float:
        """Time torch.nn.functional.linear."""
        linear = self.torch.nn.functional.linear
        size = 2 * (product.m * product.k + product.n * product.k + product.m * product.n)
        pairs = [(self._numbers(product.m, product.k), self._numbers(product.n, product.k)) for _ in _fresh(size)]
        return self._graph_s([partial(linear, *one) for one in pairs])

    def prompt_s(self, attention: Attention) -> float:
        """Time scaled_dot_product_attention, keys and values repeated for the queries that share them."""
        attend = self.torch.nn.functional.scaled_dot_product_attention
        shape = (attention.batch, attention.heads, attention.tokens, attention.head_dim)
        made = [[self._numbers(*shape) for _ in range(3)] for _ in _fresh(2 * 3 * int(np.prod(shape)))]
        return self._graph_s([partial(attend, *one, is_causal=True) for one in made])

    def decode_s(self, attention: Attention) -> float:
        """Time scaled_dot_product_attention, the queries that share a key as its rows: keys are read once."""
        attend = self.torch.nn.functional.scaled_dot_product_attention
        rows = max(1, attention.heads // attention.kv_heads)
        query = (attention.batch, attention.kv_heads, rows, attention.head_dim)
        keys = (attention.batch, attention.kv_heads, attention.tokens, attention.head_dim)
        made = [(self._numbers(*query), self._numbers(*keys), self._numbers(*keys))
                for _ in _fresh(4 * int(np.prod(keys)))]  # fmt: skip
        return self._graph_s([partial(attend, *one) for one in made])

    def copy_s(self, kind: str, size_bytes: int) -> float:
        """Time Tensor.copy_ on the current stream."""
        places = {"h2d": (True, False), "d2h": (False, True), "d2d": (False, False)}[kind]
        source, target = (self._bytes(size_bytes, on_host) for on_host in places)
        return self._events_s(lambda: target.copy_(source, non_blocking=True), LAUNCHES)

    def collective_s(self, name: str, gpus: int, numbers: int) -> float:
        """Time NCCL over the GPUs of this process; the host launches it, LAUNCHES in a row."""
        nccl = self.torch.cuda.nccl
        half = self.torch.bfloat16
        whole = [self.torch.zeros(numbers, dtype=half, device=f"cuda:{index}") for index in range(gpus)]
        parts = [self.torch.zeros(numbers // gpus, dtype=half, device=f"cuda:{index}") for index in range(gpus)]
        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda: nccl.all_reduce(whole),
            "all_gather": lambda: nccl.all_gather(parts, whole),
            "reduce_scatter": lambda: nccl.reduce_scatter(whole, parts),
        }
        return self._events_s(calls[name], LAUNCHES)

    def _numbers(self, *shape: int) -> Any:
        return self.torch.randn(shape, dtype=self.torch.bfloat16, device="cuda")

    def _bytes(self, size: int, on_host: bool) -> Any:
        where: dict[str, Any] = {"pin_memory": True} if on_host else {"device": "cuda"}
        return self.torch.empty(size, dtype=self.torch.uint8, **where)

    def _graph_s(self, calls: list[Callable[[], Any]]) -> float:
        """Return the seconds of one call: all of them captured in a graph, which is replayed."""
        torch = self.torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.no_grad():
            for _ in range(WARM_UPS):
                for call in calls:
                    call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            for index in range(LAUNCHES):
                calls[index % len(calls)]()  # what it returns is let go, so that the next may write there
        return self._events_s(graph.replay, 1) / LAUNCHES

    def _events_s(self, call: Callable[[], Any], launches: int) -> float:
        """Return the median of repeats of the seconds between two events around some calls, of one call."""
        torch = self.torch
        for _ in range(WARM_UPS):
            call()
        times = []
        for _ in range(REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(launches):
                call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) * 1e-3 / launches)
        return float(np.median(times))


def _fresh(size_bytes: int) -> range:
    """Return as many turns as operands of a size fit within FRESH_BYTES, at least one."""
    return range(max(1, min(LAUNCHES, int(FRESH_BYTES // max(1, size_bytes)))))


def _driver() -> str:
    from pathlib import Path

    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return found.group() if found else "unknown"
