"""The largest batch that fits, found with few compilations."""

from collections.abc import Callable

MOST = 4096  # faces a chip: nobody trains with more, and the compiler takes long
_LINES = 3  # guesses by a line; what is not linear is halved


def largest_batch(
    measure: Callable[[int], tuple[bool, int]], start: int, unit: int, limit: int
) -> tuple[int, bool]:
    """Searches by doubling, by the line through what was measured, then by halving.

    Memory grows about linearly with the batch, so two measurements tell where it runs out; what
    the compiler does near the limit is not linear, so the answer is measured, never extrapolated.

    Args:
        measure: batch -> whether it fits, and the bytes that it needs.
        start: the batch to begin at, a multiple of `unit`.
        unit: batches are multiples of it: the devices, times the parts of a batch.
        limit: bytes that there are.

    Returns:
        The largest batch that was seen to fit, and whether the next one is known not to: a batch
        larger by a sixteenth (at least by `unit`) was seen not to fit. 0 if not even `unit` fits;
        at most `MOST` times `unit`.

    Example:
        >>> largest_batch(lambda batch: (batch <= 1000, 100 * batch), 64, 8, 100_000)
        (1000, True)
    """
    points: dict[int, int] = {}
    low, high, guess, lines = 0, None, start, 0
    while True:
        fits, points[guess] = measure(guess)
        if fits:
            low = max(low, guess)
        else:
            high = guess if high is None else min(high, guess)
        gap = _multiple(low // 16, unit)
        if high is not None and high - low <= gap:
            return low, True
        if low >= MOST * unit:
            return low, False
        if len(points) > 1 and lines < _LINES:
            lines += 1
            # Where the line says "here", the next larger batch is tried.
            guess = max(_crossing(points, limit), low + gap)
            guess = min(guess, MOST * unit if high is None else high - unit)
        else:
            guess = 2 * low if high is None else (low + high) // 2
        guess = min(_multiple(guess, unit), MOST * unit)


def _multiple(number: int, unit: int) -> int:
    """Rounded down to a multiple of `unit`, at least one."""
    return max(number // unit, 1) * unit


def _crossing(points: dict[int, int], limit: int) -> int:
    """Where the line through the two measurements nearest to the limit crosses it; 0 if nowhere."""
    a, b = sorted(sorted(points, key=lambda batch: abs(points[batch] - limit))[:2])
    slope = (points[b] - points[a]) / (b - a)
    return int(a + (limit - points[a]) / slope) if slope > 0 else 0
