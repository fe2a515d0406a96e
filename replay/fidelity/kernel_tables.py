"""Find and read the kernel tables of a GPU: folders data/<gpu>/<group>/<backend>/<version>/<table>.parquet, in ms.

Beside them stands one YAML file a GPU with its bandwidths, its memory and its links.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from replay.errors import ConfigError

MS_PER_S = 1e3
GROUPS = {  # table -> group of tables that holds it
    "gemm_perf": "gemm",
    "context_attention_perf": "attention",
    "generation_attention_perf": "attention",
    "moe_perf": "moe",
    "context_mla_perf": "mla",
    "generation_mla_perf": "mla",
    "mla_context_module_perf": "mla",
    "mla_generation_module_perf": "mla",
    "custom_allreduce_perf": "comm",
    "nccl_perf": "comm",
}
NCCL = "nccl"


@dataclass(frozen=True)
class Layout:
    """A folder of kernel tables: where the tables lie, and the constants of each GPU."""

    data: Path
    systems: Path


@dataclass(frozen=True)
class Tables:
    """The kernel tables of one GPU as one serving backend runs them.

    version : the version whose tables are wanted; the nearest later one that has a table counts, else the newest
    """

    layout: Layout
    gpu: str
    backend: str = "vllm"
    version: str | None = None

    def has(self, table: str) -> bool:
        """Return whether there is such a table."""
        return bool(self._versions(table))

    def read(self, table: str) -> pl.DataFrame:
        """Return a table, its latency in a column `seconds`.

        raises : ConfigError if there is none, or it cannot be read
        """
        found = self._versions(table)
        if not found:
            folder = self.layout.data / self.gpu / GROUPS[table]
            has = sorted({path.parent.parent.name for path in folder.glob(f"*/*/{table}.parquet")})
            raise ConfigError(f"there must be a table {table} of {self.gpu} for backend {self._owner(table)}, but "
                              f"{'there are only those of ' + ', '.join(has) if has else 'there is none'}. Choose "
                              f"another backend, gpu or model.")
        return read_table(found[nearest(list(found), self.version)])

    def used(self) -> str:
        """Say which versions of which tables count, in one line."""
        groups: dict[str, str] = {}
        for table, group in GROUPS.items():
            found = self._versions(table)
            if found:
                groups.setdefault(group, nearest(list(found), self.version))
        return f"{self.gpu}, {self.backend} ({', '.join(f'{group} {name}' for group, name in groups.items())})"

    def system(self) -> Mapping[str, Any]:
        """Return the GPU's constants: nodes gpu, node and misc.

        raises : ConfigError if they are missing or no mapping
        """
        path = self.layout.systems / f"{self.gpu}.yaml"
        try:
            content = OmegaConf.to_container(OmegaConf.load(path))
        except (OSError, ValueError, OmegaConfBaseException) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise ConfigError(f"the constants of {self.gpu} cannot be read from {path.name}: {reason}.") from None
        if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("gpu", "node")):
            raise ConfigError(f"{path.name} must have the nodes gpu and node with the constants of {self.gpu}.")
        return {str(key): value for key, value in content.items()}

    def _owner(self, table: str) -> str:
        return NCCL if table == "nccl_perf" else self.backend

    def _versions(self, table: str) -> dict[str, Path]:
        folder = self.layout.data / self.gpu / GROUPS[table] / self._owner(table)
        return {path.parent.name: path for path in sorted(folder.glob(f"*/{table}.parquet"))}


def layout_of(folder: str | Path) -> Layout | None:
    """Return where a folder has its kernel tables, None where it has none."""
    root = Path(folder)
    for data, systems in ((root / "data", root / "systems"), (root / "systems" / "data", root / "systems"),
                          (root / "data", root)):  # fmt: skip
        if systems.is_dir() and next(data.glob("*/gemm/*/*/gemm_perf.parquet"), None):
            return Layout(data, systems)
    return None


def tables_of(folder: str | Path, gpu: str, backend: str = "vllm", version: str | None = None) -> Tables:
    """Return the tables of a GPU below a folder.

    raises : ConfigError for a folder without kernel tables, or a GPU that is not there
    """
    layout = layout_of(folder)
    if layout is None:
        raise ConfigError(f"from must be a folder of kernel tables (data/<gpu>/gemm/...), but '{folder}' is none.")
    there = gpus(layout)
    if gpu not in there:
        raise ConfigError(f"gpu must be one of {', '.join(there)}, but is {gpu!r}.")
    return Tables(layout, gpu, backend, version)


def gpus(layout: Layout) -> list[str]:
    """List the GPUs that have GEMM tables, in alphabetical order."""
    return sorted({path.parents[3].name for path in layout.data.glob("*/gemm/*/*/gemm_perf.parquet")})


def nearest(versions: list[str], wanted: str | None) -> str:
    """Return the least version that is not older than the wanted one, else the newest."""
    ordered = sorted(versions, key=_numbers)
    later = [version for version in ordered if wanted is not None and _numbers(version) >= _numbers(wanted)]
    return later[0] if later else ordered[-1]


@lru_cache(maxsize=32)
def read_table(path: Path) -> pl.DataFrame:
    """Read one table; its latency, in ms, becomes a column `seconds`.

    raises : ConfigError if it cannot be read, or a latency is missing or not positive
    """
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"the kernel table {path.name} cannot be read: {str(error).splitlines()[0]}.") from None
    if "latency" not in frame.columns:
        raise ConfigError(f"the kernel table {path.name} must have a column latency (ms), but has none.")
    frame = frame.with_columns(seconds=pl.col("latency") / MS_PER_S)
    if not frame.select((pl.col("seconds") > 0).fill_null(False).all()).item():
        raise ConfigError(f"the kernel table {path.name} must have positive latencies (ms) only.")
    return frame


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
