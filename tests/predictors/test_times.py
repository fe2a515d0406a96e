"""Prefill and iteration times are learned: exactly where the model holds, within stated errors where it does not."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from predictors.errors import PredictorError
from predictors.times import IterationTime, PrefillTime, TimeModel, errors
from replay.hardware import Profile, build, iteration_ps, prefill_s
from replay.hardware.conf import node
from tests.recorded import recorded

PREFILL = pl.DataFrame({"new_tokens": [1, 10, 100, 1000, 500, 40], "cached_tokens": [0, 0, 0, 0, 700, 90]})
ITERATION = pl.DataFrame({
    "prefill_tokens": [1, 0, 0, 512, 64, 300, 0], "cached_tokens": [0, 0, 0, 0, 2048, 0, 0],
    "batch": [0, 1, 64, 8, 32, 0, 16], "context_tokens": [0, 5, 999, 8192, 640, 0, 9999],
})  # fmt: skip
COEFFICIENTS = st.floats(1e-3, 1.0)
UNITS_PREFILL, UNITS_ITERATION = np.array([0.1, 1e-4, 1e-8, 1e-8]), np.array([0.1, 1e-4, 1e-8, 1e-3, 1e-7])


def timed(rows: pl.DataFrame, time_s: Any) -> pl.DataFrame:
    """Return the rows with a column of seconds."""
    return rows.with_columns(time_s=pl.Series(np.asarray(time_s, np.float64)))


def timed_by(model: TimeModel, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with the seconds that a model gives."""
    return timed(rows, model.predict(rows))


@pytest.mark.parametrize(("kind", "units", "rows"), [
    (PrefillTime, UNITS_PREFILL, PREFILL), (IterationTime, UNITS_ITERATION, ITERATION),
])  # fmt: skip
@examples(max_examples=50, deadline=None)
@given(st.data())
def test_coefficients_are_recovered(kind: type[TimeModel], units: np.ndarray, rows: pl.DataFrame, data: Any) -> None:
    shares = data.draw(st.lists(COEFFICIENTS, min_size=len(units), max_size=len(units)))
    truth = kind(np.array(shares) * units)
    found = kind().fit(timed_by(truth, rows))
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)
    assert max(errors(found, timed_by(truth, rows)).values()) < 1e-9


def test_terms_by_hand() -> None:
    """1 + 2*3 + 3*9 + 4*3*5 = 94 s, and 1 + 2*3 + 3*3*(3 + 2*5) + 4*7 + 5*11 = 207 s."""
    prompt = pl.DataFrame({"new_tokens": [3], "cached_tokens": [5]})
    iteration = pl.DataFrame({"prefill_tokens": [3], "cached_tokens": [5], "batch": [7], "context_tokens": [11]})
    assert PrefillTime(np.arange(1.0, 5.0)).predict(prompt).tolist() == [94.0]
    assert IterationTime(np.arange(1.0, 6.0)).predict(iteration).tolist() == [207.0]
    assert PrefillTime(np.arange(1.0, 5.0)).predict(prompt.clear()).shape == (0,)


def test_several_chunks_are_one_with_their_sum_of_squares() -> None:
    """Two prompts of 2 tokens: Q = 8 = p (p + 2 cached) with p = 4 and cached = -1."""
    rows = pl.DataFrame({"prefill_tokens": [4], "cached_tokens": [-1], "batch": [0], "context_tokens": [0]})
    assert IterationTime(np.array([0.0, 0.0, 1.0, 0.0, 0.0])).predict(rows).tolist() == [8.0]


def test_noise_is_borne() -> None:
    """With 5 % noise on 400 rows, unseen rows are predicted within 1 % of the truth, short and long ones alike."""
    rng = np.random.default_rng(2)
    new, cached = np.exp(rng.uniform(0, np.log(30000), (2, 400))).astype(int)
    rows = pl.DataFrame({"new_tokens": new, "cached_tokens": cached})
    truth = PrefillTime(UNITS_PREFILL)
    noisy = timed(rows, truth.predict(rows) * np.exp(0.05 * rng.standard_normal(400)))
    found = PrefillTime().fit(noisy[:300])
    assert (found.coefficients >= 0).all()
    assert max(errors(found, timed_by(truth, rows[300:])).values()) < 0.01
    assert 0.03 < errors(found, noisy[300:])["relative_error_mean"] < 0.05  # 5 % times sqrt(2 / pi) is 4 %


