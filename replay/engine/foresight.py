"""What only an oracle knows: when a node of the trie is used next."""

from replay.engine.evicting import ask_evict
from replay.engine.eviction_queue import link, unlink
from replay.engine.jit import kernel
from replay.engine.kvcache import row_of


@kernel
def foresee(state, r):
    """Tell the oracle when nodes of request r, admitted or gone, are used next; queue them by that, in place."""
    cluster = state.cluster[0]
    cache = state.cache
    row = cache.path_first[r]
    node = state.jobs[r].leaf
    while node >= 0:
        cache.next_use[node] = cache.next_row[row]
        row += 1
        for i in range(cluster.num_prefill + cluster.num_stores):
            h = i if i < cluster.num_prefill else i - cluster.num_prefill + cluster.num_instances
            s = row_of(cache, node, i)
            if s >= 0 and cache.slots[s].pins == 0:
                unlink(cache, state.instances[h], s)
                cache.slots[s].floor = -1e308
                cache.slots[s].score = ask_evict(state, h, s, 0)
                link(cache, state.instances[h], s)
        node = cache.nodes[node].parent
