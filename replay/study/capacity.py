"""How much load something carries: the highest rate scale at which it keeps what it promised."""

from collections.abc import Callable

MOST_SCALE, LEAST_SCALE = 2.0**16, 2.0**-10  # an hour at the least scale takes 43 days of the 106 that time has


def capacity(attained: Callable[[float], float], target: float, tolerance: float = 0.02) -> float:
    """Return the highest rate scale found at which attainment is at least a target; 0 where the least scale misses it.

    attained  : rate scale -> share of requests that met their objectives; expensive, called once a scale
    target    : share within (0, 1]
    tolerance : relative width of the last interval: its lower end kept the target, its upper end missed it. Attainment
                need not fall with the rate everywhere; what is returned kept the target, and one step above did not
    cost      : about 2 log2(answer) + log2(1 / tolerance) replays
    source    : DistServe (Zhong et al., OSDI 2024): goodput by bisection on the rate
    """
    low, high = 0.0, 1.0
    if attained(1.0) >= target:
        low = 1.0
        while low < MOST_SCALE:
            high = 2.0 * low
            if attained(high) < target:
                break
            low = high
        else:
            return low
    else:
        while high > LEAST_SCALE:
            low = 0.5 * high
            if attained(low) >= target:
                break
            high = low
        else:
            return 0.0
    while high > low * (1.0 + tolerance):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if attained(middle) >= target else (low, middle)
    return low