def test_coefficients_are_never_negative() -> None:
    """Falling times would ask for a negative slope: the best that is left is one constant."""
    rows = pl.DataFrame({"new_tokens": [100, 200, 300, 400], "cached_tokens": [0, 0, 0, 0]})
    found = PrefillTime().fit(timed(rows, [4.0, 3.0, 2.0, 1.0]))
    assert found.coefficients[0] > 0 and found.coefficients[1:].tolist() == [0.0, 0.0, 0.0]


def test_long_times_do_not_outweigh_short_ones() -> None:
    """A constant c for 1 s and 100 s minimises (c - 1)^2 + (c / 100 - 1)^2: c = (1 + 1 / 100) / (1 + 1 / 100^2)."""
    rows = pl.DataFrame({"new_tokens": [0, 0, 0, 0], "cached_tokens": [0, 0, 0, 0]})
    found = PrefillTime().fit(timed(rows, [1.0, 100.0, 1.0, 100.0]))
    assert found.coefficients[0] == pytest.approx(1.01 / 1.0001)


def test_attention_over_a_cached_prefix_follows_from_prompts_without_one() -> None:
    truth = PrefillTime(np.array([0.02, 1e-4, 1e-9, 2e-9]))
    found = PrefillTime().fit(timed_by(truth, PREFILL[:4]))
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)


def test_errors_by_hand() -> None:
    rows = timed(pl.DataFrame({"new_tokens": [0] * 5, "cached_tokens": [0] * 5}), [1.0, 2.0, 0.5, 1.0, 0.25])
    found = errors(PrefillTime(np.array([1.0, 0.0, 0.0, 0.0])), rows)  # off by 0, 1/2, 1, 0 and 3 times
    assert found == {"relative_error_mean": 0.9, "relative_error_median": 0.5,
                     "relative_error_p90": pytest.approx(2.2)}  # fmt: skip


@pytest.mark.parametrize(("model", "rows"), [(PrefillTime(UNITS_PREFILL / 3), PREFILL),
                                             (IterationTime(UNITS_ITERATION / 3), ITERATION)])  # fmt: skip
def test_settings_restore_the_model(model: TimeModel, rows: pl.DataFrame) -> None:
    stored = json.loads(json.dumps(model.settings()))
    assert stored["kind"] == model.kind
    assert (type(model).restored(stored).predict(rows) == model.predict(rows)).all()


GOOD = PREFILL.with_columns(time_s=pl.lit(1.0))


