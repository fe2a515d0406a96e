"""The verb `place`: how many prefill and decode instances of which size a trace needs, by DistServe's search.

Each phase is looked at alone: for each number of GPUs an instance may have, the highest rate at which one instance
keeps its targets. The size with the most rate a GPU wins, and as many instances are taken as the trace's rate asks for.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from predictors import predict
from replay.configuration import Settings
from replay.driving import ready
from replay.errors import ConfigError
from replay.hardware.conf import node as hardware_node
from replay.hardware.profile import table as cost_table
from replay.metrics import SLO_ATTAINMENT
from replay.run import main as run
from replay.slo import TARGETS, Slo, build_slo
from replay.study.capacity import capacity
from replay.study.verb import Study, split
from replay.table import number, plain_table, show
from replay.write import together

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from traces.schema import Trace

DEFAULTS: dict[str, Any] = {"target": 0.9, "tp": (1, 2, 4, 8), "tolerance": 0.02}
PHASES = {"prefill": ("ttft_s",), "decode": ("tpot_s", "itl_s")}  # the targets that a phase alone decides
FAST_BYTES_PER_S = 1e15


@dataclass(frozen=True)
class Size:
    """What one instance of a phase with so many GPUs carries: its share of the trace's rate."""

    phase: str
    tp: int
    scale: float

    @property
    def per_gpu(self) -> float:
        """Share of the trace's rate for each GPU."""
        return self.scale / self.tp


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay place` ask for: place.target, place.tp and those of `kvreplay run`.

    raises : ConfigError for an unknown key or a value out of range, -m, or where no size keeps the target
    """
    values, others = split("place", arguments, DEFAULTS, _value)
    return run(others, Place(values))


def _value(key: str, text: str) -> Any:
    try:
        if key == "tp":
            sizes = tuple(int(part) for part in text.strip("[]").split(","))
            if all(size >= 1 for size in sizes):
                return sizes
        elif 0.0 < float(text) <= (1.0 if key == "target" else 0.5):
            return float(text)
    except ValueError:
        pass
    wanted = {"tp": "whole numbers from 1, as in 1,2,4,8", "target": "a share above 0 and at most 1",
              "tolerance": "a number above 0 and at most 0.5"}  # fmt: skip
    raise ConfigError(f"place.{key} must be {wanted[key]}, but is '{text}'.")


class Place(Study):
    """Searches for the placement of a composed configuration's trace."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = values

    def study(self, config: dict[str, Any], checked: Settings, folder: Path) -> None:
        """Search, and replay what was found and its neighbours; writes summary.json and placements.json."""
        trace, slo = self.trace(config["trace"], checked.seed), build_slo(config["slo"])
        predictions = predict(config.get("predictor"), trace, checked.seed, self.trie(trace))
        ready()
        search = Search(trace, slo, config, {"policies": checked.policies, "seed": checked.seed,
                                             "predictions": predictions})  # fmt: skip
        sizes = search.sizes(self.values["tp"], self.values["target"], self.values["tolerance"])
        best = {phase: max((size for size in sizes if size.phase == phase), key=lambda size: size.per_gpu)
                for phase in PHASES}  # fmt: skip
        for phase, size in best.items():
            if size.scale == 0.0:
                raise ConfigError(f"no {phase} instance of place.tp={','.join(map(str, self.values['tp']))} GPUs keeps "
                                  f"place.target={self.values['target']} even alone. Choose other hardware or targets.")
        found = placements({phase: math.ceil(1.0 / size.scale) for phase, size in best.items()})
        rows = [_row(search, best, counts) for counts in found]
        save(folder, sizes, rows)
        show(sizes_table(sizes), "", rows_table(rows), f"results in {folder}")


def placements(counts: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return the placement found, and its neighbours: one instance more or fewer of a phase."""
    n, m = counts["prefill"], counts["decode"]
    near = [(n, m), (n - 1, m), (n, m - 1), (n + 1, m - 1), (n - 1, m + 1), (n + 1, m), (n, m + 1)]
    return [pair for pair in near if min(pair) >= 1]


class Search:
    """Replays of a trace on instances of one phase, and on whole placements."""

    def __init__(self, trace: "Trace", slo: Slo, config: dict[str, Any], options: Mapping[str, Any]) -> None:
        """Keep what all replays share; options: policies, seed and predictions, as `replay` takes them."""
        self.trace, self.slo, self.config, self.options = trace, slo, config, options

    def sizes(self, degrees: Sequence[int], target: float, tolerance: float) -> list[Size]:
        """Return what one instance of each phase and number of GPUs carries, where that holds the model."""
        found = []
        for tp in degrees:
            try:
                alone = {phase: self.alone(phase, tp) for phase in PHASES}
            except ConfigError:
                continue
            for phase, where in alone.items():
                def keeps(scale: float, phase: str = phase, where: "Cluster" = where) -> bool:
                    return self.kept(phase, where, scale) >= target

                found.append(Size(phase, tp, capacity(keeps, tolerance)))
        if not found:
            raise ConfigError(f"the model fits on no instance of place.tp={','.join(map(str, degrees))} GPUs.")
        return found

    def cluster(self, groups: list[dict[str, Any]], tp: Mapping[str, int]) -> "Cluster":
        """Build a cluster of groups of instances, each with the GPUs of its phase."""
        from replay.cluster import build_cluster

        hardware = hardware_node("hardware", self.config["hardware"])
        size = "gpus" if hardware["kind"] == "linear" else "tp"  # plain coefficients are those of the whole instance
        sized = [{**group, "hardware": {**hardware, size: tp[group["role"]]}} for group in groups]
        given = {**self.config["cluster"], "prefill": None, "mixed": None, "decode": None, "instances": sized}
        return build_cluster({**self.config, "cluster": given}, self.trace.block_tokens)

    def alone(self, phase: str, tp: int) -> "Cluster":
        """Build one instance of a phase with a partner that costs no time."""
        pair = self.cluster([{"role": name, "count": 1} for name in PHASES], dict.fromkeys(PHASES, tp))
        free: dict[str, Any] = dict.fromkeys(("prefill_token_ps", "prefill_token_sq_fs", "decode_request_ps"), 0)
        free |= {"token_table": cost_table([(0, 1, 0)]), "kv_table": cost_table([(0, 0, 0)])}
        instances = []
        for instance in pair.instances:
            if instance.role != phase:
                instance = replace(instance, profile=replace(instance.profile, **free), max_batch=2**14,
                                   token_budget=2**20, kv_blocks=10**9)  # fmt: skip
            instances.append(replace(instance, nic_bytes_per_s=FAST_BYTES_PER_S, nic_latency_s=0.0))
        return replace(pair, instances=tuple(instances), fabric=None)

    def kept(self, phase: str, where: "Cluster", scale: float) -> float:
        """Return which share of requests keeps the targets of a phase at a rate scale."""
        others: dict[str, Any] = {name: None for name in TARGETS if name not in PHASES[phase]}
        tiers = tuple(replace(tier, **others) for tier in self.slo.tiers)
        return self.attained(where, replace(self.slo, tiers=tiers), scale)

    def attained(self, where: "Cluster", slo: Slo, scale: float = 1.0) -> float:
        """Return which share of requests meets its objectives on a cluster at a rate scale."""
        from replay.session import replay
        from traces.window import scale_rate

        trace = self.trace if scale == 1.0 else scale_rate(self.trace, scale)
        result = replay(trace, where, slo=slo, **self.options)
        return float(result.requests.select(SLO_ATTAINMENT).item())


def _row(search: Search, best: Mapping[str, Size], counts: tuple[int, int]) -> dict[str, Any]:
    tp = {phase: size.tp for phase, size in best.items()}
    groups = [{"role": phase, "count": n} for phase, n in zip(PHASES, counts, strict=True)]
    attained = search.attained(search.cluster(groups, tp), search.slo)
    gpus = int(np.dot(counts, [tp[phase] for phase in PHASES]))
    return {"prefill": counts[0], "prefill_tp": tp["prefill"], "decode": counts[1], "decode_tp": tp["decode"],
            "gpus": gpus, "slo_attainment": attained}  # fmt: skip


def save(folder: Path, sizes: Sequence[Size], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write summary.json (the placement found, what its sizes carry) and placements.json (it and its neighbours)."""
    carried = {f"{size.phase}_tp{size.tp}_rate_scale": size.scale for size in sizes}
    with together(folder) as place:
        place("summary.json").write_text(json.dumps({**rows[0], **carried}, indent=2) + "\n", encoding="utf-8")
        place("placements.json").write_text(json.dumps(list(rows), indent=2) + "\n", encoding="utf-8")


def sizes_table(sizes: Sequence[Size]) -> Table:
    """Make the table of what one instance carries."""
    made = plain_table("phase", "GPUs", "of the rate", "a GPU")
    for size in sorted(sizes, key=lambda size: (size.phase != "prefill", size.tp)):
        made.add_row(size.phase, str(size.tp), number(size.scale), number(size.per_gpu))
    return made


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of placements, the one found first."""
    made = plain_table("placement", "GPUs", "SLO met")
    for row in rows:
        name = f"{row['prefill']} x {row['prefill_tp']} prefill + {row['decode']} x {row['decode_tp']} decode"
        made.add_row(name, str(row["gpus"]), f"{row['slo_attainment']:.3f}")
    return made
