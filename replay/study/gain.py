"""The verb `predict gain`: what order policies gain as predictions become better, from none at all to the truth."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.table import Table

from predictors import predict
from replay.configuration import Settings
from replay.driving import ready
from replay.errors import ConfigError
from replay.metrics import HIGHER, better
from replay.run import main as run
from replay.study import pictures
from replay.study.progress import steps
from replay.study.verb import Study, split
from replay.table import number, show
from replay.write import together
from traces.window import scale_rate

DEFAULTS: dict[str, Any] = {
    "tau": (0.0, 0.25, 0.5, 0.75, 1.0),
    "loads": (0.8, 1.0, 1.2),
    "orders": ("shortest_predicted", "least_slack_predicted"),
    "objectives": ("e2e_s_mean", "slo_attainment"),
    "baseline": "fcfs",
}


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay predict gain` ask for.

    arguments : predict.tau=0,0.5,1 predict.loads=1,1.2 predict.orders=... predict.objectives=..., trace.path=a,b and
                those of `kvreplay run`
    raises    : ConfigError for an unknown key or a value out of range
    """
    values, others = split("predict", arguments, DEFAULTS, _read)
    paths = [text for text in others if text.startswith("trace.path=")]
    rest = [text for text in others if not text.startswith(("trace.path=", "predictor="))]
    chosen = paths[-1].partition("=")[2].split(",") if paths else [""]
    if len(values["orders"]) != len(values["objectives"]):
        raise ConfigError(
            f"predict.objectives must name one number of summary.json for each of predict.orders, but there are "
            f"{len(values['objectives'])} for {len(values['orders'])}."
        )
    study = Gain(values, len(chosen))
    for path in chosen:
        run([*rest, "predictor=oracle", *([f"trace.path={path}"] if path else [])], study)
    return 0


def _read(key: str, text: str) -> Any:
    parts = [part for part in text.strip("[]").split(",") if part]
    if key in ("orders", "objectives", "baseline"):
        return text if key == "baseline" else tuple(parts)
    try:
        found = tuple(float(part) for part in parts)
    except ValueError:
        found = ()
    if (
        not found
        or not all(0.0 <= value <= (1.0 if key == "tau" else 1e6) for value in found)
        or (key == "loads" and min(found) <= 0.0)
    ):
        wanted = {"tau": "numbers from 0 to 1, as in 0,0.5,1", "loads": "rates above 0, as in 0.8,1"}[key]
        raise ConfigError(f"predict.{key} must be {wanted}, but is '{text}'.")
    return found


class Gain(Study):
    """Replays a trace at several loads under several orders with predictions of several qualities."""

    def __init__(self, values: Mapping[str, Any], traces: int) -> None:
        super().__init__()
        self.values, self.traces = values, traces
        self.rows: list[dict[str, Any]] = []
        self.seen = 0

    def study(self, config: dict[str, Any], checked: Settings, folder: Path) -> None:
        """Replay every combination for one trace; with the last trace, write and show all."""
        self.rows += gains(self, config, checked)
        self.seen += 1
        if self.seen < self.traces:
            return
        table = pl.DataFrame(self.rows, infer_schema_length=None)
        page = pictures.gain(table)
        with together(folder) as place:
            with open(place("gain.parquet"), "wb") as file:
                table.write_parquet(file)
            place("gain.csv").write_text(table.write_csv(), encoding="utf-8")
            if page is not None:
                place("gain.html").write_text(page, encoding="utf-8")
        told = [] if page else ["no picture: pip install 'kvreplay[report]'"]
        show(gain_table(table, self.values), *told, f"results in {folder}")


def gains(study: Gain, config: Mapping[str, Any], checked: Settings) -> list[dict[str, Any]]:
    """Return a row for each load, order and tau: the objective, and the gain over the baseline at that load.

    A gain is the share of a time or cost that is saved; of what should be high, the difference.
    """
    from replay.cluster import build_cluster
    from replay.session import keep_trie, replay
    from replay.slo import build_slo

    values = study.values
    trace = study.trace(config["trace"], checked.seed)
    cluster, slo = build_cluster(dict(config), trace.block_tokens), build_slo(config["slo"])
    node = {**config["predictor"], "sigma": None, "mae_tokens": None}
    predictions = {tau: predict({**node, "tau": tau}, trace, checked.seed) for tau in values["tau"]}
    ready()
    rows = []
    total = len(values["loads"]) * (1 + len(values["orders"]) * len(values["tau"]))
    with steps(f"replaying {trace.name}", total) as told:
        for load in values["loads"]:
            scaled = scale_rate(trace, load)
            keep_trie(scaled, study.trie(trace))

            def one(order: str, predicted: Any = None, scaled: Any = scaled) -> Mapping[str, Any]:
                policies = {**checked.policies, "order": _of(config, order)}
                summary = replay(scaled, cluster, policies, slo=slo, seed=checked.seed, predictions=predicted).summary
                told()
                return summary

            base = one(values["baseline"])
            for (order, objective), tau in itertools.product(
                zip(values["orders"], values["objectives"], strict=True), values["tau"]
            ):
                found, least = _number(one(order, predictions[tau]), objective), _number(base, objective)
                rows.append(
                    {"trace": trace.name, "load": load, "order": order, "tau": tau, "objective": objective,
                     "value": found, "baseline": least,
                     "gain": _gain(found, least, objective)}
                )  # fmt: skip
    return rows


def _gain(found: float, least: float, objective: str) -> float | None:
    if better(objective) == HIGHER:
        return found - least
    return 1.0 - found / least if least else None


def _number(summary: Mapping[str, Any], objective: str) -> float:
    value = summary.get(objective)
    if value is None or isinstance(value, str):
        raise ConfigError(f"predict.objectives must be numbers of summary.json, but '{objective}' is none.")
    return float(value)


def _of(config: Mapping[str, Any], order: str) -> dict[str, Any]:
    """Return an order policy, with the tunables of the configuration if it is the one chosen there."""
    chosen = dict(config["policy"]["order"])
    return chosen if chosen["name"] == order else {"name": order}


def gain_table(table: pl.DataFrame, values: Mapping[str, Any]) -> Table:
    """Return the gains, a row for each trace, order and load, a column for each tau."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("trace", "order", "load", "objective", values["baseline"]):
        found.add_column(heading, justify="left" if heading in ("trace", "order", "objective") else "right")
    for tau in values["tau"]:
        found.add_column(f"gain at\ntau {tau:g}", justify="right")
    for (trace, order, load), rows in table.group_by("trace", "order", "load", maintain_order=True):
        shares = [f"{100 * value:+.1f} %" if value is not None else "-" for value in rows["gain"]]
        objective = rows["objective"][0]
        found.add_row(str(trace), str(order), f"{load:g}", objective, number(rows["baseline"][0]), *shares)
    return found
