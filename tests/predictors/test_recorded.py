"""On recorded traces, last fifth unseen: errors and ranks at least as good as published ones, intervals that hold."""

import numpy as np
import pytest

from predictors.boosted import Boosted
from predictors.evaluation import evaluate, spans
from predictors.features import build
from predictors.groups import Group
from tests.recorded import recorded
from traces.synthetic import from_config

# path, MAE and tau as published for it, and of its constant baseline
FIGURES = [
    ("traces/mooncake/conversation_trace.jsonl.gz", 152.5, 0.26, 180.4),
    ("traces/azure2023/AzureLLMInferenceTrace_conv.csv", 45.0, 0.58, 155.3),
    ("traces/azure2023/AzureLLMInferenceTrace_code.csv", 20.3, -0.1, 20.1),
    ("traces/kv-cache-tester", 320.0, 0.3, 400.0),
    ("traces/ragpulse", 500.0, -0.1, 600.0),
]


@pytest.mark.parametrize(("path", "error", "rank", "constant"), FIGURES, ids=[row[0].split("/")[1] for row in FIGURES])
def test_figures_are_reached(path: str, error: float, rank: float, constant: float) -> None:
    trace = from_config({"path": str(recorded(path))}, 0)
    frame = build(trace)
    parts = spans(len(frame), 1, 0.2)
    found = evaluate("boosted", Boosted, "adaptive", frame, parts).rows[-1]
    baseline = evaluate("constant", Group, "none", frame, parts).rows[-1]
    assert found["mae_tokens"] <= error and found["tau"] >= rank, found
    assert baseline["mae_tokens"] <= 1.02 * constant and baseline["tau"] is None
    assert 0.88 <= found["coverage"] <= 0.92 and found["width_tokens"] > 0, found
    assert np.isfinite(found["pinball_p99_tokens"]) and found["requests"] == len(trace) - parts[0].first
