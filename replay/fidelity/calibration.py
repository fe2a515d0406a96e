"""A calibration: the replays of a log under candidate profiles, the fit to its first requests, errors on the rest."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from replay.errors import ConfigError
from replay.fidelity.deviation import COMPARED, errors
from replay.fidelity.fit import START, Fitted, Values, applied, fit
from replay.fidelity.logs import Log
from replay.hardware.profile import Profile
from replay.study.composed import compose_all
from replay.table import number

if TYPE_CHECKING:
    from replay.session import Session

LEAST_REQUESTS = 8
EVENTS_A_SLICE = 1_000_000


class Calibration:
    """Fits the profile of a composed cluster to a log.

    log     : the recording; its first requests are fitted, `first` of them
    profile : the one to start from; calibrated: the one found by `run`; rows: errors on the other requests
    """

    def __init__(self, log: Log, share: float, names: Sequence[str], arguments: Sequence[str]) -> None:
        found, self.runner = compose_all(arguments)
        if len(found) != 1:
            raise ConfigError(f"calibrate fits one configuration, but the arguments ask for {len(found)}.")
        self.one, self.log, self.names, self.share = found[0], log, tuple(names), share
        self.served = log.served
        self.first = round(share * self.served.height)
        if self.first < LEAST_REQUESTS or self.served.height - self.first < LEAST_REQUESTS:
            raise ConfigError(f"calibrate.share must leave {LEAST_REQUESTS} requests to fit and as many to judge by, "
                              f"but of {self.served.height} served requests of {log.name} it takes {self.first}.")
        if not any(self.served[metric].null_count() < self.first for metric in COMPARED):
            raise ConfigError(f"calibrate needs the times of tokens, but {log.name} has neither first_token_s nor "
                              f"last_token_s.")  # fmt: skip
        self.trace = log.trace()
        self.base: Session = self.runner.session(self.one.config, self.one.checked, self.trace)
        profiles = {id(instance.profile): instance.profile for instance in self.base.cluster.instances}
        self.profile = _same([*profiles.values()])
        self.fitted = Fitted(dict(START), {}, {}, np.nan, np.nan, 0)
        self.calibrated = self.profile
        self.rows: list[dict[str, Any]] = []

    def run(self) -> None:
        """Fit the first requests, then replay the whole log with the profile before and after."""
        self._refuse_failures(self.replayed(dict(START), len(self.trace)))
        self.fitted = fit(self._residuals, self.names, self.profile)
        self.calibrated = self._named(self.fitted)
        frames = {"before": self.replayed(dict(START), len(self.trace)).slice(self.first),
                  "after": self.replayed(self.fitted.values, len(self.trace)).slice(self.first)}  # fmt: skip
        self.rows = errors(self.served.slice(self.first), frames)

    def replayed(self, values: Values, requests: int) -> pl.DataFrame:
        """Replay the first requests of the log under some values; a row each, admission_s included in its times."""
        profile = applied(self.profile, values, "kv" in self.names)
        instances = tuple(replace(one, profile=profile) for one in self.base.cluster.instances)
        session = self._session(replace(self.base.cluster, instances=instances), requests)
        while not session.advance(EVENTS_A_SLICE):
            pass
        admission_s = pl.lit(values["admission_s"])
        return session.result().requests.with_columns(pl.col(name) + admission_s for name in ("ttft_s", "e2e_s"))

    def _session(self, cluster: Any, requests: int) -> "Session":
        from replay.session import Session

        base = self.base
        trace = self.trace if requests == len(self.trace) else replace(self.trace, table=self.trace.table[:requests])
        return Session(trace, cluster, base.policies, slo=base.slo, seed=self.one.checked.seed, prices=base.prices)

    def _residuals(self, values: Values) -> np.ndarray:
        """Return the logs of replayed by recorded of the requests to fit, (requests, metrics).

        What arrived later is replayed too as far as it could meet them: its lengths load the engine, its times are
        not looked at.
        """
        frame = self.replayed(values, self._reach()).head(self.first)
        recorded = self.served.head(self.first)
        columns = []
        for metric in COMPARED:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.log(_array(frame[metric]) / _array(recorded[metric]))
            columns.append(np.where(np.isfinite(ratio), ratio, np.nan))
        return np.stack(columns, axis=1)

    def _reach(self) -> int:
        ends = self.served.head(self.first).select(pl.max_horizontal(
            pl.col([name for name in ("last_token_s", "first_token_s") if name in self.served.columns])).max()).item()
        return max(self.first, int((self.served["arrival_s"] <= ends).sum()))

    def _refuse_failures(self, frame: pl.DataFrame) -> None:
        lost = frame.filter(pl.col("status") != "finished")
        if lost.height:
            longest = int((lost["prompt_tokens"] + lost["output_tokens"]).max())  # type: ignore[arg-type]
            raise ConfigError(f"the cluster must serve what the engine served, but {lost.height} of {frame.height} "
                              f"requests are {lost['status'][0]} in the replay (the longest has {longest} tokens). Set "
                              f"cluster.kv_blocks, cluster.max_batch and policies as the engine had them.")

    def _named(self, fitted: Fitted) -> Profile:
        parts = [f"{name} {number(fitted.values[name])} ({number(low)} to {number(high)})"
                 for name, (low, high) in fitted.intervals.items()]  # fmt: skip
        profile = applied(self.profile, fitted.values, "kv" in self.names)
        return replace(profile, name=f"{self.profile.name} calibrated", provenance=(
            f"{self.profile.provenance}; calibrated on the first {self.first} of {self.served.height} requests of "
            f"{self.log.name} ({self.log.format}): {', '.join(parts) or 'nothing was determined'}"))


def _same(profiles: list[Profile]) -> Profile:
    kinds = {(one.name, one.token_table.tobytes(), one.kv_table.tobytes(), one.prefill_token_ps, one.decode_request_ps)
             for one in profiles}  # fmt: skip
    if len(kinds) != 1:
        raise ConfigError(f"calibrate fits one profile, but the cluster has {len(kinds)}. Take instances of one kind.")
    return profiles[0]


def _array(series: pl.Series) -> np.ndarray:
    return series.cast(pl.Float64).fill_null(np.nan).to_numpy()
