"""Per-client workloads in the layout of ServeGen: rates and gap laws in windows, lengths in 6-hour windows."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from traces.errors import TraceError
from traces.params import choose, number, stream, text, whole

RATES = "client_rate_windows.parquet"
LENGTHS = "length_pdfs.parquet"


def servegen(
    seed: int,
    requests: int,
    *,
    servegen_path: str,
    model: str,
    clients: int | None = None,
    start_s: float = 0.0,
    rate_per_s: float | None = None,
) -> tuple[dict[str, Any], None]:
    """Replay client populations: each client is a renewal process whose rate and gap law change window by window.

    A client's unit-mean gaps (gamma or Weibull, shape as fitted for the window) run in operational time, so that the
    rate of every window holds and a gap may span windows; the clients' requests are merged and become tenants.

    servegen_path : folder with client_rate_windows.parquet and length_pdfs.parquet
    model         : as named there, e.g. "m-large"
    clients       : the largest so many by rate, null for all; clients without length distributions are left out
    start_s       : where in the recorded weeks to begin
    rate_per_s    : mean rate over the time replayed; null keeps the recorded one
    source        : ServeGen (Xiang et al., 2025), client decomposition; the carry of gaps across windows is own
    """
    windows, lengths = _read(Path(text("servegen_path", servegen_path)), model)
    first = number("start_s", start_s, low=0.0)
    window_s = _window_s(windows)
    begin = int(first // window_s)
    table = _rate_table(windows, lengths, whole("clients", clients) if clients is not None else None, window_s)
    mass = table["rate"][:, begin:] * window_s
    if mass.shape[1] == 0:
        raise TraceError(
            f"start_s must lie in the recorded {table['rate'].shape[1] * window_s:g} s, but got {first:g}."
        )
    factor = 1.0
    used = mass.shape[1]
    if rate_per_s is not None:
        used, factor = _scale(mass.sum(axis=0), requests, number("rate_per_s", rate_per_s, above=0.0) * window_s)
    times, owner = _merge(seed, requests, (table, begin, window_s), factor, used)
    order = np.argsort(times, kind="stable")[:requests]
    if len(order) < requests:
        raise TraceError(
            f"the recorded windows of {model} from start_s {first:g} on hold about {len(order)} requests, "
            f"but requests is {requests}. Ask for fewer, start earlier or raise rate_per_s."
        )
    columns: dict[str, Any] = {"arrival_s": times[order]}
    for name, field in (("prompt_tokens", "input_tokens"), ("output_tokens", "output_tokens")):
        drawn = _draw_lengths(seed, field, (times + begin * window_s, owner), table["client"], lengths)
        columns[name] = drawn[order]
    names = pa.array([f"client_{client}" for client in table["client"]], pa.string())
    columns["tenant"] = pa.DictionaryArray.from_arrays(pa.array(owner[order].astype(np.int32)), names)
    return columns, None


def _read(folder: Path, model: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the rate windows and the input and output length distributions of one model."""
    frames = []
    for name in (RATES, LENGTHS):
        try:
            frames.append(pl.read_parquet(folder / name))
        except (OSError, pl.exceptions.PolarsError):
            raise TraceError(f"servegen_path must be a folder with a readable {name}, but got {folder}.") from None
    rates, lengths = frames
    choose("servegen model", model, dict.fromkeys(sorted(rates["model"].unique())))
    lengths = lengths.filter((pl.col("model") == model) & pl.col("field").is_in(["input_tokens", "output_tokens"]))
    if lengths["field"].n_unique() < 2:
        raise TraceError(f"servegen model {model} has no input and output lengths. Choose a language model.")
    return rates.filter(pl.col("model") == model), lengths


def _window_s(windows: pl.DataFrame) -> float:
    starts = windows["t"].unique().sort()
    return float(starts[1] - starts[0]) if len(starts) > 1 else 600.0


