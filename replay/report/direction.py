"""Which way a metric is better: read from the tables that compare runs in the terminal."""

import re

from replay.table import COMPARED, COMPARED_FABRIC, COMPARED_TIERS, HIGHER, LOWER

# what no table of the terminal shows
OTHERS = {
    "weighted_attainment": HIGHER,
    "output_tokens_per_s": HIGHER,
    "requests_per_s": HIGHER,
    "per_gpu": HIGHER,
    "per_usd_per_hour": HIGHER,
    "rate_scale": HIGHER,
    "revenue_usd": HIGHER,
    "finished": HIGHER,
    "met": HIGHER,
    "rejected": LOWER,
    "failed": LOWER,
    "unfinished": LOWER,
    "preemptions": LOWER,
    "usd_per_hour": LOWER,
    "queue_s_p99": LOWER,
    "max_itl_s": LOWER,
    "itl_top10_s": LOWER,
    "exposed_load_s": LOWER,
    "gpus": LOWER,
    "usd": LOWER,
}
STATISTIC = re.compile(r"_(mean|max|p\d+)$")


def _stem(name: str) -> str:
    return STATISTIC.sub("", name)


WAYS = {_stem(key): way for key, way in OTHERS.items()}
WAYS |= {_stem(key): way for _, key, way, _ in (*COMPARED, *COMPARED_TIERS, *COMPARED_FABRIC)}


def way(metric: str) -> int | None:
    """Return HIGHER or LOWER, whichever is better, of a metric of a summary; None where that is not known.

    metric : key of a summary, of all requests or of a tier ("gold.ttft_s_p99"); its quantile does not matter
    """
    name = metric.rpartition(".")[2]
    return WAYS.get(_stem(name))
