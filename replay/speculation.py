"""Speculative decoding: how many tokens are proposed, how likely each is accepted, and what proposing costs.

*Speculative decoding* in replay/engine/MODEL.md says what happens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replay.errors import ConfigError
from replay.hardware.fields import count, keys, number
from replay.hardware.profile import LARGEST_ITERATION_PS, Profile, iteration_ps
from replay.hardware.units import PS_PER_S, ps

KEYS = ("draft_tokens", "acceptance", "acceptance_by_position", "draft_s", "draft_request_s", "draft_share")
MOST_DRAFT_TOKENS = 64
PPM = 1_000_000


@dataclass(frozen=True)
class Speculation:
    """What every decoding request proposes in an iteration.

    acceptance       : float64 (draft_tokens,) read only: probability that a proposed token is accepted if all before
                       it are
    draft_ps         : what proposing one token each takes the whole batch; draft_request_ps: each of its requests
    share_ppm        : of the time of an iteration that only decodes the batch, beside these, in millionths
    """

    acceptance: np.ndarray
    draft_ps: int = 0
    draft_request_ps: int = 0
    share_ppm: int = 0

    @property
    def draft_tokens(self) -> int:
        """Tokens that a request proposes."""
        return len(self.acceptance)

    @property
    def tokens_per_iteration(self) -> float:
        """Mean tokens of a request in an iteration: its own, and those accepted.

        source : Leviathan et al., ICML 2023, equation 1: (1 - p^(k+1)) / (1 - p) for one p at all positions
        """
        return 1.0 + float(np.cumprod(self.acceptance).sum())


def build_speculation(node: Any) -> Speculation | None:
    """Resolve and check the speculative decoding of a cluster.

    node    : configuration node `speculation`
    returns : Speculation, None where nothing is proposed
    raises  : ConfigError for an unknown key, a bad number, or acceptance said twice or not at all
    """
    if node is None:
        return None
    if not isinstance(node, Mapping):
        raise ConfigError(f"speculation must be a configuration node, but is {node!r}. Select one: speculation=eagle.")
    keys(node, KEYS, ("name",), "speculation")
    drafted = count(node["draft_tokens"], "speculation.draft_tokens", 0, MOST_DRAFT_TOKENS)
    if drafted == 0:
        return None
    return Speculation(
        acceptance=_acceptance(node, drafted),
        draft_ps=ps(number(node["draft_s"], "speculation.draft_s"), "speculation.draft_s"),
        draft_request_ps=ps(number(node["draft_request_s"], "speculation.draft_request_s"),
                            "speculation.draft_request_s"),
        share_ppm=round(number(node["draft_share"], "speculation.draft_share", most=10.0) * PPM),
    )  # fmt: skip


def _acceptance(node: Mapping[str, Any], drafted: int) -> np.ndarray:
    one, listed = node["acceptance"], node["acceptance_by_position"]
    if (one is None) == (listed is None):
        raise ConfigError(f"acceptance must be one probability for all positions or a list of one for each: of "
                          f"speculation.acceptance and speculation.acceptance_by_position one must be null, but they "
                          f"are {one!r} and {listed!r}. Set one of them.")
    if one is not None:
        return np.full(drafted, number(one, "speculation.acceptance", most=1.0))
    place = "speculation.acceptance_by_position"
    if not isinstance(listed, list | tuple) or len(listed) < drafted:
        raise ConfigError(f"{place} must list a probability for each of the {drafted} drafted tokens, but is "
                          f"{listed!r}. List more, or lower speculation.draft_tokens.")
    return np.array([number(value, f"{place}[{k}]", most=1.0) for k, value in enumerate(listed)][:drafted])


def refuse_long_iterations(speculation: Speculation, profile: Profile, max_batch: int, longest_tokens: int) -> None:
    """Refuse drafts whose iterations would leave int64.

    longest_tokens : longest context (prompt + output) of the trace
    raises         : ConfigError with the bound
    """
    drafted = speculation.draft_tokens
    plain_ps = iteration_ps(profile, 0, max_batch, max_batch * longest_tokens, 0)
    verified_ps = iteration_ps(profile, drafted * max_batch, max_batch, max_batch * longest_tokens, 0)
    each_ps = speculation.draft_ps + speculation.draft_request_ps * max_batch
    drafted_ps = drafted * (each_ps + plain_ps * speculation.share_ppm // PPM)
    if max(plain_ps * speculation.share_ppm, verified_ps + drafted_ps) > LARGEST_ITERATION_PS:
        raise ConfigError(f"drafting and verifying must stay below {LARGEST_ITERATION_PS / PS_PER_S:.3g} s an "
                          f"iteration (int64 ps), but {max_batch} requests of {longest_tokens} tokens that draft "
                          f"{drafted} each could take more on profile '{profile.name}'. Lower cluster.max_batch or "
                          f"the costs of speculation.")
