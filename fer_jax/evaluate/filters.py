"""A filter over time, as a command names it and a bundle stores it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax.errors import UsageError
from fer_jax.ops.smoothing import KERNELS

WINDOWS = (5, 11, 21, 31, 51, 75, 101, 151, 201, 301, 501, 1001)


@dataclasses.dataclass(frozen=True)
class Filter:
    """A filter over time, as `ops.smoothing.smooth` takes it.

    Attributes:
        kernel: one of `ops.smoothing.KERNELS`.
        window: frames; 1 leaves every frame as it is.
        stride: frames.
        lookahead: frames; None centres the window.
    """

    kernel: str
    window: int
    stride: int = 1
    lookahead: int | None = None

    @classmethod
    def stored(cls, smoothing: Mapping[str, Any]) -> "Filter":
        """The filter of a bundle's field `smoothing`, which says how to fill as well."""
        return cls(**{name: value for name, value in smoothing.items() if name != "fill"})

    def __str__(self) -> str:
        if self == NONE:
            return "none"
        every = f", every {self.stride} frames" if self.stride > 1 else ""
        ahead = "" if self.lookahead is None else f", {self.lookahead} ahead"
        return f"{self.kernel} of {self.window}{every}{ahead}"


NONE = Filter("box", 1)


def parse_filter(text: str) -> Filter:
    """Reads `KERNEL:WINDOW`.

    Raises:
        UsageError: another form, an unknown kernel, or a window that is not odd.

    Example:
        >>> parse_filter("box:101")
        Filter(kernel='box', window=101, stride=1, lookahead=None)
    """
    kernel, _, window = text.partition(":")
    if kernel not in KERNELS or not window.isdecimal() or not int(window) % 2:
        raise UsageError(
            f"--smooth {text!r}: must be KERNEL:WINDOW, of {', '.join(KERNELS)} and an odd number "
            "of frames, such as box:101"
        )
    return Filter(kernel, int(window))


def filters(
    kernels: Sequence[str] = KERNELS,
    windows: Sequence[int] = WINDOWS,
    strides: Sequence[int] = (1,),
    lookahead: int | None = None,
) -> list[Filter]:
    """Every combination; and, before all of them, none."""
    grid = (Filter(k, w, s, lookahead) for k in kernels for s in strides for w in windows)
    return [NONE, *(f for f in grid if (f.window, f.stride) != (1, 1))]
