"""Model files: one NumPy archive with the arrays of a model and a page of JSON about it; loading one runs no code."""

import json
import os
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from predictors.boosted import Boosted, Rank
from predictors.errors import PredictorError
from predictors.features import needs
from predictors.groups import Group, History
from predictors.model import Model
from predictors.survival import Survival
from traces.schema import Trace

FORMAT = 1
MODELS: dict[str, type[Model]] = {model.kind: model for model in (Group, History, Boosted, Rank, Survival)}
LIBRARIES = ("kvreplay", "numpy", "polars", "scikit-learn", "lightgbm")


def save(path: str | os.PathLike[str], model: Model, about: dict[str, Any], extra: dict[str, np.ndarray]) -> Path:
    """Write a fitted model, under a temporary name that is renamed when complete.

    about   : what else the file tells as JSON: trace, digest, rows, pace, conformal, inference_s
    extra   : further arrays: the calibration
    returns : the path, with .npz at its end
    raises  : PredictorError if it cannot be written
    """
    target = Path(path)
    target = target if target.suffix == ".npz" else target.with_name(f"{target.name}.npz")
    page = {
        "format": FORMAT,
        "kind": model.kind,
        "settings": model.settings(),
        "columns": needs(model.features),
        "versions": versions(),
        **about,
    }
    arrays = {f"model_{name}": array for name, array in model.arrays().items()} | extra
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as sink:
            np.savez_compressed(sink, about=np.array(json.dumps(page)), **arrays)  # type: ignore[arg-type]
        os.replace(temporary, target)
    except OSError as error:
        raise PredictorError(f"the model file {target} cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load(path: str | os.PathLike[str]) -> tuple[Model, dict[str, Any], dict[str, np.ndarray]]:
    """Return the model of a file, the page about it, and its further arrays.

    raises : PredictorError if the file is missing, damaged, or no model
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        page = json.loads(str(arrays.pop("about")))
        if page["format"] != FORMAT:
            raise PredictorError(
                f"the model file {path} has format {page['format']}, but this version reads {FORMAT}. Train it again."
            )
        own = {name.removeprefix("model_"): array for name, array in arrays.items() if name.startswith("model_")}
        model = MODELS[page["kind"]].restored(page["settings"], own)
    except PredictorError:
        raise
    except FileNotFoundError:
        raise PredictorError(
            f"the model file {path} does not exist. Make it with kvreplay predict train out={path}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, zipfile.BadZipFile, EOFError):
        raise PredictorError(f"the file {path} is no model of kvreplay, or is damaged. Train it again.") from None
    return model, page, {name: array for name, array in arrays.items() if not name.startswith("model_")}


def refuse_missing(page: dict[str, Any], trace: Trace, path: Any) -> None:
    """Raise PredictorError if a trace lacks columns that a model was trained with, naming them."""
    if missing := [name for name in page["columns"] if name not in trace]:
        raise PredictorError(
            f"the model {path} was trained with the columns {', '.join(page['columns'])}, but {trace.name} "
            f"has no {', '.join(missing)}. Train a model on a trace with the same columns."
        )


def versions() -> dict[str, str]:
    """Return the versions of what makes and reads models, as far as installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
