"""stub"""
from replay.engine.jit import kernel

@kernel
def serve(hierarchy, m, ops, blocks, now_ps):
    return now_ps, now_ps

@kernel
def serve_times(hierarchy, m, ops, blocks, now_ps):
    return now_ps, now_ps

@kernel
def flush(hierarchy, slots, d, now_ps):
    return

@kernel
def merge_all(hierarchy, slots, d, now_ps):
    return

@kernel
def merge_level(hierarchy, slots, d, level, now_ps):
    return

@kernel
def needs_compaction(hierarchy, d):
    return -1

@kernel
def rows_left(hierarchy):
    return 1000000
