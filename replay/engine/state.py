"""Hand the whole state to compiled code as one pointer.

A NamedTuple of twenty arrays costs seven words an array at every call and minutes to compile. Here the kernel gets a
table of addresses and shapes instead; `state.jobs` in compiled code makes the array from its row of the table.
Interpreted code sees the NamedTuple itself: the source is the same.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types as t
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr, models, overload, register_model

from replay.engine import drafting_schema, fabric_schema, life_schema, request_schema, schema, stage_schema, tier_schema
from replay.engine.adapters import FUNCTION_TYPES
from replay.engine.schema import State

WORDS = 4  # address and up to three lengths
LINE_BYTES = 64
FUNCTION_WORDS = 3  # of a first-class function in compiled code
# name -> (element type, dimensions), in the order of the table; the parts of `cache` and `cost` stand beside the rest
ARRAYS: dict[str, tuple[Any, int]] = {
    "cluster": (schema.CLUSTER, 1), "requests": (request_schema.REQUEST, 1), "jobs": (schema.JOB, 1),
    "views": (schema.VIEW, 1),
    "prefill_views": (schema.VIEW, 1), "decode_views": (schema.VIEW, 1), "instances": (schema.INSTANCE, 1),
    "batch": (np.dtype("i8"), 3), "growth": (np.dtype("i4"), 2), "tiers": (np.dtype("i4"), 2),
    "tree": (np.dtype("i8"), 1),
    "histogram": (np.dtype("i8"), 2), "gaps": (np.dtype("i8"), 1),
    "gap_first": (np.dtype("i8"), 1), "tunables": (np.dtype("f8"), 2), "log": (schema.EVENT, 1),
    "nodes": (schema.NODE, 1), "slot_of": (np.dtype("i4"), 2), "slots": (schema.SLOT, 1),
    "pasts": (schema.PAST, 1), "prefix": (schema.PREFIX, 1),
    "queue": (np.dtype("i4"), 1),
    "next_use": (np.dtype("i8"), 1), "next_row": (np.dtype("i8"), 1), "path_first": (np.dtype("i8"), 1),
    "classes": (schema.GROUP, 1), "tails": (np.dtype("i4"), 1),
    "profiles": (schema.PROFILE, 1), "segments": (schema.SEGMENT, 1),
    "stores": (tier_schema.STORE, 1), "loads": (tier_schema.LOAD, 1), "parts": (tier_schema.PART, 1),
    "offer": (schema.OFFER, 1), "writes": (tier_schema.WRITE, 1), "timer_heap": (tier_schema.TIMER, 1),
    "clock": (tier_schema.CLOCK_ENTRY, 1), "spills": (tier_schema.SPILL, 1), "changes": (tier_schema.CHANGE, 1),
    "known": (np.dtype("i8"), 2), "needed": (np.dtype("i4"), 2), "rings": (tier_schema.RING, 1),
    "points": (tier_schema.POINT, 1), "owners": (tier_schema.OWNER, 1), "keys": (tier_schema.KEY, 1),
    "occupancy": (np.dtype("i8"), 2),
    "fragments": (tier_schema.FRAGMENT, 1), "runs": (tier_schema.RUN, 1), "media": (tier_schema.MEDIUM, 1),
    "disks": (tier_schema.DISK, 1), "free": (np.dtype("i8"), 1),
    "net": (fabric_schema.NET, 1), "links": (fabric_schema.LINK, 1), "endpoints": (fabric_schema.ENDPOINT, 1),
    "ways": (np.dtype("i4"), 2), "bisection": (np.dtype("i4"), 1), "networks": (fabric_schema.NETWORK, 1),
    "kinds": (fabric_schema.KIND, 1), "flows": (fabric_schema.FLOW, 1), "transfers": (fabric_schema.TRANSFER, 1),
    "hops": (np.dtype("i4"), 2), "entries": (fabric_schema.ENTRY, 1), "agenda": (np.dtype("i4"), 1),
    "order": (np.dtype("i4"), 1), "crowded": (np.dtype("i4"), 1), "crowd": (np.dtype("i4"), 1),
    "generators": (fabric_schema.GENERATOR, 1), "transits": (fabric_schema.TRANSIT, 1),
    "series": (np.dtype("i8"), 2),
    "seen": (request_schema.SEEN, 1), "targets": (request_schema.TARGET, 1), "spells": (request_schema.SPELL, 1),
    "accounts": (request_schema.ACCOUNT, 2), "ledgers": (request_schema.LEDGER, 1), "shares": (np.dtype("f8"), 1),
    "prefix_keys": (np.dtype("u8"), 2), "told": (schema.VIEW, 1),
    "moving": (request_schema.MOVE, 1),
    "quantiles": (np.dtype("i4"), 2), "workers": (np.dtype("i8"), 1), "left_class": (np.dtype("i4"), 1),
    "left": (np.dtype("f8"), 2), "learned": (np.dtype("i4"), 2), "cells": (np.dtype("f8"), 2),
    "looks": (np.dtype("f8"), 2), "weights": (np.dtype("f8"), 1), "gains": (np.dtype("f8"), 1),
    "inverse": (np.dtype("f8"), 2), "record": (np.dtype("f8"), 1),
    "life": (life_schema.LIFE, 1), "node_lives": (life_schema.LIFE, 1), "pools": (life_schema.POOL, 1),
    "totals": (life_schema.TALLY, 1),
    "asked": (life_schema.TALLY, 1), "failures": (life_schema.FAILURE, 1), "setting": (life_schema.SETTING, 1),
    "life_timers": (tier_schema.TIMER, 1), "moments": (life_schema.MOMENT, 1), "losses": (life_schema.LOSS, 1),
    "offered": (schema.VIEW, 1), "offered_decodes": (schema.VIEW, 1), "offered_ids": (np.dtype("i8"), 1),
    "decode_ids": (np.dtype("i8"), 1),
    "pipe": (stage_schema.PIPE, 1), "stations": (stage_schema.STATION, 1), "benches": (stage_schema.BENCH, 1),
    "tasks": (stage_schema.TASK, 1), "calls": (stage_schema.CALL, 1), "journeys": (stage_schema.JOURNEY, 1),
    "lines": (np.dtype("i4"), 3), "agendas": (np.dtype("i8"), 1),
    "drafting": (drafting_schema.DRAFTING, 1), "drafts": (drafting_schema.DRAFT, 1), "reach": (np.dtype("f8"), 1),
}
# in compiled code these are the state itself
GROUPS = ("cache", "cost", "hierarchy", "wires", "asking", "lives", "pipeline", "speculation")


def arrays(state: State) -> list[np.ndarray]:
    """Return every array of a state in the order of the table."""
    flat = {**state._asdict(), **state.cache._asdict(), **state.cost._asdict(), **state.hierarchy._asdict(),
            **state.wires._asdict(), **state.asking._asdict(), **state.lives._asdict(), **state.pipeline._asdict(),
            **state.speculation._asdict()}
    return [flat[name] for name in ARRAYS]


def in_lines(count: int, dtype: np.dtype) -> np.ndarray:
    """Return rows of zeros that begin at a line of the processor's cache, so that one of 64 bytes lies in one."""
    room = np.zeros(count * dtype.itemsize + LINE_BYTES, np.uint8)
    first = -room.ctypes.data % LINE_BYTES
    return room[first : first + count * dtype.itemsize].view(dtype)