@pytest.mark.parametrize(("act", "words"), [
    (lambda: PrefillTime().fit(GOOD.select("new_tokens")), "lacks cached_tokens, time_s. Rename"),
    (lambda: IterationTime().fit(GOOD), "lacks prefill_tokens, batch, context_tokens. Rename"),
    (lambda: PrefillTime().fit(GOOD.with_columns(pl.col("new_tokens").cast(pl.String))), "new_tokens (String). Cast"),
    (lambda: PrefillTime().fit(GOOD[:3]), "needs at least 4 rows, one a coefficient, but has 3"),
    (lambda: PrefillTime().fit(GOOD.clear()), "needs at least 4 rows, one a coefficient, but has 0"),
    (lambda: PrefillTime().fit(timed(PREFILL, [1, 1, 0, 1, 1, 1])), "time_s must be finite and > 0 s in every row, but "
                                                                    "is 0 in row 2"),
    (lambda: PrefillTime().fit(timed(PREFILL, [1, -1, 1, 1, 1, 1])), "but is -1 in row 1"),
    (lambda: PrefillTime().fit(timed(PREFILL, [1, 1, 1, np.inf, 1, 1])), "but is inf in row 3"),
    (lambda: PrefillTime().fit(GOOD.with_columns(time_s=pl.lit(None, pl.Float64))), "but is nan in row 0"),
    (lambda: PrefillTime().fit(GOOD.with_columns(new_tokens=-pl.col("new_tokens"))), "the term new of prefill_time "
                                                                                     "must be finite and >= 0"),
    (lambda: PrefillTime(UNITS_PREFILL).predict(GOOD.with_columns(cached_tokens=pl.lit(None, pl.Int64))),
     "new*cached of prefill_time must be finite and >= 0 in every row, but is nan in row 0"),
    (lambda: PrefillTime().predict(PREFILL), "predicts only after a fit"),
    (lambda: errors(PrefillTime(UNITS_PREFILL), PREFILL), "lacks time_s"),
    (lambda: errors(PrefillTime(UNITS_PREFILL), GOOD.clear()), "need at least 1 row"),
    (lambda: PrefillTime.restored({"coefficients": [1.0]}), "must have kind and coefficients"),
    (lambda: PrefillTime.restored(IterationTime(UNITS_ITERATION).settings()), "of 'iteration_time'. Restore"),
    (lambda: PrefillTime.restored({"kind": "prefill_time", "coefficients": [1, 2, 3]}), "must be 4 finite numbers"),
    (lambda: PrefillTime.restored({"kind": "prefill_time", "coefficients": [1, 2, 3, -4]}), "must be 4 finite numbers"),
    (lambda: PrefillTime.restored({"kind": "prefill_time", "coefficients": "1234"}), "must be 4 finite numbers"),
])  # fmt: skip
def test_bad_input_is_refused(act: Callable[[], object], words: str) -> None:
    with pytest.raises(PredictorError) as caught:
        act()
    assert words in str(caught.value) and str(caught.value).endswith(".")


def profile(hardware: str, model: str = "llama3_8b") -> Profile:
    """Build a profile of conf/hardware."""
    return build({"hardware": node("hardware", hardware), "model": node("model", model)})


def spread(rng: np.random.Generator, low: int, high: int, rows: int) -> np.ndarray:
    """Draw whole numbers that are even on a logarithmic scale."""
    return np.exp(rng.uniform(np.log(low), np.log(high), rows)).astype(np.int64)


def prefills(of: Profile, shortest: int, rows: int, seed: int) -> pl.DataFrame:
    """Cost prompts of `shortest` to 65536 new tokens, half of them after a cached prefix."""
    rng = np.random.default_rng(seed)
    new, cached = spread(rng, shortest, 65536, rows), spread(rng, 1, 65536, rows) * rng.integers(0, 2, rows)
    time_s = [prefill_s(of, int(n + c), int(c)) for n, c in zip(new, cached, strict=True)]
    return timed(pl.DataFrame({"new_tokens": new, "cached_tokens": cached}), time_s)


def iterations(of: Profile, rows: int, seed: int) -> pl.DataFrame:
    """Cost iterations of 1 to 256 decoding requests, half of them with up to 2048 tokens of a prefill."""
    rng = np.random.default_rng(seed)
    prefill = spread(rng, 1, 2048, rows) * rng.integers(0, 2, rows)
    cached, batch = spread(rng, 1, 32768, rows) * (prefill > 0), rng.integers(1, 257, rows)
    context = batch * spread(rng, 100, 8000, rows)
    time_s = [iteration_ps(of, int(p), int(b), int(k), int(p * (p + 2 * c))) / 1e12
              for p, c, b, k in zip(prefill, cached, batch, context, strict=True)]  # fmt: skip
    return timed(pl.DataFrame({"prefill_tokens": prefill, "cached_tokens": cached, "batch": batch,
                               "context_tokens": context}), time_s)  # fmt: skip


@pytest.mark.parametrize(("hardware", "model", "shortest", "most"), [
    ("linear", "llama3_8b", 1, 1e-9), ("mooncake_a800", "llama3_70b", 1, 1e-9),
    ("h100", "llama3_8b", 512, 1e-9), ("h100", "llama3_8b", 1, 0.11),
    ("h200", "mixtral_8x7b", 512, 0.003), ("h200", "deepseek_v3", 512, 0.03),
])  # fmt: skip
def test_prefill_of_profiles(hardware: str, model: str, shortest: int, most: float) -> None:
    """Linear kinds are met exactly, and so is the roofline of a dense model above the prompts that only read weights.

    Those, of up to a few hundred tokens, all take as long: a kink that the sum of terms rounds off. Experts read more
    weights the more tokens there are, until all are read.
    """
    built = profile(hardware, model)
    found = PrefillTime().fit(prefills(built, shortest, 1000, seed=1))
    assert errors(found, prefills(built, shortest, 300, seed=2))["relative_error_mean"] < most


