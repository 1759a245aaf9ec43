"""The least time that a step can take on a chip, and what it waits for."""

from collections.abc import Sequence

from fer_jax.plan.chips import Topology
from fer_jax.plan.collectives import Collective


def roofline(
    topology: Topology, flops: float, traffic: int, collectives: Sequence[Collective]
) -> dict[str, float | str | None]:
    r"""Seconds that each part of a chip is busy at its published peak.

    .. math::
        t = \max\left(\frac{\text{operations}}{\text{peak of bfloat16}},
        \frac{\text{bytes moved}}{\text{speed of HBM}},
        \frac{\text{bytes sent to neighbours}}{\text{speed of all links}},
        \frac{\text{bytes sent to other slices}}{\text{share of the network}}\right)

    No step is faster; real ones take longer, since the parts wait for each other and reach no peak.

    Args:
        topology: the chips.
        flops: operations of one chip.
        traffic: bytes to and from its memory.
        collectives: what it sends.

    Returns:
        `compute`, `memory`, `links` and `network` in seconds (None: its speed is not published),
        `step` (the largest) and `bound` (its name).
    """
    chip = topology.chip
    near = sum(one.sent for one in collectives if not one.between_slices)
    far = sum(one.sent for one in collectives if one.between_slices)
    seconds = {
        "compute": flops / chip.flops,
        "memory": traffic / chip.memory_speed,
        "links": near / chip.link_speed,
        "network": far / chip.network_speed if chip.network_speed else (None if far else 0.0),
    }
    known = {name: value for name, value in seconds.items() if value is not None}
    bound = max(known, key=known.__getitem__)
    return {**seconds, "step": known[bound], "bound": bound}