def table(state: State) -> np.ndarray:
    """Return the addresses and lengths of a state's arrays, and room for the policies; the state must outlive it.

    raises : TypeError if an array has another type, shape or layout than ARRAYS says: compiled code would read nonsense
    """
    words = np.zeros(len(ARRAYS) * WORDS + len(schema.Policies._fields) * FUNCTION_WORDS, np.int64)
    rows = words[: len(ARRAYS) * WORDS].reshape(len(ARRAYS), WORDS)
    for row, (name, (dtype, dimensions)), array in zip(rows, ARRAYS.items(), arrays(state), strict=True):
        if array.dtype != dtype or array.ndim != dimensions or not array.flags.c_contiguous:
            raise TypeError(f"state.{name} must be a contiguous {dimensions}-d array of {dtype}, "
                            f"but is {array.dtype} {array.shape}")
        row[0] = array.ctypes.data
        row[1 : 1 + dimensions] = array.shape
    return words


class StateType(t.Type):
    """The Numba type of a state: a pointer to its table."""

    def __init__(self) -> None:
        super().__init__(name="ReplayState")


STATE = StateType()
register_model(StateType)(models.OpaqueModel)


@intrinsic
def state_at(typingctx, table_type):
    """Return the state behind a table of addresses (int64 array)."""

    def build(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.bitcast(array.data, cgutils.voidptr_t)

    return STATE(table_type), build


class PoliciesType(t.Type):
    """The Numba type of the chosen policies: a pointer to their first-class functions behind the state's table."""

    def __init__(self) -> None:
        super().__init__(name="ReplayPolicies")


POLICIES = PoliciesType()
register_model(PoliciesType)(models.OpaqueModel)


@intrinsic
def policies_at(typingctx, table_type, admit, route, decode, order, batch, evict, fetch, write, migrate, scale, recover,
                tiers, fabric, moves, learning, life, stages, drafting):
    """Keep first-class functions behind the table and return them as one pointer."""

    def build(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        base = builder.gep(array.data, [ir.IntType(64)(len(ARRAYS) * WORDS)])
        for k, function in enumerate(arguments[1:]):
            place = builder.gep(base, [ir.IntType(64)(k * FUNCTION_WORDS)])
            builder.store(function, builder.bitcast(place, function.type.as_pointer()))
        return builder.bitcast(base, cgutils.voidptr_t)

    functions = (admit, route, decode, order, batch, evict, fetch, write, migrate, scale, recover, tiers, fabric, moves,
                 learning, life, stages, drafting)
    return POLICIES(table_type, *functions), build


@lower_getattr(StateType, "policies")
def get_policies(context, builder, state_type, state):
    """Find the policies behind the state's table."""
    words = builder.bitcast(state, ir.IntType(64).as_pointer())
    return builder.bitcast(builder.gep(words, [ir.IntType(64)(len(ARRAYS) * WORDS)]), cgutils.voidptr_t)


def address_of(state):
    """Return a state as a number that `state_from` turns back, to cross a first-class function."""
    return state  # interpreted: the state itself


def state_from(address):
    """Return the state behind a number from `address_of`."""
    return address


@intrinsic
def _to_number(typingctx, state_type):
    def build(context, builder, signature, arguments):
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return t.int64(state_type), build


@intrinsic
def _from_number(typingctx, address_type):
    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return STATE(address_type), build


@overload(address_of, inline="always")
def _address_of(state):
    return lambda state: _to_number(state)


@overload(state_from, inline="always")
def _state_from(address):
    return lambda address: _from_number(address)


def _lower_policy(name: str, place: int) -> None:
    """Say how compiled code loads one policy."""

    @lower_getattr(PoliciesType, name)
    def get(context, builder, policies_type, policies):
        words = builder.bitcast(policies, ir.IntType(64).as_pointer())
        kind = context.get_value_type(FUNCTION_TYPES[name])
        at = builder.bitcast(builder.gep(words, [ir.IntType(64)(place * FUNCTION_WORDS)]), kind.as_pointer())
        loaded = builder.load(at)
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        return loaded


for _place, _name in enumerate(schema.Policies._fields):
    _lower_policy(_name, _place)


@infer_getattr
class PolicyAttributes(AttributeTemplate):
    """Types of the policies in compiled code."""

    key = PoliciesType

    def generic_resolve(self, policies, name):
        """Return the type of one policy."""
        return FUNCTION_TYPES.get(name)


def _lower(name: str, place: int, array_type: t.Array) -> None:
    """Say how compiled code makes the array `name`: from its row of the table, constant while the kernel runs."""

    @lower_getattr(StateType, name)
    def get(context, builder, state_type, state):
        words = builder.bitcast(state, ir.IntType(64).as_pointer())

        def word(k):
            loaded = builder.load(builder.gep(words, [ir.IntType(64)(place * WORDS + k)]))
            loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
            return loaded

        array = context.make_array(array_type)(context, builder)
        shape = [word(1 + k) for k in range(array_type.ndim)]
        size = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
        strides = [ir.IntType(64)(size)]
        for length in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        data = builder.inttoptr(word(0), array.data.type)
        itemsize = ir.IntType(64)(size)
        context.populate_array(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
        return array._getvalue()


TYPES = {name: t.Array(numba.from_dtype(dtype), dimensions, "C") for name, (dtype, dimensions) in ARRAYS.items()}
for _place, (_name, _type) in enumerate(TYPES.items()):
    _lower(_name, _place, _type)
for _group in GROUPS:
    lower_getattr(StateType, _group)(lambda context, builder, state_type, state: state)


@infer_getattr
class StateAttributes(AttributeTemplate):
    """Types of a state's attributes in compiled code."""

    key = StateType

    def generic_resolve(self, state, name):
        """Return the type of one attribute."""
        return STATE if name in GROUPS else POLICIES if name == "policies" else TYPES.get(name)