def _rate_table(
    windows: pl.DataFrame, lengths: pl.DataFrame, clients: int | None, window_s: float
) -> dict[str, np.ndarray]:
    """Return per client and window: rate [1/s], shape, weibull (bool), all (clients, windows); and client ids."""
    known = set(lengths["client_id"].to_list())
    ranked = windows.group_by("client_id").agg(pl.col("rate").sum()).sort("rate", "client_id", descending=[True, False])
    chosen = [client for client in ranked["client_id"].to_list() if client in known][:clients]
    row_of = {client: row for row, client in enumerate(chosen)}
    kept = windows.filter(pl.col("client_id").is_in(chosen))
    rows = np.array([row_of[client] for client in kept["client_id"].to_list()])
    columns = (kept["t"].to_numpy() // window_s).astype(int)
    shape = (len(chosen), int(columns.max()) + 1)
    table = {"rate": np.zeros(shape), "shape": np.ones(shape), "weibull": np.zeros(shape, bool)}
    table["rate"][rows, columns] = kept["rate"].to_numpy()
    table["shape"][rows, columns] = kept["arg1"].fill_null(1.0).to_numpy()
    table["weibull"][rows, columns] = (kept["pattern"] == "Weibull").fill_null(False).to_numpy()
    return table | {"client": np.array(chosen)}


def _scale(mass: np.ndarray, requests: int, per_window: float) -> tuple[int, float]:
    """Return how many windows `requests` take at the asked mean rate, and the factor on the recorded rates."""
    used = min(len(mass), max(1, math.ceil(requests / per_window)))
    recorded = float(mass[:used].mean())
    if recorded <= 0:
        raise TraceError("the servegen windows chosen are idle: no rate to scale. Set another start_s.")
    return len(mass), per_window / recorded


def _merge(
    seed: int, requests: int, source: tuple[dict[str, np.ndarray], int, float], factor: float, used: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw windows until they hold `requests` arrivals of all clients; return times and owning client rows."""
    table, begin, window_s = source
    total = np.cumsum(table["rate"][:, begin:].sum(axis=0) * window_s * factor)
    stop = int(np.searchsorted(total, requests)) + 1
    while True:
        stop = min(stop + stop // 8 + 1, used)
        span = slice(begin, begin + stop)
        parts = []
        for row, client in enumerate(table["client"]):
            mass = table["rate"][row, span] * window_s * factor
            laws = list(zip(mass, table["shape"][row, span], table["weibull"][row, span], strict=True))
            parts.append(_client_times(stream(seed, f"servegen/{client}"), laws, window_s))
        if sum(len(part) for part in parts) >= requests or stop >= used:
            owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            return np.concatenate(parts) if parts else np.empty(0), owner
        stop += stop // 2


def _client_times(random: np.random.Generator, laws: list[tuple[float, float, bool]], window_s: float) -> np.ndarray:
    """Draw one client's arrivals; `laws` is (expected requests, shape, Weibull or gamma) by window."""
    found = []
    ahead = -1.0
    for window, (mass, shape, is_weibull) in enumerate(laws):
        if mass <= 0:
            continue
        if ahead < 0:
            ahead = float(_gaps(random, 1, shape, is_weibull)[0]) * random.random()
        while ahead < mass:
            gaps = _gaps(random, 8 + int(mass - ahead), shape, is_weibull)
            points = ahead + np.concatenate([[0.0], np.cumsum(gaps)])
            found.append((window + points[points < mass][: len(gaps)] / mass) * window_s)
            inside = int(np.searchsorted(points, mass))
            ahead = float(points[min(inside, len(gaps))])
        ahead -= mass
    return np.concatenate(found) if found else np.empty(0)


def _gaps(random: np.random.Generator, count: int, shape: float, is_weibull: bool) -> np.ndarray:
    if is_weibull:
        return random.weibull(shape, count) / math.gamma(1 + 1 / shape)
    return random.standard_gamma(shape, count) / shape


def _draw_lengths(
    seed: int, field: str, arrivals: tuple[np.ndarray, np.ndarray], clients: np.ndarray, lengths: pl.DataFrame
) -> np.ndarray:
    """Draw token counts from each client's distribution of the time; a window without one uses the one before."""
    times, owner = arrivals
    drawn = np.ones(len(times), np.int32)
    edges = np.searchsorted(owner, np.arange(len(clients) + 1))
    by_client = lengths.filter(pl.col("field") == field).sort("client_id", "t").partition_by("client_id", as_dict=True)
    for row, client in enumerate(clients):
        rows = slice(edges[row], edges[row + 1])
        laws = by_client[(client,)]
        which = np.maximum(np.searchsorted(laws["t"].to_numpy(), times[rows], side="right") - 1, 0)
        draws = stream(seed, f"servegen/{client}/{field}").random(len(which))
        for law in np.unique(which):
            values, chances = laws["value"][int(law)].to_numpy(), laws["prob"][int(law)].to_numpy().astype(float)
            shares = np.cumsum(chances / chances.sum())
            mine = which == law
            places = np.minimum(np.searchsorted(shares, draws[mine], side="right"), len(values) - 1)
            drawn[rows][mine] = np.maximum(values[places], 1)
    return drawn
