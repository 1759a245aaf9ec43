"""A filter over time whose window is of frames or of seconds."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fer_jax.errors import UsageError
from fer_jax.ops.gaps import FILL_METHODS
from fer_jax.ops.smoothing import KERNELS, frames_of

_STORED = ("kernel", "window", "stride", "lookahead", "width", "fill")


@dataclasses.dataclass(frozen=True)
class Span:
    """A length of time.

    Attributes:
        number: of frames or of seconds.
        seconds: which of the two.
    """

    number: float
    seconds: bool = False

    def window(self, rate: float) -> int:
        """As frames of a window; of seconds the nearest odd number of them."""
        return frames_of(self.number, rate) if self.seconds else int(self.number)

    def stride(self, rate: float) -> int:
        """As frames from one evaluation to the next, at least 1."""
        return max(1, round(self.number * rate)) if self.seconds else int(self.number)

    def __str__(self) -> str:
        return f"{self.number:g} s" if self.seconds else f"{self.number:g} frames"


@dataclasses.dataclass(frozen=True)
class TableFilter:
    """What `smooth_table` does.

    Attributes:
        kernel: as for `ops.smoothing.smooth`, as are `lookahead` and `width` (frames).
        window: how far it reaches.
        stride: how often it is evaluated.
        lookahead: frames; None centres the window.
        width: frames; None is a third of the reach.
        fill: how frames without a face get a row; see `ops.gaps.fill_gaps`.

    Raises:
        UsageError: a way of filling that is not known.
    """

    kernel: str = "box"
    window: Span = Span(1)
    stride: Span = Span(1)
    lookahead: int | None = None
    width: float | None = None
    fill: str = "hold"

    def __post_init__(self) -> None:
        if self.fill not in FILL_METHODS:
            raise UsageError(f"fill {self.fill!r}: must be one of {', '.join(FILL_METHODS)}")

    def __str__(self) -> str:
        if self.window == Span(1):
            return "none"
        every = "" if self.stride == Span(1) else f", every {self.stride}"
        ahead = "" if self.lookahead is None else f", {self.lookahead} ahead"
        return f"{self.kernel} of {self.window}{every}{ahead}"


NO_FILTER = TableFilter()


def parse_span(text: str) -> Span:
    """Reads `101` (frames) or `3.4s` (seconds).

    Raises:
        UsageError: neither.

    Example:
        >>> parse_span("3.4s")
        Span(number=3.4, seconds=True)
    """
    seconds = text.endswith("s")
    try:
        number = float(text.removesuffix("s")) if seconds else int(text)
    except ValueError:
        number = -1
    if not 0 < number < math.inf:
        raise UsageError(f"{text!r}: must be frames such as 101, or seconds such as 3.4s")
    return Span(number, seconds)


def parse_filter(text: str, fill: str = "hold") -> TableFilter:
    """Reads `none`, or `KERNEL:WINDOW` with a window as of `parse_span`.

    Args:
        text: such as `box:101`, `median:2s`.
        fill: one of `ops.gaps.FILL_METHODS`.

    Raises:
        UsageError: another form, an unknown word, or a window with no middle.

    Example:
        >>> parse_filter("median:2s").window
        Span(number=2.0, seconds=True)
    """
    kernel, _, window = text.partition(":")
    if text == "none":
        return TableFilter(fill=fill)
    if kernel not in KERNELS or not window:
        raise UsageError(
            f"smoothing {text!r}: must be none or KERNEL:WINDOW, of {', '.join(KERNELS)} and "
            "frames or seconds, such as box:101 or box:4s"
        )
    span = parse_span(window)
    if not span.seconds and span.number % 2 == 0:
        raise UsageError(
            f"smoothing {text!r}: a window of {window} frames has no middle; give an odd number"
        )
    return TableFilter(kernel=kernel, window=span, fill=fill)


def stored_filter(smoothing: Mapping[str, Any] | None) -> TableFilter:
    """The filter of a bundle's field `smoothing`, whose window is of frames; None is none."""
    found = {name: value for name, value in (smoothing or {}).items() if name in _STORED}
    spans = {name: Span(found[name]) for name in ("window", "stride") if name in found}
    return TableFilter(**found | spans)


def as_stored(filter_: TableFilter) -> dict[str, Any] | None:
    """A filter as a bundle's field `smoothing` holds it; None where it does nothing, or is of time.

    Example:
        >>> as_stored(parse_filter("box:101"))["window"]
        101
    """
    if filter_.window.seconds or filter_.stride.seconds or filter_.window.number == 1:
        return None
    fields = {name: getattr(filter_, name) for name in _STORED if name != "width"}
    return fields | {"window": int(filter_.window.number), "stride": int(filter_.stride.number)}
