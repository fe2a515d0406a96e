"""Build the stages beside the transformer from their configuration node, each refusal one sentence."""

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from replay.errors import ConfigError
from replay.hardware.fields import choice, count, keys, number
from replay.hardware.units import fs, ps
from replay.stages import (
    BESIDE,
    COLUMNS,
    FINISH,
    GATES,
    LAWS,
    MOST_STAGES,
    PLACES,
    SEGMENT,
    Law,
    Stage,
)

OPTIONAL: dict[str, Any] = {
    "after": (), "gates": None, "every_tokens": None, "share": 1.0, "items": 1, "split": False, "servers": 1,
    "max_batch": 1, "wait_s": 0.0, "by_tier": False, "base_s": 0.0, "item_s": 0.0, "item_bytes": 0.0,
    "link_bytes_per_s": None, "link_latency_s": 0.0, "gpus": 0, "cores": 0.0, "price_per_server_hour": None,
}  # fmt: skip
# of columns of requests.parquet and of parts of the summary that would be called alike
RESERVED = frozenset({
    "name", "decoder", "arrival", "queue", "ttft", "tpot", "max_itl", "itl_top10", "e2e", "lookup", "load",
    "exposed_load", "handoff", "exposed_handoff", "prefill", "transfer", "away",
})  # fmt: skip
MOST_SERVERS = 65536


def build_stages(node: Any) -> tuple[Stage, ...]:
    """Resolve and check the stages of a cluster.

    node    : configuration node `stages`: name, and a node a stage
    returns : stages, each behind those that it needs, else in the order of the node; () for none
    raises  : ConfigError for an unknown key, a bad value, a need that is no stage of the same place, or a circle
    """
    if node is None:
        return ()
    if not isinstance(node, Mapping):
        raise ConfigError(f"stages must be a configuration node, but is {node!r}. Select one: stages=vision_encoder.")
    nodes = {str(name): one for name, one in node.items() if name != "name" and one is not None}
    for name, one in nodes.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED or name.endswith("_queue"):
            raise ConfigError(f"a stage must have a name of its own in small letters, digits and _, but one is called "
                              f"'{name}'. Rename it: no other column of requests may be called alike.")
        if not isinstance(one, Mapping):
            raise ConfigError(f"stages.{name} must be a node with the keys of a stage, but is {one!r}.")
        keys(one, ("place",), OPTIONAL, f"stages.{name}")
        choice(one["place"], PLACES, f"stages.{name}.place")
    if len(nodes) > MOST_STAGES:
        raise ConfigError(f"there may be at most {MOST_STAGES} stages, but there are {len(nodes)}. Join some.")
    order = _ordered(nodes)
    return tuple(_stage(name, {**OPTIONAL, **nodes[name]}, order) for name in order)


def _ordered(nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names so that each comes behind those that it needs."""
    graph = {}
    for name, one in nodes.items():
        needs = one.get("after") or ()
        if isinstance(needs, str) or not all(isinstance(other, str) for other in needs):
            raise ConfigError(f"stages.{name}.after must be a list of stages, but is {needs!r}. Write after=[vision].")
        for other in needs:
            if other not in nodes or nodes[other]["place"] != one["place"] or one["place"] == "segment":
                raise ConfigError(f"stages.{name} can come after other stages {one['place']} the decoder only, but "
                                  f"stages.{name}.after names '{other}'. Stages of one place that are no segments can "
                                  f"follow each other.")
        graph[name] = needs
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ConfigError(f"no stage can come after itself, but {' <- '.join(error.args[1])} is a circle. Take one of "
                          f"the edges away.") from None


def _stage(name: str, node: Mapping[str, Any], order: list[str]) -> Stage:
    place = f"stages.{name}"
    where = PLACES.index(node["place"])
    link = node["link_bytes_per_s"]
    item_bytes = number(node["item_bytes"], f"{place}.item_bytes")
    per_s = None if link is None else number(link, f"{place}.link_bytes_per_s", above=0.0)
    if item_bytes and per_s is None:
        raise ConfigError(f"{place}.item_bytes go over a link, but {place}.link_bytes_per_s is null. Set it.")
    price = node["price_per_server_hour"]
    return Stage(
        name=name,
        place=where,
        needs=tuple(sorted({order.index(other) for other in node["after"] or ()})),
        gate=_gate(node["gates"], where, place),
        every_tokens=_segment(node["every_tokens"], where, place),
        share=number(node["share"], f"{place}.share", most=1.0),
        items=_items(node["items"], where, f"{place}.items"),
        split=_split(node["split"], where, place),
        servers=count(node["servers"], f"{place}.servers", most=MOST_SERVERS),
        max_batch=count(node["max_batch"], f"{place}.max_batch"),
        wait_ps=ps(number(node["wait_s"], f"{place}.wait_s"), f"{place}.wait_s"),
        by_tier=choice(node["by_tier"], (True, False), f"{place}.by_tier"),
        base_ps=ps(number(node["base_s"], f"{place}.base_s"), f"{place}.base_s"),
        item_s=_law(node["item_s"], f"{place}.item_s"),
        item_fs=fs(item_bytes / per_s, f"{place}.item_bytes / link_bytes_per_s") if per_s else 0,
        latency_ps=ps(number(node["link_latency_s"], f"{place}.link_latency_s"), f"{place}.link_latency_s"),
        gpus=count(node["gpus"], f"{place}.gpus", 0, 65536),
        cores=number(node["cores"], f"{place}.cores"),
        usd_per_hour=None if price is None else number(price, f"{place}.price_per_server_hour"),
    )


def _gate(value: Any, where: int, place: str) -> int:
    if value is None:
        return FINISH
    if where != BESIDE:
        raise ConfigError(f"{place}.gates is for stages beside the decoder, but {place}.place is {PLACES[where]}. Set "
                          f"it to null.")
    return GATES.index(choice(value, GATES, f"{place}.gates"))


def _segment(value: Any, where: int, place: str) -> int:
    if (value is None) == (where == SEGMENT):
        raise ConfigError(f"{place}.every_tokens must be set for stages of place segment, and for no other, but is "
                          f"{value!r} with {place}.place {PLACES[where]}. Set the one or change the other.")
    return 0 if value is None else count(value, f"{place}.every_tokens")


def _split(value: Any, where: int, place: str) -> bool:
    if choice(value, (True, False), f"{place}.split") and where == SEGMENT:
        raise ConfigError(f"{place}.split is for stages that are called once, but a segment is a call already. Set it "
                          f"to false.")
    return bool(value)


def _items(value: Any, where: int, place: str) -> float | Law | str:
    if isinstance(value, str):
        choice(value, COLUMNS, place)
        if value == "output_tokens" and where < SEGMENT:
            raise ConfigError(f"{place} cannot be output_tokens {PLACES[where]} the decoder, where they are not there "
                              f"yet. Use a stage of place segment or after.")
        return value
    return _law(value, place) if isinstance(value, Mapping) else float(count(value, place, 1))


def _law(value: Any, place: str) -> float | Law:
    if not isinstance(value, Mapping):
        return number(value, place)
    keys(value, ("law", "mean"), ("cv",), place)
    choice(value["law"], LAWS, f"{place}.law")
    mean = number(value["mean"], f"{place}.mean", above=0.0)
    if value["law"] == "geometric" and mean < 1:
        raise ConfigError(f"{place}.mean of a geometric law must be at least 1, but is {mean:g}.")
    return Law(value["law"], mean, number(value.get("cv", 1.0), f"{place}.cv", above=0.0, most=100.0))
