"""The verb `predict`: train a length predictor into a file, evaluate several, or measure what ranks are worth."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.table import Table

from predictors import LEARNED, check
from predictors.errors import PredictorError
from predictors.evaluation import Evaluated, Span, curve, evaluate, spans
from predictors.features import build, feature_names
from predictors.fitted import fit, maker, method_of, pace_of, save
from replay.configuration import Settings
from replay.errors import ConfigError
from replay.run import main as run
from replay.study import pictures
from replay.study.progress import steps
from replay.study.regret_of_predictions import decision_regret
from replay.study.verb import Study, split
from replay.table import number, show
from replay.write import check_writable, together

VERBS = ("train", "evaluate", "gain")
DEFAULTS: dict[str, Any] = {"origins": 2, "share": 0.2, "replay": True}
BASELINE = "group"  # its quantiles of all are the constant that others are measured against


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments of `kvreplay predict` ask for.

    arguments : train [out=FILE], evaluate [predictor=a,b] [predict.origins=2] [predict.share=0.2] [predict.replay=true]
                or gain, then those of `kvreplay run`
    raises    : ConfigError or PredictorError for anything a user can mend
    """
    if not arguments or arguments[0] not in VERBS:
        given = f"'{arguments[0]}'" if arguments else "nothing"
        raise ConfigError(
            f"predict must be told what to do, {', '.join(VERBS)}, but was told {given}. Write kvreplay predict "
            f"evaluate predictor=boosted."
        )
    verb, *rest = arguments
    if verb == "gain":
        from replay.study.gain import main as gain

        return gain(rest)
    return _train(rest) if verb == "train" else _evaluate(rest)


def _train(arguments: Sequence[str]) -> int:
    out = [text.partition("=")[2] for text in arguments if text.startswith("out=")]
    if len(out) != 1 or not out[0]:
        raise ConfigError("predict train needs the file to write, once: out=my_model.")
    others = split("predict", [text for text in arguments if not text.startswith("out=")], {}, _read)[1]
    return run(_with_predictor(others), Train(Path(out[0])))


def _with_predictor(arguments: Sequence[str]) -> list[str]:
    """Return arguments that choose a predictor: the boosted one where none is chosen."""
    chosen = any(text.startswith("predictor=") for text in arguments)
    return [*arguments, *([] if chosen else ["predictor=boosted"])]


