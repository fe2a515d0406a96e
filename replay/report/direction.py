"""Which way a column of the report's tables is better, None where that says nothing."""

import re

from replay.columns import (
    COMPARED,
    COMPARED_FABRIC,
    COMPARED_FAILURES,
    COMPARED_LIFE,
    COMPARED_NODES,
    COMPARED_TIERS,
)
from replay.metrics import WANTED, better

STATISTIC = re.compile(r"_(mean|max|p\d+)$")
LOWERED = ("rejected", "failed", "unfinished", "preemptions", "usd_per_hour", "cost_usd", "queue_s", "max_itl_s",
           "itl_top10_s", "exposed_load_s", "gpus")  # fmt: skip


def _stem(name: str) -> str:
    return STATISTIC.sub("", name)


SHOWN = (*COMPARED, *COMPARED_TIERS, *COMPARED_FABRIC, *COMPARED_LIFE, *COMPARED_NODES, *COMPARED_FAILURES)
JUDGED = {_stem(key) for _, key, _ in SHOWN} | {*WANTED, *LOWERED}


def way(metric: str) -> int | None:
    """Return HIGHER or LOWER, whichever is better, of a metric of a summary; None where that is not known.

    metric : key of a summary, of all requests or of a tier ("gold.ttft_s_p99"); its quantile does not matter
    """
    name = metric.rpartition(".")[2]
    return better(name) if _stem(name) in JUDGED else None
