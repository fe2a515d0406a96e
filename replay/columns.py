"""The columns of the tables in a terminal: of one run by tier, and of the comparison of many."""

# heading, key of the summary, factor of the unit shown
COLUMNS = (
    ("TTFT s\np50", "ttft_s_p50", 1),
    ("\np99", "ttft_s_p99", 1),
    ("TPOT ms\np50", "tpot_s_p50", 1e3),
    ("\np99", "tpot_s_p99", 1e3),
    ("ITL ms\np50", "itl_s_p50", 1e3),
    ("\np99", "itl_s_p99", 1e3),
    ("E2E s\np50", "e2e_s_p50", 1),
    ("\np99", "e2e_s_p99", 1),
    ("queue s\np99", "queue_s_p99", 1),
    ("hit\nrate", "hit_rate", 1),
    ("SLO\nmet", "slo_attainment", 1),
    ("goodput\n/s", "goodput_per_s", 1),
)
# the same where a tier has a price or a penalty
SOLD = (("revenue\n$", "revenue_usd", 1), ("margin\n$", "margin_usd", 1))
LEAST_PART = 0.001  # of the cost: parts below it are not shown
PARTS = {"gpu": "GPUs", "cpu": "CPU", "dram": "DRAM", "ssd": "SSD", "network": "network", "electricity": "electricity",
         "stages": "stages"}
# heading, key of the summary, factor of the unit shown
COMPARED = (
    ("TTFT s\np50", "ttft_s_p50", 1),
    ("\np99", "ttft_s_p99", 1),
    ("TPOT ms\np50", "tpot_s_p50", 1e3),
    ("ITL ms\np99", "itl_s_p99", 1e3),
    ("E2E s\np99", "e2e_s_p99", 1),
    ("hit\nrate", "hit_rate", 1),
    ("SLO\nmet", "slo_attainment", 1),
    ("goodput\n/s", "goodput_per_s", 1),
)

# the same for runs with a KV hierarchy, where any run of the comparison has one
COMPARED_TIERS = (
    ("TTFT s\nmean", "ttft_s_mean", 1),
    ("hit rate\nDRAM", "hit_rate_dram", 1),
    ("\ndisk", "hit_rate_disk", 1),
    ("loads\nhidden", "hidden_share", 1),
    ("prefill\nbusy s", "prefill_busy_s", 1),
    ("disk I/O\nTB", "disk_io_tb", 1),
)
# and for runs with a fabric
COMPARED_FABRIC = (
    ("TTFT s\nmean", "ttft_s_mean", 1),
    ("ITL ms\nmean", "itl_s_mean", 1e3),
    ("handoff s\nmean", "handoff_s_mean", 1),
    ("exposed s\np99", "exposed_handoff_s_p99", 1),
    ("colli-\nsions", "collision_share", 1),
    ("card use\nmax", "nic_utilisation_max", 1),
    ("$ for 1M\ntokens", "usd_per_million_tokens", 1),
)
# and for runs whose instances come, go or fail
COMPARED_LIFE = (
    ("GPU-\nhours", "gpu_hours", 1),
    ("cost\n$", "cost_usd", 1),
    ("starts", "instances_started", 1),
    ("misses while\nstarting", "misses_while_starting", 1),
    ("fail-\nures", "instance_failures", 1),
    ("lost", "lost_requests", 1),
)
# of a hierarchy whose nodes come and go
COMPARED_NODES = (("DRAM node-\nhours", "memory_node_hours", 2), ("storage\nserver-hours", "storage_node_hours", 2))
# and where some fail
COMPARED_FAILURES = (
    ("avail-\nability", "availability", 1),
    ("served\n%", "served_share", 100),
    ("gold\n%", "gold.served_share", 100),
    ("silver\n%", "silver.served_share", 100),
    ("bronze\n%", "bronze.served_share", 100),
    ("lost at\nonce", "losses_of_a_failure_max", 1),
    ("recovery\ns", "recovery_s_mean", 1),
    ("tokens\nrecomputed", "recomputed_tokens", 1),
    ("tokens\nrestored", "restored_tokens", 1),
    ("tokens\nagain", "regenerated_tokens", 1),
)
# and for runs with speculative decoding
COMPARED_SPECULATION = (
    ("TPOT ms\nmean", "tpot_s_mean", 1e3),
    ("tokens an\niteration", "tokens_per_iteration", 1),
    ("drafts\naccepted", "acceptance_rate", 1),
)
# and for runs with stages beside the transformer
COMPARED_STAGES = (
    ("TTFT s\nmean", "ttft_s_mean", 1),
    ("decoder\nbinds", "stage.decoder.binds_share", 1),
    ("\n1st token", "stage.decoder.binds_first_share", 1),
    ("$ an\nhour", "usd_per_hour", 1),
)
