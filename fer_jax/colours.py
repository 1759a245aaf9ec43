"""The colours of every picture and page: an expression has the same one everywhere.

Any two of the expressions' colours, and the ground, differ by at least 18 in CIE L*a*b*, for eyes
without one of the three kinds of cones too (Machado and others, 2009): a test computes it.
"""

from collections.abc import Sequence

INK, QUIET, LINE = "#1b2430", "#6b7684", "#e4e7eb"
GROUND = "#eef0f2"  # where nothing is known

_EXPRESSIONS = {
    "neutral": "#b6bed2",
    "anger": "#a03c08",
    "disgust": "#007a58",
    "fear": "#4a1270",
    "happiness": "#e3c41f",
    "sadness": "#2446d8",
    "surprise": "#3cc4fa",
    "other": "#1c2029",
    "contempt": "#9a4f9f",
}
_MORE = ("#8c564b", "#7fb1d2", "#d98880", "#145a32", "#f5b7b1", "#5d6d7e")


def colours_of(classes: Sequence[str]) -> list[str]:
    """A colour for each class; the expressions keep theirs whatever the label space.

    Args:
        classes: display names.

    Returns:
        Hexadecimal colours.

    Example:
        >>> colours_of(["Happiness", "Neutral"])
        ['#e3c41f', '#b6bed2']
    """
    more = iter(_MORE * (1 + len(classes) // len(_MORE)))
    return [_EXPRESSIONS.get(name.lower()) or next(more) for name in classes]


def rgb(colour: str) -> tuple[int, int, int]:
    """A hexadecimal colour as numbers from 0 to 255.

    Args:
        colour: such as `#1b2430`.

    Returns:
        Red, green, blue.

    Example:
        >>> rgb("#1b2430")
        (27, 36, 48)
    """
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def text_colour(ground: str) -> str:
    """What reads best on a colour: ink or white.

    Args:
        ground: hexadecimal.

    Returns:
        A hexadecimal colour.

    Example:
        >>> text_colour("#e3c41f"), text_colour("#2446d8")
        ('#1b2430', '#ffffff')
    """
    red, green, blue = rgb(ground)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
