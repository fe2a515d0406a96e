"""Synthetic workloads: same kind, size, seed and parameters give the same bytes.

Streams of arrivals, lengths and prefixes are independent, so a change of one leaves the others as they are. The draws
come from NumPy's Generator on Philox: another NumPy release may change them.
"""

from traces.synthetic.config import from_config, trie_from_config
from traces.synthetic.kinds import KINDS
from traces.synthetic.make import make

__all__ = ["KINDS", "from_config", "make", "trie_from_config"]