class Train(Study):
    """Fits the predictor of a composed configuration on its whole trace, and writes it into a file."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out = out

    def study(self, config: dict[str, Any], checked: Settings, folder: Path) -> None:
        """Fit, measure what a prediction costs, and write the file."""
        node = config["predictor"]
        _refuse_unlearned(node)
        make, method, pace = maker(node, checked.seed), method_of(node), pace_of(node)
        check_writable(self.out.parent if str(self.out.parent) else ".")
        trace = self.trace(config["trace"], checked.seed)
        started_s = time.perf_counter()
        with steps(f"training {node['kind']}", 4) as told:
            told()
            frame = build(trace, pace, self.trie(trace))
            told()
            fitted = fit(make, method, frame, frame.height)
            told()
            duration_s, inference_s = time.perf_counter() - started_s, fitted.inference_s(frame.tail(1000))
            about = {
                "trace": trace.name,
                "digest": trace.digest(),
                "rows": len(trace),
                "inference_s": inference_s,
                "pace": {"first_token_s": pace.first_token_s, "token_s": pace.token_s},
            }
            path = save(self.out, fitted, about)
            told()
        show(
            f"{node['kind']} learned {len(feature_names(frame))} features of {len(trace):,} requests in "
            f"{duration_s:.1f} s; one prediction takes {inference_s * 1e6:.0f} us",
            f"model in {path}: predictor={node['kind']} predictor.model={path}",
        )


def _refuse_unlearned(node: Mapping[str, Any]) -> None:
    if check(node) not in LEARNED:
        raise PredictorError(
            f"only {', '.join(LEARNED)} are trained, but predictor.kind is {node['kind']}. Write predictor=boosted."
        )


def _read(key: str, text: str) -> Any:
    try:
        if key == "origins" and 1 <= int(text) <= 100:
            return int(text)
        if key == "share" and 0.0 < float(text) <= 0.5:
            return float(text)
        if key == "replay" and text in ("true", "false"):
            return text == "true"
    except ValueError:
        pass
    wanted = {
        "origins": "a whole number from 1 to 100",
        "share": "a share above 0 and at most 0.5",
        "replay": "true or false",
    }
    raise ConfigError(f"predict.{key} must be {wanted[key]}, but is '{text}'.")


def _evaluate(arguments: Sequence[str]) -> int:
    values, others = split("predict", arguments, DEFAULTS, _read)
    listed = [text for text in others if text.startswith("predictor=")]
    names = listed[-1].partition("=")[2].split(",") if listed else ["boosted"]
    rest = [text for text in others if not text.startswith("predictor=")]
    study = Evaluate(values, last=names[-1])
    for name in dict.fromkeys(names):
        study.name = name
        run([*rest, f"predictor={name}"], study)
    return 0


class Evaluate(Study):
    """Tests the predictors that it is shown one after another, and tells about all with the last."""

    def __init__(self, values: Mapping[str, Any], last: str) -> None:
        super().__init__()
        self.values, self.name, self.last = values, "", last
        self.found: dict[str, Evaluated] = {}
        self.parts: list[Span] = []
        self.frame: pl.DataFrame | None = None

    def study(self, config: dict[str, Any], checked: Settings, folder: Path) -> None:
        """Test one predictor; with the last one, replay what it was tested on and write everything."""
        node = config["predictor"]
        _refuse_unlearned(node)
        trace = self.trace(config["trace"], checked.seed)
        if self.frame is None:
            self.frame = build(trace, pace_of(node), self.trie(trace))
            self.parts = spans(len(trace), self.values["origins"], self.values["share"])
            baseline = maker({"kind": BASELINE}, checked.seed)
            self.found["constant"] = evaluate("constant", baseline, "none", self.frame, self.parts)
        with steps(f"evaluating {self.name}", len(self.parts)) as told:
            self.found[self.name] = evaluate(
                self.name, maker(node, checked.seed), method_of(node), self.frame, self.parts, told
            )
        if self.name == self.last:
            self._tell(config, checked, folder, trace)

    def _tell(self, config: dict[str, Any], checked: Settings, folder: Path, trace: Any) -> None:
        rows = pl.DataFrame([row for found in self.found.values() for row in found.rows])
        groups = pl.DataFrame([row for found in self.found.values() for row in found.groups])
        regret = None
        if self.values["replay"]:
            part = self.parts[-1]
            tested = {
                name: found.tested.filter(pl.col("origin") == len(self.parts) - 1) for name, found in self.found.items()
            }
            regret = decision_regret(config, checked, trace, part, tested)
        write(folder, rows, groups, regret, {name: curve(found.tested) for name, found in self.found.items()})
        page = pictures.evaluation(trace.name, self.found, groups, regret)
        if page is not None:
            with together(folder) as place:
                place("evaluation.html").write_text(page, encoding="utf-8")
        parts: list[Any] = [rows_table(rows), "", groups_table(groups, config["predictor"].get("conformal") or "none")]
        if regret is not None:
            parts += ["", regret_table(regret)]
        show(*parts, *([] if page else ["no pictures: pip install 'kvreplay[report]'"]), f"results in {folder}")


def write(
    folder: Path,
    rows: pl.DataFrame,
    groups: pl.DataFrame,
    regret: pl.DataFrame | None,
    curves: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the tables as Parquet and CSV, and summary.json: predictor.number -> mean over the origins."""
    means = rows.group_by("predictor", maintain_order=True).mean()
    summary = {
        f"{row['predictor']}_{key}": value
        for row in means.iter_rows(named=True)
        for key, value in row.items()
        if key not in ("predictor", "origin")
    }
    summary |= {
        f"{name}_below_{quantile}": value for name, found in curves.items() for quantile, value in found.items()
    }
    tables = {"evaluation": rows, "coverage": groups} | ({"regret": regret} if regret is not None else {})
    with together(folder) as place:
        for name, table in tables.items():
            with open(place(f"{name}.parquet"), "wb") as file:
                table.write_parquet(file)
            place(f"{name}.csv").write_text(table.write_csv(), encoding="utf-8")
        place("summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def rows_table(rows: pl.DataFrame) -> Table:
    """Return what predictors reached at each origin."""
    columns = {
        "tau": "tau-b",
        "mae_tokens": "MAE",
        "log_mae": "log MAE",
        "pinball_p50_tokens": "pinball\n.5",
        "pinball_p90_tokens": "\n.9",
        "pinball_p99_tokens": "\n.99",
        "coverage": "90 %\ncovers",
        "width_tokens": "width",
    }
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("predictor", "origin", "requests", *columns.values()):
        found.add_column(heading, justify="left" if heading == "predictor" else "right")
    for row in rows.iter_rows(named=True):
        found.add_row(
            row["predictor"], str(row["origin"]), f"{row['requests']:,}", *(number(row[key]) for key in columns)
        )
    return found


def groups_table(groups: pl.DataFrame, method: str) -> Table:
    """Return coverage and width by conformal method over all origins, and by tier and kind under the one in use."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("predictor", "intervals", "of", "covers", "width"):
        found.add_column(heading, justify="left" if heading in ("predictor", "intervals", "of") else "right")
    weighted = groups.group_by("predictor", "conformal", "by", "group", maintain_order=True).agg(
        (pl.col("coverage") * pl.col("requests")).sum() / pl.col("requests").sum(), pl.col("width_tokens").mean()
    )
    for row in weighted.iter_rows(named=True):
        if row["by"] == "all" or row["conformal"] == method:
            group = "all" if row["by"] == "all" else f"{row['by']} {row['group']}"
            found.add_row(
                row["predictor"], row["conformal"], group, f"{row['coverage']:.3f}", number(row["width_tokens"])
            )
    return found


def regret_table(regret: pl.DataFrame) -> Table:
    """Return what was replayed with each predictor, beside the oracle and none."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("predictor", "order", "TTFT mean s", "E2E mean s", "SLO met", "regret"):
        found.add_column(heading, justify="left" if heading in ("predictor", "order") else "right")
    for row in regret.iter_rows(named=True):
        keys = ("ttft_s_mean", "e2e_s_mean", "slo_attainment", "regret")
        found.add_row(row["predictor"], row["order"], *(number(row[key]) for key in keys))
    return found
