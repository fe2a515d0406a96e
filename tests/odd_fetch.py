"""Odd fetch and write policies, and evict policies that look twice; registered within `odd_policies.registered()`."""

from collections.abc import Callable
from functools import cache
from typing import Any

from replay.engine.draws import uniform
from replay.policy import NEVER, Choice, Chosen, Policy, Span, describe


def everything(request, instance, offer, now_ps, tier: Span(0, 2) = 2, wait_s: Span(0.0, 1.0) = 0.0):
    """Load up to a tier, and wait for it so long.

    source : own
    """
    return tier, wait_s


def faithful(request, instance, offer, now_ps, tier: Span(0, 2) = 2):
    """Load up to a tier, and wait as long as it takes.

    source : own
    """
    return tier, NEVER


def odd_fetch(request, instance, offer, now_ps, unit_s: Span(0.0, 1.0) = 1e-9):
    """Load what is estimated to be worth it, or by lot, and wait by lot.

    source : own
    """
    lot = uniform(request.random_key, 21)
    tier = int(lot * 4)
    if tier == 3:
        tier = 2 if offer.disk_s < offer.disk_compute_s else (1 if offer.dram_s < offer.dram_compute_s else 0)
    if offer.disk_tokens == offer.hbm_tokens or instance.hit_tokens != offer.hbm_tokens:
        tier = 0
    wait = uniform(request.random_key, 22)
    if wait < 0.4:
        return tier, 0.0
    if wait < 0.5:
        return tier, NEVER
    return tier, wait * unit_s


def always_write(node, evicting, now_ps):
    """Write everything, when published and when evicted.

    source : own
    """
    return True


def on_publish(node, evicting, now_ps, start: Span(0, 1000) = 0):
    """Write what is published, from a depth on.

    source : own
    """
    return evicting == 0 and node.start_blocks >= start


def on_evict(node, evicting, now_ps, uses: Span(0, 1000) = 0):
    """Write what is evicted after so many uses.

    source : own
    """
    return evicting == 1 and node.uses >= uses


def odd_write(node, evicting, now_ps, most: Span(1, 64) = 3):
    """Write by what the holder went through.

    source : own
    """
    return (node.uses + node.inserted_blocks + node.evicted_blocks + node.blocks + evicting) % 4 < most


def odd_clock(node, now_ps, deep: Choice(False, True) = False):
    """Value uses above the score of what went last; give what was used again meanwhile a second chance.

    source : after CLOCK (Corbato 1968) and GreedyDual (Young 1991)
    """
    if node.examined:
        return node.score + (1.0 if node.uses_since > 0 else 0.0)
    age = node.clock if node.clock > -1e300 else 0.0
    return age + 1.0 + 0.25 * node.tier + (0.5 * node.start_blocks if deep else 0.0)


def second_chance(node, now_ps):
    """First in, first out, but what was used again meanwhile stays once more.

    source : Corbato, A paging experiment with the Multics system, 1968
    """
    if node.examined:
        return node.score + (1e9 if node.uses_since > 0 else 0.0)
    return float(node.first_used_ps)


def odd_second(node, now_ps):
    """First in, first out; by turns lifted when looked at, whatever below.

    source : own
    """
    if node.examined and (node.inserted_blocks + node.node) % 3 == 0:
        return node.score + node.total_blocks
    return float(node.first_used_ps)


@cache
def described(slot: str, function: Callable[..., Any]) -> Policy:
    """Return one of these functions as a policy, the same object each time."""
    return describe(slot, function)


def chosen(slot: str, function: Callable[..., Any], **values: Any) -> Chosen:
    """Choose one of these functions; the engine finds it within `odd_policies.registered()`."""
    made = described(slot, function)
    return Chosen(made, made.defaults | values)
