"""The catalog: sound entries, and files that only arrive when their checksum is right."""

import gzip
import hashlib
import http.server
import os
import re
import threading
from dataclasses import replace

import pytest

from tests.recorded import recorded
from traces import TraceError, catalog, load
from traces.readers import readers

CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A local web server, and a catalog whose entry 'local' points at it."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.csv").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "www"))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.csv"
    entry = catalog.Entry("local", "test", url, "a.csv", "azure", "none", "none", hashlib.sha256(CONTENT).hexdigest())
    entries = {"local": entry, "unsure": replace(entry, name="unsure", sha256=None)}
    entries["changed"] = replace(entry, name="changed", sha256="0" * 64)
    entries["gone"] = replace(entry, name="gone", url=url.replace("a.csv", "b.csv"))
    monkeypatch.setattr(catalog, "catalog", lambda: entries)
    yield tmp_path / "data"
    server.shutdown()
    server.server_close()


def test_entries_are_complete():
    entries = catalog.catalog()
    assert {"mooncake_conversation", "azure_2023_code", "azure_2024_conv", "burstgpt_1", "ragpulse"} <= set(entries)
    for name, entry in entries.items():
        assert entry.url.startswith("https://") and entry.url.endswith(entry.filename), name
        assert entry.format in readers() and entry.licence and entry.citation, name
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256), name
    assert catalog.render().row_count == len(entries)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mooncake_conversation", "mooncake/conversation_trace.jsonl.gz"),
        ("azure_2023_code", "azure2023/AzureLLMInferenceTrace_code.csv"),
        ("azure_2023_conv", "azure2023/AzureLLMInferenceTrace_conv.csv"),
        ("ragpulse", "ragpulse/0_trace.jsonl.gz"),
    ],
)
def test_checksums_fit_the_recorded_files(name, file):
    assert catalog.checksum(recorded(f"traces/{file}")) == catalog.catalog()[name].sha256


def test_fetch_downloads_and_verifies(served):
    path = catalog.fetch("local", served)
    assert path.read_bytes() == CONTENT and len(load(path)) == 1
    assert catalog.fetch("unsure", served / "two", accept_unverified=True).read_bytes() == CONTENT


def test_fetch_leaves_nothing_that_is_not_right(served):
    with pytest.raises(TraceError, match="known checksum, but that failed"):
        catalog.fetch("changed", served)
    with pytest.raises(TraceError, match="that failed.*404"):
        catalog.fetch("gone", served)
    with pytest.raises(TraceError, match="--accept-unverified"):
        catalog.fetch("unsure", served)
    with pytest.raises(TraceError, match="must be one of local, .* got 'other'"):
        catalog.fetch("other", served)
    assert not served.exists() or os.listdir(served) == []


def test_from_verifies_a_file_on_disk(served, tmp_path):
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    assert catalog.fetch("local", served, packed).read_bytes() == CONTENT
    packed.write_bytes(gzip.compress(CONTENT + b"x"))
    with pytest.raises(TraceError, match="must have sha256 .* another version, or damaged"):
        catalog.fetch("local", served / "two", packed)
    assert os.listdir(served / "two") == []
