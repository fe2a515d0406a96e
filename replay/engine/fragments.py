"""stub"""
from replay.engine.jit import kernel

@kernel
def append(hierarchy, slots, d, s, first, blocks):
    return

@kernel
def trim(hierarchy, slots, s, d, blocks):
    return

@kernel
def begin_read(hierarchy, d):
    return

@kernel
def read_cost(hierarchy, slots, d, s, first, blocks):
    return
