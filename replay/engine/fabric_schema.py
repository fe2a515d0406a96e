"""Row types of the fabric in the kernel's state: links, endpoints, transfers and the flows that they consist of.

Times are int64 picoseconds (`_ps`), indices are -1 for none, as in `replay.engine.schema`; sizes on links count units,
`unit` of them to a byte (FABRIC.md).
"""

from typing import NamedTuple

import numpy as np

from replay.fabric import KINDS, MOST_LINKS_OF_A_PATH

HANDOFF_KIND, FETCH_KIND, EXCHANGE, LOAD_KIND, WRITE_KIND, DRAIN_KIND, COMPACTION, REQUEST_KIND, BACKGROUND = range(
    len(KINDS))
MOST_UNITS = 1 << 61  # of a transfer
SPARE_FLOWS = 1 << 14  # rows kept for what one event begins
OUT, INTO, NIC_OUT, NIC_IN, WAYS = 0, 4, 8, 10, 12  # columns of `ways`; at most 4 links lie on a side of the cards
ECMP, SPRAY, ADAPTIVE = range(3)
BALANCES = ("ecmp", "spray", "adaptive")
WHOLE, LAYERWISE, CHUNKED = range(3)  # how a handoff leaves (NET.handoff)

NET = np.dtype([
    ("salt", "u8"),
    ("unit", "i8"),                # units in a byte
    ("kv_token_bytes", "i8"), ("block_bytes", "i8"),
    ("message_bytes", "i8"), ("message_ps", "i8"), ("outstanding", "i8"), ("local_ps", "i8"),
    ("request_token_bytes", "i8"), ("exchange_token_bytes", "i8"), ("exchange_group", "i8"),
    ("signal_ps", "i8"), ("sample_ps", "i8"), ("samples", "i8"),
    ("sequence", "i8"), ("begun", "i8"),     # events so far; transfers begun
    ("pass_number", "i8"),                   # how often shares were found
    ("inter", "i8"), ("collided", "i8"),     # flows over an uplink; those that found it taken and another free
    ("loss", "i4"),                          # thousandths of goodput
    ("flow_free", "i4"), ("transfer_free", "i4"), ("flows_used", "i4"), ("transfers_used", "i4"),
    ("flows_taken", "i4"),
    ("active", "i4"), ("last", "i4"), ("first", "i4"), ("crowds", "i4"),  # fair: flows under way, first to end
    ("events", "i4"),                        # in the heap
    ("recurring", "i4"),                     # rows of flows that are timers
    ("gateway", "i4"), ("classes", "i4"),
    ("handoff", "i1"), ("fair", "i1"), ("balance", "i1"), ("per_flow", "i1"), ("striping", "i1"), ("dirty", "i1"),
    ("unfair", "i1"),              # fair: flows came or went on crowded links since shares were found
    ("reads_links", "i1"), ("route_reads_links", "i1"),  # whether decode, or admit and route, read what links carry
], align=True)

LINK = np.dtype([
    ("rate", "i8"),                # units a picosecond
    ("free_ps", "i8"),             # fifo: when it has served what came so far
    ("peaks", "i8"),               # fair: sum of its flows' peaks
    ("room", "i8"), ("share", "i8"),         # while shares are found
    ("flows", "i4"), ("without", "i4"),      # flows on it; of these without a share
    ("head", "i4"), ("most", "i4"),          # first of its flows; how many there were at once so far
    ("receives", "i4"), ("seen_flows", "i4"),
    ("bytes", "i8"), ("busy_ps", "i8"),
    ("wait_ps", "f8"),             # sums of times leave int64 where thousands wait for hours
    ("since_ps", "i8"),            # fair: since when it is busy
    ("seen_free_ps", "i8"), ("seen_bytes", "i8"), ("seen_share", "f8"), ("spare", "i8"),
], align=True)

ENDPOINT = np.dtype([
    ("extra_ps", "i8"),
    ("node", "i4"), ("leaf", "i4"), ("domain", "i4"), ("group", "i4"), ("scale_out", "i4"), ("scale_in", "i4"),
], align=True)
NETWORK = np.dtype([
    ("latency_ps", "i8"), ("hop_ps", "i8"), ("rails", "i4"), ("spines", "i4"), ("first_up", "i4"), ("first_down", "i4"),
], align=True)
KIND = np.dtype([
    ("transfers", "i8"), ("bytes", "i8"), ("delivered", "i8"), ("delivered_bytes", "i8"), ("time_ps", "f8"),
    ("alone_ps", "f8"), ("longest_ps", "i8"), ("network", "i4"), ("urgency", "i4"),
], align=True)

