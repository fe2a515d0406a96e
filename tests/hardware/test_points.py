"""Hardware of kind points costs what was measured at its points, lies straight between, and refuses what falls."""

import pytest

from replay.errors import ConfigError
from replay.hardware import build, decode_s, prefill_s, table_ps
from replay.hardware.conf import load
from replay.hardware.points import through

NODE = load("hardware", "mooncake_a800_table") | {"prefill_token_sq_s": 1e-9}
SIMPLE = NODE | {"prefills": [[100, 0, 0.2], [300, 0, 0.4], [1000, 990, 0.11]], "prefill_token_sq_s": 0.0,
                 "decodes": [[1, 100, 0.03], [1, 300, 0.05], [4, 100, 0.08]], "decode_request_s": 1e-3}  # fmt: skip


def points(**changes):
    return build({"hardware": SIMPLE | changes})


def test_it_costs_what_was_measured():
    profile = points()
    assert [prefill_s(profile, *at) for at in ((100,), (300,), (1000, 990))] == pytest.approx([0.2, 0.4, 0.11])
    assert prefill_s(profile, 200) == pytest.approx(0.3) and prefill_s(profile, 400) == pytest.approx(0.5)
    assert decode_s(profile, 100) == pytest.approx(0.03) and decode_s(profile, 200) == pytest.approx(0.04)
    assert decode_s(profile, 100, 4) == pytest.approx(0.08) and decode_s(profile, 100, 5) == pytest.approx(0.091)


def test_the_square_is_told_apart():
    """The points stay what they were; a chunk behind a context costs b^2 - a^2 more."""
    profile = points(prefill_token_sq_s=1e-7)
    assert [prefill_s(profile, *at) for at in ((100,), (300,))] == pytest.approx([0.2, 0.4])
    assert prefill_s(profile, 300, 200) - prefill_s(profile, 100) == pytest.approx(1e-7 * (300**2 - 200**2 - 100**2))


def test_below_the_first_point_the_chord_reaches_back_or_is_flat():
    assert through({10: 1.0, 20: 1.5})[0] == (0, 500_000_000_000, 50_000_000_000)
    assert through({10: 1.0, 20: 9.0})[0] == (0, 1_000_000_000_000, 0)
    assert through({4: 1.0}, beyond_s=0.5)[-1] == (4, 1_000_000_000_000, 500_000_000_000)
    assert table_ps(points().kv_table, 0) == 0


@pytest.mark.parametrize(("changes", "words"), [
    ({"prefills": [[100, 0, 0.2], [300, 0, 0.1]]}, "must not cost less for more, but 100 cost 0.2 s and 300 0.1 s"),
    ({"prefills": [[100, 0, 0.2], [150, 50, 0.3]]}, "two of them have as many computed tokens"),
    ({"prefills": [[100, 100, 0.2]]}, "must compute a token, but 100 of 100 are cached"),
    ({"prefills": []}, "must be a list of measured points"),
    ({"prefills": [[100, 0.2]]}, "two counts and seconds"),
    ({"prefills": [[100, 0, -1]]}, "finite, above 0"),
    ({"decodes": [[4, 100, 0.08]]}, "must know a decode of 1 request"),
    ({"decodes": [[1, 100, 0.05], [1, 300, 0.03]]}, "must not cost less"),
    ({"prefill_token_sq_s": 1.0}, "must be a finite time"),
    ({"speed": 1}, "hardware.speed is not a known key")])  # fmt: skip
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        points(**changes)


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="hardware needs decodes"):
        build({"hardware": {key: value for key, value in SIMPLE.items() if key != "decodes"}})
