"""What the GPUs of a run took from the grid, where the hardware says what they take at rest and at work."""

from typing import TYPE_CHECKING

import numpy as np

from replay.errors import ConfigError
from replay.metrics import PS_PER_S

if TYPE_CHECKING:
    from replay.cluster import Cluster
    from replay.prices import Prices

J_PER_KWH = 3.6e6


def energy_kwh(cluster: "Cluster", busy_ps: np.ndarray, on_s: float | np.ndarray, pue: float) -> float | None:
    """Return the energy of a run: busy_w while an instance runs an iteration, idle_w the rest of its time, times PUE.

    An upper bound where busy_w is the thermal design power. Hosts, pool nodes and switches are not counted.

    busy_ps : int64 (instances,), read only
    on_s    : time that instances were on: the span from the first arrival to the last finish, or that of each
    returns : kWh of all GPUs; None where the power of some is unknown
    """
    profiles = [instance.profile for instance in cluster.instances]
    if not profiles or any(profile.idle_w is None or profile.busy_w is None for profile in profiles):
        return None
    idle_w, busy_w, gpus = np.array([[one.idle_w, one.busy_w, one.gpus] for one in profiles], np.float64).T
    busy_s = busy_ps / PS_PER_S
    # An interrupted replay may be busy after its last finish.
    joules = gpus * (busy_w * busy_s + idle_w * np.maximum(0.0, on_s - busy_s))
    return float(joules.sum()) * pue / J_PER_KWH


def refuse_unknown_power(cluster: "Cluster", prices: "Prices") -> None:
    """Refuse to charge for electricity where nobody knows how much a GPU takes.

    raises : ConfigError
    """
    if not prices.electricity_usd_per_kwh:
        return
    for instance in cluster.instances:
        for key in ("idle_w", "busy_w"):
            if getattr(instance.profile, key) is None:
                raise ConfigError(f"prices.electricity_usd_per_kwh needs the power of every GPU, but the hardware of "
                                  f"'{instance.profile.name}' has no {key}. Set hardware.{key}, or the price to 0.")
