"""Validation on measured points: how a closed loop is made and replayed, what is counted, what cannot be predicted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from replay.errors import ConfigError
from replay.fidelity import kernels
from replay.fidelity.asked import Asked
from replay.fidelity.hosts import FIT, HELD_OUT, NONE, OTHER, PUBLISHED, Host, fitted, fitted_fronts_s
from replay.fidelity.silicon import drawn, half, reasons, summary, validate
from replay.fidelity.silicon_points import POINTS, Point, point, read
from replay.fidelity.silicon_replay import TURNS, closed_loop, predict
from replay.hardware import prefill_s
from tests.fidelity.kernel_folder import GPU, make
from tests.recorded import recorded

LLAMA = Asked(gpu=GPU, model="llama3_8b", tp=1, dtype="bf16", gemm="bfloat16")
ONE = Point("one", "llama3_8b", "vllm", (LLAMA, 1), None, 1, 1024, 64, 1.0, PUBLISHED, 0, 8192, 0.1, 0.01)


OF_SIDES = [f"{side}_{name}" for side in ("prefill", "decode") for name in (
    "batch_size", "num_workers", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")]


def row(number: int, **changes: Any) -> dict[str, Any]:
    """Make a row of the measured points."""
    return {"id": f"point_c4_{number}", "silicon_data_source": "source_file=made.csv; silicon_concurrency=4",
            "backend": "vllm", "backend_version": None, "model_path": "meta-llama/Llama-3.1-8B-Instruct",
            "system": GPU, "mode": "agg", "isl": 512, "osl": 32, "gemm_quant_mode": None, "batch_size": 4, "tp_size": 1,
            "pp_size": 1, "attention_dp_size": 1, "moe_tp_size": 1, "moe_ep_size": 1, **dict.fromkeys(OF_SIDES),
            "silicon_ttft_ms": 100.0, "silicon_tpot_ms": 10.0, **changes}  # fmt: skip


SPLIT = {"mode": "disagg", "prefill_num_workers": 1, "prefill_tp_size": 1, "decode_num_workers": 2, "decode_tp_size": 2,
         "decode_batch_size": 2}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("kernels"))


def test_a_client_alone_waits_for_its_prompt_and_nothing_else(folder: Path) -> None:
    profile = kernels.build(folder, LLAMA)
    ttft_s, tpot_s = predict(ONE, lambda asked: profile)
    assert ttft_s == pytest.approx(prefill_s(profile, 1024), rel=1e-9)
    assert tpot_s < ttft_s


def test_a_closed_loop_has_turns_of_each_client_and_stated_lengths() -> None:
    trace, fronts_s = closed_loop(replace(ONE, concurrency=3, shortest=0.8), seed=0)
    assert len(trace) == 3 * TURNS and fronts_s.to_list() == [0.0] * 3 * TURNS
    assert trace.column("parent").tolist()[:7] == [-1, -1, -1, 0, 1, 2, 3]
    prompts = trace.column("prompt_tokens")
    assert prompts.min() >= 819 and prompts.max() <= 1024 and len(set(prompts)) > 10
    assert set(closed_loop(ONE, seed=0)[0].column("prompt_tokens")) == {1024}
    again, late_s = closed_loop(replace(ONE, concurrency=3, shortest=0.8, warm_up=2), seed=0, front_s=0.5)
    assert len(again) == 3 * (TURNS + 2) and 0.2 < float(late_s.mean()) < 0.9  # type: ignore[arg-type]
    assert again.column("arrival_s")[:3].tolist() == sorted(late_s[:3]) and again.column("think_s")[3] == late_s[3]
    same, _ = closed_loop(replace(ONE, concurrency=3, shortest=0.8), seed=0)
    assert np.array_equal(prompts, same.column("prompt_tokens"))


def test_a_front_end_is_part_of_ttft_and_parts_clients(folder: Path) -> None:
    """Alone a client waits for it; of many, each then meets fewer prompts of others than where all come at once."""
    profile = kernels.build(folder, LLAMA)
    alone_s = predict(ONE, lambda asked: profile)[0]
    assert predict(ONE, lambda asked: profile, front_s=0.2)[0] > alone_s + 0.05
    many = replace(ONE, concurrency=16, output_tokens=256, warm_up=2, token_budget=32768)
    together, apart = (predict(many, lambda asked: profile, front_s=front_s)[0] for front_s in (0.0, 0.05))
    assert apart - 0.05 < together


def test_whole_prompts_first_keep_clients_in_step(folder: Path) -> None:
    """An engine that lets prompts go first answers a wave at a time, so that a burst comes again every turn."""
    profile = kernels.build(folder, LLAMA)
    many = replace(ONE, concurrency=32, prompt_tokens=2048)
    first, mixed = (predict(replace(many, backend=backend), lambda asked: profile) for backend in ("sglang", "vllm"))
    assert first[0] > 2 * mixed[0] and first[1] < mixed[1]


def test_rows_become_points() -> None:
    whole = point(row(1, silicon_data_source="db-dump/2026; silicon_concurrency=8", gemm_quant_mode="fp8"))
    assert (whole.concurrency, whole.shortest, whole.prefill[0].gemm, whole.decode) == (8, 0.8, "fp8", None)
    apart = point(row(2, **SPLIT))
    assert apart.prefill[1] == 1 and apart.decode is not None and apart.decode[1] == 2 and apart.decode[0].tp == 2
    multiplied = row(4, model_path="deepseek-ai/DeepSeek-V3", tp_size=16, moe_tp_size=4, moe_ep_size=4)
    assert (point(multiplied).prefill[0].tp, point(multiplied).prefill[0].moe_ep) == (4, 4)
    assert point(row(3, id="unnamed", silicon_data_source="source_file=made.csv")).concurrency == 4


@pytest.mark.parametrize(("changes", "words"), [
    ({"model_path": "openai/gpt-oss-120b"}, "window"),
    ({"model_path": "none/such"}, "no shape of none/such"),
    ({**SPLIT, "decode_num_workers": None}, "how many instances"),
    ({"gemm_quant_mode": "int3"}, "numbers in int3"),
    ({"pp_size": 2}, "pipeline"),
    ({"attention_dp_size": 2}, "groups of a dense model"),
])  # fmt: skip
def test_what_a_row_does_not_say_is_a_reason(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        point(row(1, **changes))


def test_points_are_compared_and_counted(folder: Path) -> None:
    rows = [row(number) for number in range(6)] + [
        row(6, system="gb200"), row(7, model_path="zhipuai/GLM-5"), row(8, gemm_quant_mode="nvfp4"), row(9, **SPLIT),
        row(10, tp_size=16)]  # fmt: skip
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / POINTS)
    found = validate(folder)
    done = found.filter(pl.col("reason").is_null())
    assert len(found) == len(rows) and done["id"].to_list() == [one["id"] for one in (*rows[:6], rows[9])]
    assert dict(reasons(found).iter_rows()) == {
        "no kernel tables of gb200": 1, "sparse attention is in no model's shape": 1,
        "no GEMMs in these numbers were measured": 1, "no attention of this shape was measured": 1}  # fmt: skip
    assert done["tpot_error"].to_list() == pytest.approx((done["tpot_predicted_s"] / 0.01 - 1).to_list())
    table = summary(found, split=None)
    assert table["points"].to_list() == [7, 7] and table["gpu"].to_list() == [GPU, "all"]
    assert table["tpot_error_p50"][0] == pytest.approx(done["tpot_error"].abs().median())
    assert validate(folder, limit=2).filter(pl.col("reason").is_null()).height <= 2
    later = validate(folder, host=Host(5e-3, 0.0), front_s=0.7).filter(pl.col("reason").is_null())
    sooner = validate(folder, host=NONE, front_s=0.0).filter(pl.col("reason").is_null())
    assert (later["tpot_predicted_s"] - sooner["tpot_predicted_s"] > 4e-3).all()
    assert (later["ttft_predicted_s"] - sooner["ttft_predicted_s"] > 0.4).all()


def test_a_host_that_was_left_out_is_found_again() -> None:
    """Points that are 2 ms and 12 us a request later on one half give that, whatever the other half says."""
    names = [f"point {number}" for number in range(100)]
    predicted, batch = np.linspace(5e-3, 30e-3, 100), np.arange(1.0, 101.0)
    late = np.array([2e-3 if half(name) == FIT else 9e-3 for name in names]) + 12e-6 * batch
    frame = pl.DataFrame({"id": names, "backend": "vllm", "launch": PUBLISHED, "mode": "agg", "batch": batch,
                          "tpot_s": predicted + late, "tpot_predicted_s": predicted, "ttft_s": 0.13 + predicted,
                          "ttft_predicted_s": 0.1 + predicted, "split": [half(name) for name in names],
                          "reason": pl.Series([None] * 100, dtype=pl.String)})  # fmt: skip
    assert fitted(frame) == {("vllm", PUBLISHED): Host(2e-3, 12e-6)}
    assert 30 < sum(half(name) == HELD_OUT for name in names) < 70


def test_the_front_end_with_the_least_error_on_the_half_for_that_is_found() -> None:
    names = [f"point {number}" for number in range(60)]
    gpus = ["h100_sxm", "b200_sxm"] * 30
    frames = {}
    for front_s in (0.0, 0.01, 0.02):
        best = {"h100_sxm": 0.01, "b200_sxm": 0.0}
        least = [best[one] if half(name) == FIT else 0.02 for name, one in zip(names, gpus, strict=True)]
        error = [abs(front_s - one) for one in least]
        frames[front_s] = pl.DataFrame({"gpu": gpus, "launch": OTHER, "mode": "agg", "model": "a",
                                        "split": [half(name) for name in names], "ttft_error": error,
                                        "reason": pl.Series([None] * 60, dtype=pl.String)})  # fmt: skip
    assert fitted_fronts_s(frames, ("a",)) == {("b200_sxm", OTHER): 0.0, ("h100_sxm", OTHER): 0.01}


def test_a_draw_keeps_the_share_of_each_stratum_and_is_the_same_for_a_seed() -> None:
    candidates = [(row(number, backend="sglang" if number % 4 == 0 else "vllm"), replace(ONE, id=f"p{number}"))
                  for number in range(80)]
    chosen = [one.id for _, one in drawn(candidates, 20, seed=0)]
    assert len(chosen) == 20 and sum(int(name[1:]) % 4 == 0 for name in chosen) == 5
    assert chosen == [one.id for _, one in drawn(candidates, 20, seed=0)]
    assert chosen != [one.id for _, one in drawn(candidates, 20, seed=1)]


def test_a_folder_without_points_or_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must hold kernel tables"):
        validate(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / POINTS)
    with pytest.raises(ConfigError, match="must have the column model_path"):
        read(tmp_path)


def test_recorded_points_are_met_by_replayed_closed_loops() -> None:
    """Of Qwen3-32B on H100s, served by SGLang: the median errors stay within those of the README with some room."""
    folder = recorded(f"measured/aiconfigurator/{POINTS}").parent
    served = (pl.col("model_path") == "Qwen/Qwen3-32B") & (pl.col("backend") == "sglang") & (pl.col("mode") == "agg")
    found = validate(folder, limit=24, only=served & pl.col("system").str.starts_with("h100"))
    assert found["reason"].is_null().all() and len(found) == 24
    off = found.select(pl.col("tpot_error", "ttft_error").abs().median())
    assert off["tpot_error"][0] < 0.08 and off["ttft_error"][0] < 0.25