@pytest.mark.parametrize(("hardware", "model", "most"), [
    ("linear", "llama3_8b", 1e-9), ("mooncake_a800", "llama3_70b", 1e-9), ("h100", "llama3_8b", 0.04),
    ("h200", "mixtral_8x7b", 0.06), ("h200", "deepseek_v3", 0.14),
])  # fmt: skip
def test_iterations_of_profiles(hardware: str, model: str, most: float) -> None:
    """As for prefill; a roofline's kinks, where reading weights hides arithmetic, lie amid usual batches."""
    built = profile(hardware, model)
    found = IterationTime().fit(iterations(built, 1000, seed=1))
    assert errors(found, iterations(built, 300, seed=2))["relative_error_mean"] < most


def test_prefill_of_mooncake() -> None:
    """Fit prefill of 8k to 128k tokens within 0.2 % on average. Source: Mooncake (FAST 2025), Fig. 14, 8 x A800."""
    rows = pl.DataFrame({"new_tokens": [1024 * k for k in (8, 16, 32, 64, 128)], "cached_tokens": [0] * 5})
    measured = timed(rows, [1.002, 2.056, 4.479, 10.587, 27.51])
    found = errors(PrefillTime().fit(measured), measured)
    assert found["relative_error_mean"] < 0.002, found


MACHINES = [(model, f"{gpu}-80gb", tp) for gpu in ("a100", "h100")
            for model, tp in (("llama2-70b", 2), ("llama2-70b", 4), ("llama2-70b", 8), ("bloom-176b", 8))]  # fmt: skip


def splitwise(model: str, hardware: str, tp: int) -> pl.DataFrame:
    """Return the runs of one machine in Splitwise's measured times [ms]; each size was run at least five times."""
    path = recorded("measured/splitwise-sim/perf_model.csv")
    of_one = (pl.col("model") == model) & (pl.col("hardware") == hardware) & (pl.col("tensor_parallel") == tp)
    return pl.read_csv(path, infer_schema_length=None).filter(of_one)


@pytest.mark.parametrize("machine", MACHINES)
def test_prefill_of_sizes_held_out(machine: tuple[str, str, int]) -> None:
    """Fit 128, 512, 2048 and 8192 tokens, predict 256, 1024 and 4096: within 6 to 15 % on average.

    Not 1 %: this engine of 2023 needs the same 65 ms for 128 and 256 tokens, and from 2048 to 8192 tokens on 8 GPUs
    more than arithmetic explains (see test_distance_to_splitwise).
    """
    runs = splitwise(*machine).filter(pl.col("batch_size") == 1)
    rows = runs.select(new_tokens="prompt_size", cached_tokens=pl.lit(0), time_s=pl.col("prompt_time") / 1e3)
    held_out = pl.col("new_tokens").is_in([256, 1024, 4096])
    found = errors(PrefillTime().fit(rows.filter(~held_out)), rows.filter(held_out))
    assert len(rows.filter(held_out)) >= 15 and found["relative_error_mean"] < 0.15, found


@pytest.mark.parametrize("machine", MACHINES)
def test_decode_of_batches_held_out(machine: tuple[str, str, int]) -> None:
    """Fit decode of 1, 2, 8, 32 and 64 requests, predict 4 and 16: within 1 to 7 % on average."""
    rows = splitwise(*machine).select(
        prefill_tokens=pl.lit(0), cached_tokens=pl.lit(0), batch="batch_size",
        context_tokens=pl.col("batch_size") * (pl.col("prompt_size") + pl.col("token_size") // 2),
        time_s=pl.col("token_time") / 1e3,
    )  # fmt: skip
    held_out = pl.col("batch").is_in([4, 16])
    found = errors(IterationTime().fit(rows.filter(~held_out)), rows.filter(held_out))
    assert len(rows.filter(held_out)) >= 10 and found["relative_error_mean"] < 0.07, found
