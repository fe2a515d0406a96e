"""Counter-based random draws: no hidden state, so the order of events cannot change them."""

import numba
import numpy as np

from traces.jit import INTERPRETED

_MASK = 2**64 - 1


def mix(value: int) -> int:
    """Return the splitmix64 finaliser of a 64-bit integer, in plain Python.

    source : Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014
    """
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def request_keys(seed: int, count: int) -> np.ndarray:
    """Return the random key of every request, uint64 (count,): a hash of (seed, row)."""
    start = np.uint64(mix(seed & _MASK))
    return mix_array(np.arange(count, dtype=np.uint64) ^ start)


def mix_array(values: np.ndarray) -> np.ndarray:
    """Return `mix` of every value, uint64."""
    value = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _blend_interpreted(key, value):
    return mix(int(key) ^ int(value))


def _blend_compiled(key, value):
    mixed = (np.uint64(key) ^ np.uint64(value)) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _pick_interpreted(hashed, count):
    return int(hashed) % int(count)


def _pick_compiled(hashed, count):
    return np.int64(hashed % np.uint64(count))


blend = _blend_interpreted if INTERPRETED else numba.njit(nogil=True)(_blend_compiled)
blend.__doc__ = """Return `mix` of key ^ value, uint64; value >= 0."""
pick = _pick_interpreted if INTERPRETED else numba.njit(nogil=True)(_pick_compiled)
pick.__doc__ = """Return a hash modulo a count, int64."""


def plain_uniform(key, stream):
    """Return `uniform` where no compiled code is wanted."""
    return (mix(int(key) ^ mix(int(stream))) >> 11) * 2.0**-53


def _uniform_compiled(key, stream):
    return np.float64(blend(key, blend(np.uint64(0), stream)) >> np.uint64(11)) * 2.0**-53


uniform = plain_uniform if INTERPRETED else numba.njit(nogil=True)(_uniform_compiled)
uniform.__doc__ = """Return a uniform draw in [0, 1) that depends on (key, stream) only.

    key    : uint64, a request's `random_key`
    stream : int >= 0, tells several draws of one request apart
    """


def _clockwise_interpreted(key, instance, point):
    place = blend(blend(1 << 40, instance), point)
    return ((place - int(key)) & _MASK) * 2.0**-64


def _clockwise_compiled(key, instance, point):
    place = blend(blend(np.uint64(1 << 40), instance), point)
    return np.float64(place - np.uint64(key)) * 2.0**-64


clockwise = _clockwise_interpreted if INTERPRETED else numba.njit(nogil=True)(_clockwise_compiled)
clockwise.__doc__ = """Return how far clockwise of a uint64 key a place of an instance is on a hash ring, in rounds."""
