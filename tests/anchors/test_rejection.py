"""Directions known of early rejection: no prefill is wasted, prefill and decode swing apart, prediction damps that."""

from tests.anchors.stations import compiled
from tests.bench.rejection import POLICIES, swings

pytestmark = compiled


def test_early_rejection_swings_and_prediction_damps_it() -> None:
    found = {name: swings(policies, 4000) for name, policies in POLICIES.items()}
    late, early, predicted = found["after prefill"], found["early"], found["early, predicted"]
    assert late.wasted_share > 0.1 and early.wasted_share == predicted.wasted_share == 0.0
    assert early.met > 3 * late.met and predicted.met > 3 * late.met
    # out of phase: what is in prefill now is in decode later, not now
    assert early.later > 0.3 > 0.2 > early.at_once
    relative = {name: row.prefill[1] / row.prefill[0] for name, row in found.items()}
    assert relative["early, predicted"] < 0.6 * relative["early"] and predicted.later < early.later
