"""What a profile is asked for: one GPU, one model, and how the model is split."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """A profile that somebody wants; None stands for the only one that the measurements have.

    gpu   : name as in conf/hardware or in the measurements, "h100"
    model : name as in conf/model or in the measurements, "llama2_70b"
    tp    : GPUs that share every layer        ep : groups of tp GPUs that share the experts
    """

    gpu: str | None
    model: str | None
    tp: int = 1
    ep: int = 1
