"""Turn seconds into the integer picoseconds and femtoseconds of the kernel, in one place."""

import math

import numpy as np

from replay.errors import ConfigError

PS_PER_S = 1e12
FS_PER_S = 1e15
DAYS = 106
LONGEST_S = DAYS * 86400.0
LARGEST_INT64 = 2**63 - 1


def ps(seconds: float, name: str = "a time") -> int:
    """Round seconds to picoseconds, half to even.

    seconds : finite, 0 <= seconds <= 106 days (the range of int64 picoseconds)
    name    : what the value is called in the sentence of a refusal
    returns : int [ps]
    raises  : ConfigError for NaN, an infinity, a negative value or one beyond the range
    """
    return _rounded(seconds, PS_PER_S, name)


def fs(seconds: float, name: str = "a time") -> int:
    """Round seconds to femtoseconds, half to even; for coefficients far below a picosecond.

    seconds : finite, 0 <= seconds <= 9000 s
    returns : int [fs]
    raises  : ConfigError as `ps`
    """
    return _rounded(seconds, FS_PER_S, name)


def ps_array(seconds: np.ndarray, name: str = "a time") -> np.ndarray:
    """Round an array of seconds to picoseconds; every element equals `ps` of it.

    seconds : float64 (n,) read only
    returns : int64 (n,) [ps]
    raises  : ConfigError naming the first bad row
    """
    values = np.asarray(seconds, dtype=np.float64)
    bad = ~((values >= 0) & (values <= LONGEST_S))
    if bad.any():
        row = int(np.argmax(bad))
        _refuse(float(values[row]), f"{name} of row {row}", LONGEST_S)
    return np.rint(values * PS_PER_S).astype(np.int64)


def _rounded(seconds: float, units_per_s: float, name: str) -> int:
    longest_s = LONGEST_S * PS_PER_S / units_per_s
    try:
        value = float(seconds)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a number of seconds, but is {seconds!r}. Give a plain number.") from None
    if not math.isfinite(value) or not 0 <= value <= longest_s:
        _refuse(value, name, longest_s)
    return round(value * units_per_s)


def _refuse(value: float, name: str, longest_s: float) -> None:
    raise ConfigError(
        f"{name} must be a finite time from 0 to {longest_s:g} s (kernel time is int64), but is {value!r} s. "
        f"Give a value in seconds within that range."
    )
