import math

from replay.policy import Span, policy


@policy("scale")
def schedule(pool, pools, now_ps, day: Span(0.0, 1.0) = 1.0, night: Span(0.0, 1.0) = 0.5,
             from_h: Span(0.0, 24.0) = 8.0, until_h: Span(0.0, 24.0) = 22.0, begin_h: Span(0.0, 24.0) = 0.0):
    """Have the share `day` of a pool from `from_h` to `until_h` every day, `night` else; the day starts a start early.

    begin_h : time of day at which the replay begins; a day from 22 to 6 goes over midnight
    source : own; scheduled actions of every cloud autoscaler
    """
    hour = (begin_h + pool.since_s / 3600.0) % 24.0
    soon = (hour + pool.start_s / 3600.0) % 24.0
    length = (until_h - from_h) % 24.0
    by_day = (hour - from_h) % 24.0 < length or (soon - from_h) % 24.0 < length
    return int(math.ceil((day if by_day else night) * pool.most))
