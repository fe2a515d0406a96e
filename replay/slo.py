"""Service-level objectives by tier: who is urgent, and what each tier was promised."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from replay.errors import ConfigError
from replay.hardware.conf import load
from replay.hardware.fields import number
from traces.schema import Trace

# a target -> the column of `requests` that must not exceed it; itl_s bounds the longest gap of the request
TARGETS = {"ttft_s": "ttft_s", "tpot_s": "tpot_s", "itl_s": "max_itl_s", "e2e_s": "e2e_s"}
KEYS = ("tiers", "default", "unlisted", "tenants")
MONEY = ("price_usd", "penalty_usd", "input_price_usd", "cached_price_usd")
UNLISTED = ("refuse", "default")


@dataclass(frozen=True)
class Tier:
    """The targets of one tier, in seconds; None promises nothing."""

    name: str
    ttft_s: float | None = None
    tpot_s: float | None = None
    itl_s: float | None = None
    e2e_s: float | None = None
    weight: float = 1.0
    price_usd: float = 0.0  # for a million output tokens of a request that met its targets
    penalty_usd: float = 0.0  # for a request that missed them
    input_price_usd: float = 0.0  # for a million prompt tokens of a request that met them
    cached_price_usd: float | None = None  # of these, for those found cached; None: the same


@dataclass(frozen=True)
class Slo:
    """Tiers in order of urgency (0 first), the tier of requests without one, and whether unknown tiers join it.

    tenants : share of service that fair policies give a tenant, relative to 1 of those not named
    """

    tiers: tuple[Tier, ...]
    default: str
    unlisted: str = "refuse"
    tenants: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the tiers; the position is the urgency that policies see."""
        return [tier.name for tier in self.tiers]

    def share(self, tenant: str) -> float:
        """Return the share of service of a tenant, relative to the others."""
        return self.tenants.get(tenant, 1.0)

    def codes(self, trace: Trace) -> np.ndarray:
        """Return the urgency of every request of a trace.

        returns : (requests,) int32, index into `tiers`
        raises  : ConfigError for a tier of the trace that is not listed, unless `unlisted` is "default"
        """
        default = self.names.index(self.default)
        if "tier" not in trace:
            return np.full(len(trace), default, np.int32)
        used = trace.codes("tier")
        labels = trace.labels("tier")
        table = np.full(len(labels), default, np.int32)
        for code in np.unique(used):
            if labels[code] in self.names:
                table[code] = self.names.index(labels[code])
            elif self.unlisted == "refuse":
                row = int(np.argmax(used == code))
                raise ConfigError(
                    f"every tier of the trace must be listed in slo.tiers, but request {row} of {trace.name} has tier "
                    f"'{labels[code]}' and the tiers are {', '.join(self.names)}. Add it, or set slo.unlisted=default."
                )
        return table[used]

    def met(self) -> pl.Expr:
        """Tell which requests finished within every target of their tier.

        reads   : status, tier and the columns of `TARGETS`; a time that a request does not have (one output token has
                  no gap) breaks no promise
        returns : Boolean, never null
        """
        met = pl.lit(True)
        for target, column in TARGETS.items():
            limits = {tier.name: getattr(tier, target) for tier in self.tiers if getattr(tier, target) is not None}
            if limits:
                limit = pl.col("tier").replace_strict(limits, default=None, return_dtype=pl.Float64)
                met = met & (pl.col(column) <= limit).fill_null(True)
        return (pl.col("status") == "finished") & met


def build_slo(spec: "Slo | Mapping[str, Any] | str | None") -> Slo:
    """Make the objectives from whatever names them.

    spec    : Slo; name of a file of conf/slo; node with `tiers`, `default`, `unlisted`; plain {tier: {target: s}};
              None stands for "gold_silver_bronze"
    returns : Slo
    raises  : ConfigError for an unknown key, a target that is not a positive number, or no tier at all
    """
    if isinstance(spec, Slo):
        return spec
    if spec is None or isinstance(spec, str):
        spec = load("slo", spec or "gold_silver_bronze")
    if not isinstance(spec, Mapping):
        raise ConfigError(f"slo must be a configuration node or a name, but is {spec!r}. Write slo=gold_silver_bronze.")
    node = spec if "tiers" in spec else {"tiers": spec}
    for key in node:
        _known(str(key), KEYS, "slo")
    tiers = node["tiers"]
    if not isinstance(tiers, Mapping) or not tiers:
        raise ConfigError(f"slo.tiers must map at least one tier to its targets, but is {tiers!r}.")
    built = tuple(_tier(str(name), targets) for name, targets in tiers.items())
    default = node.get("default")
    default = built[-1].name if default is None else str(default)
    _known(default, tuple(tier.name for tier in built), "slo.default", "tier")
    unlisted = node.get("unlisted") or "refuse"
    _known(str(unlisted), UNLISTED, "slo.unlisted", "choice")
    tenants = {} if node.get("tenants") is None else node["tenants"]
    if not isinstance(tenants, Mapping):
        raise ConfigError(f"slo.tenants must map tenants to their shares, but is {tenants!r}. Write {{a: 2.0}}.")
    shares = {str(name): number(value, f"slo.tenants.{name}", above=0.0) for name, value in tenants.items()}
    return Slo(built, default, str(unlisted), shares)


def _tier(name: str, targets: Any) -> Tier:
    place = f"slo.tiers.{name}"
    if targets is not None and not isinstance(targets, Mapping):
        raise ConfigError(f"{place} must map targets to seconds, but is {targets!r}. Write {{ttft_s: 1.0}}.")
    values: dict[str, Any] = {}
    for key, value in (targets or {}).items():
        _known(str(key), (*TARGETS, "weight", *MONEY), place)
        if value is None and key != "weight":
            continue
        if key in MONEY:
            values[str(key)] = number(value, f"{place}.{key}")
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"{place}.{key} must be a positive number, but is {value!r}. Use null for no target.")
        values[str(key)] = float(value)
    return Tier(name, **values)


def _known(value: str, allowed: tuple[str, ...], place: str, noun: str = "key") -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(allowed)}."
        raise ConfigError(f"{place} has no {noun} '{value}'. {hint}")