# what a row of `flows` waits for
FREE, FLOWING, ENDED, DELIVERING, GENERATING, SIGNALLING, SAMPLING = range(7)
FLOW = np.dtype([                  # what finding shares looks at fills the first 64 bytes
    ("end_ps", "i8"),              # when its event comes
    ("sequence", "i8"),
    ("rate", "i8"), ("new_rate", "i8"),      # fair: units a picosecond since since_ps, and from now on
    ("pass_number", "i8"),
    ("peak", "i8"),                # the slowest link of its path
    ("next", "i4"), ("previous", "i4"),      # fair: flows under way by peak; next free row
    ("hops", "i4"), ("urgency", "i4"),
    ("left", "i8"), ("since_ps", "i8"),      # fair: units left at since_ps
    ("start_ps", "i8"), ("bytes", "i8"),
    ("transfer", "i4"), ("sibling", "i4"),
    ("state", "i8"), ("spare_1", "i8"), ("spare_2", "i8"),  # rows of two cache lines
], align=True)
TRANSFER = np.dtype([
    ("bytes", "i8"), ("begin_ps", "i8"), ("delay_ps", "i8"), ("alone_ps", "i8"),
    ("source", "i4"), ("target", "i4"), ("kind", "i4"), ("what", "i4"), ("epoch", "i4"),
    ("flows_left", "i4"), ("first_flow", "i4"), ("next", "i4"),
], align=True)
ENTRY = np.dtype([("next", "i4"), ("previous", "i4")], align=True)
GENERATOR = np.dtype([("key", "u8"), ("bytes", "i8"), ("count", "i8"), ("mean_ps", "f8")], align=True)
# the handoff of a request
TRANSIT = np.dtype([
    ("sent_ps", "i8"), ("ready_ps", "i8"),
    ("under_way", "i4"), ("cached", "i4"),   # transfers; tokens of the cache still to be sent
    ("source", "i4"),
    ("able", "i1"), ("ready", "i1"),         # the decode instance can hold it; its prefill is complete
], align=True)

# what the fabric is asked to do (replay/engine/fabric.py), and what it asks the event loop to do
OP_BEGIN, OP_FABRIC_EVENT, OP_SHARE, OP_QUOTE, OP_SHOW, OP_END, OP_MOVED = range(7)
ARRIVED, FETCHED, REQUESTED, EXCHANGED = 1, 2, 3, 4


class Wires(NamedTuple):
    """The fabric's part of the state; one row each, unused, without `Cluster.fabric`."""

    net: np.ndarray  # NET (1,)
    links: np.ndarray  # LINK (num_links,)
    endpoints: np.ndarray  # ENDPOINT (instances + stores + 1,)
    ways: np.ndarray  # int32 (endpoints, WAYS): links on the way out, on the way in, cards by network; -1 for none
    bisection: np.ndarray  # int32 (2,): link from prefill to decode, and back
    networks: np.ndarray  # NETWORK (2,)
    kinds: np.ndarray  # KIND (kinds,)
    flows: np.ndarray  # FLOW (capacity,)
    transfers: np.ndarray  # TRANSFER (capacity,)
    hops: np.ndarray  # int32 (capacity, MOST_LINKS_OF_A_PATH): links of each flow
    entries: np.ndarray  # ENTRY (capacity * MOST_LINKS_OF_A_PATH,): a flow in the list of a link
    agenda: np.ndarray  # int32 (capacity,): heap of flows by (end_ps, sequence)
    order: np.ndarray  # int32 (num_links,): heap of links by share
    crowded: np.ndarray  # int32 (num_links,): 1 + place in `crowd` of a link whose flows might want more than it has
    crowd: np.ndarray  # int32 (num_links,): these links, NET.crowds of them
    generators: np.ndarray  # GENERATOR (generators,)
    transits: np.ndarray  # TRANSIT (num_requests,)
    series: np.ndarray  # int64 (samples, 1 + num_links): time, then bytes so far by link


HOPS = MOST_LINKS_OF_A_PATH
