"""How times and names are written in pictures and pages."""

import math


def clock(seconds: float) -> str:
    """A time as people read it.

    Args:
        seconds: since the start.

    Returns:
        Minutes and seconds, with hours where there are some.

    Example:
        >>> clock(9.84), clock(75), clock(3661.25)
        ('0:09.8', '1:15.0', '1:01:01.2')
    """
    tenths = math.floor(max(seconds, 0) * 10 + 1e-6)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest // 10:02}.{rest % 10}"
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"


def short_name(name: str, characters: int) -> str:
    r"""A name to be drawn by matplotlib: of one line, cut in its middle, its signs no formulas.

    Args:
        name: any text, of a file too.
        characters: the most to be shown.

    Returns:
        What to draw.

    Example:
        >>> short_name("a very long name.mp4", 11), short_name("$x$", 11)
        ('a ver…e.mp4', '\\$x\\$')
    """
    text = name.encode("utf-8", "replace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(text) > characters:
        half = (characters - 1) // 2
        text = f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - half :]}"
    return text.replace("$", r"\$")
