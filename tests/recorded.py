"""Find recorded data beside the checkout, or skip with the reason."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("KVREPLAY_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def recorded(relative: str) -> Path:
    """Return the path of a recorded file, or skip the calling test.

    relative : path below the shared folder, e.g. "traces/azure2023/AzureLLMInferenceTrace_code.csv"
    returns  : an existing path; set KVREPLAY_SHARED to read them from elsewhere
    """
    path = FOLDER / relative
    if not path.exists():
        pytest.skip(f"recorded data not present: {relative} (set KVREPLAY_SHARED to a folder that has it)")
    return path
