from policies.planning import KEEP_S, ROOM, need_now, nodes_needed, settled, smoothed
from replay.policy import DRAM_NODES, Span, policy

PARTS = 96  # of a season, for each of which the need is remembered
NOW, LAST, TODAY, OUTPUT = 2 * PARTS, 2 * PARTS + 2, 2 * PARTS + 3, 2 * PARTS + 5


@policy("scale")
def predictive(pool, pools, now_ps, memory, most_busy: Span(0.1, 1.0) = 0.8, season_s: Span(60.0, 604800.0) = 86400.0,
               smooth_s: Span(0.0, 7200.0) = 300.0, band: Span(0.0, 1.0) = 0.3, keep_s: Span(0.0, 604800.0) = KEEP_S):
    """Have what was needed a season ago at the hour when a start would be over, by today's level; never less than now.

    Need is that of rates and lengths since the last question by the engine's coefficients, at `most_busy`, smoothed
    over `smooth_s`, that of DRAM nodes and storage servers as planning.nodes_needed with `keep_s`; a season of
    `season_s` has 96 parts. In the first one it follows the need. One goes only if `band` of another could go too.
    source : own; seasonal naive forecast (Hyndman and Athanasopoulos, Forecasting, 5.2), scaled to today's level
    """
    place = ROOM * pool.index
    share = pool.interval_s / max(1e-9, pool.interval_s + smooth_s)
    if pool.role >= DRAM_NODES:
        need = nodes_needed(pool, keep_s, most_busy) * most_busy
    else:
        need = need_now(pool, memory, place + OUTPUT)
    now = smoothed(memory, place + NOW, need, share)
    part = int(pool.since_s / season_s * PARTS) % PARTS
    if int(memory[place + LAST]) != part + 1:
        memory[place + PARTS + part] = memory[place + part]  # what was today's at this hour is the last season's
        memory[place + LAST], memory[place + TODAY + 1] = part + 1.0, 0.0
    memory[place + part] = smoothed(memory, place + TODAY, now, 0.1)
    ahead = int((pool.since_s + pool.start_s + pool.interval_s) / season_s * PARTS)
    then, before = 0.0, memory[place + PARTS + part]
    for k in range(part, part + 1 + min(PARTS // 2, max(0, ahead - int(pool.since_s / season_s * PARTS)))):
        then = max(then, memory[place + PARTS + k % PARTS] if k == part else memory[place + k % PARTS])
    level = min(2.0, max(0.5, now / before)) if before > 0.0 else 0.0
    return settled(pool, max(now, then * level) / most_busy, band)
