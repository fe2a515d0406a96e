"""Shorter names of configurations: what all of them repeat is said once."""

from collections.abc import Sequence

import polars as pl

from replay.report.folders import Study

COLUMNS = ("configuration", "first", "second")


def short(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return a shorter name of each configuration, and a sentence that says what was left out.

    names : as `replay.study.composed.labels` makes them: "policy/route=random seed=1"
    """
    pairs = [[part.partition("=") for part in name.split(" ")] for name in names]
    keys = {tuple(key for key, _, _ in parts) for parts in pairs}
    if len(names) > 1 and len(keys) == 1 and len(key := next(iter(keys))) == 1 and all(one[0][2] for one in pairs):
        return {name: one[0][2] for name, one in zip(names, pairs, strict=True)}, f" Configurations differ in {key[0]}."
    cut = {
        name: " ".join(part.removeprefix("policy/").removeprefix("policy.") for part in name.split(" "))
        for name in names
    }
    return (cut if len(set(cut.values())) == len(names) else {name: name for name in names}), ""


def shortened(study: Study) -> tuple[Study, str]:
    """Return a study whose tables use the shorter names, and the sentence that says what was left out."""
    names = dict.fromkeys(
        name
        for frame in study.tables.values()
        for column in COLUMNS
        if column in frame.columns
        for name in frame[column].cast(pl.String).drop_nulls()
    )
    found, says = short(list(names))
    tables = {
        key: frame.with_columns(
            pl.col(column).cast(pl.String).replace(found) for column in COLUMNS if column in frame.columns
        )
        for key, frame in study.tables.items()
    }
    return Study(study.kind, study.folder, tables, study.summary, study.texts), says
