"""Read and check how many instances step together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from replay.errors import ConfigError
from replay.hardware.fields import count

if TYPE_CHECKING:
    from replay.cluster import Instance


def build_ranks(settings: Mapping[str, Any], instances: Sequence["Instance"], parts: Mapping[str, Any]) -> int:
    """Return how many neighbouring instances begin and end their iterations together, 1 for each by itself.

    settings : the cluster node
    instances : in the order of the cluster
    parts    : name -> a part of the cluster, None or empty where it is not there
    raises   : ConfigError for groups that are not full or not alike, a profile of other ranks, or a part that is not
               modelled together with ranks
    """
    ranks = count(settings["ranks"], "cluster.ranks")
    for first in range(0, len(instances), ranks):
        group = instances[first : first + ranks]
        profile = group[0].profile
        if profile.ranks not in (1, ranks):
            raise ConfigError(f"profile '{profile.name}' is of {profile.ranks} ranks that step together, but "
                              f"cluster.ranks is {ranks}. Set cluster.ranks={profile.ranks}.")
        if len(group) < ranks or any((one.role, one.profile) != (group[0].role, profile) for one in group):
            raise ConfigError(f"ranks that step together must have one role and one profile, but of instances {first} "
                              f"to {first + ranks - 1} that is not so. Take multiples of cluster.ranks={ranks} of each "
                              f"kind, or cluster.ranks=1.")
    others = {**{name: bool(part) for name, part in parts.items()}, "cluster.mixed_pool": settings["mixed_pool"],
              "cluster.migrate_s": settings["migrate_s"] is not None}
    if ranks > 1 and (refused := [name for name, there in others.items() if there]):
        raise ConfigError(f"ranks that step together are not modelled together with {refused[0]} yet. Leave "
                          f"{refused[0]} at its default, or cluster.ranks=1.")
    return ranks
