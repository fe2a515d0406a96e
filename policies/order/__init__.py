"""Order of a queue, and who may preempt whom."""
