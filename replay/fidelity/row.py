"""One published number beside the replayed one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A number that somebody published or measured, and what the model gives for it.

    what : the experiment        point : where in it        unit : of both numbers
    """

    what: str
    point: str
    published: float
    replayed: float
    unit: str

    @property
    def error(self) -> float:
        """Relative error, positive where the model gives more."""
        return self.replayed / self.published - 1.0
