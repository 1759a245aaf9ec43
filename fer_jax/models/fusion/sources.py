"""Sources of features, by name and in order: what every fusion checks of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fer_jax.errors import FerJaxError
from fer_jax.models.config import MAX_SIZE, check_dtypes

Features = Mapping[str, Float[Array | np.ndarray, "..."]]

VIEWS = ("main", "aux")
# Names of params and of steps, which stand beside the sources' own.
RESERVED = ("attention", "features_fusion", "fused", "hidden", "key", "logits", "mlp")


def check_config(config: Any, *sizes: str, least: int = 1) -> None:
    """Checks what the configurations of all fusions have.

    Args:
        config: with `sources`, `widths`, `num_classes`, `param_dtype` and `dropout`.
        *sizes: further fields that hold a size.
        least: number of sources.

    Raises:
        FerJaxError: a number is out of its range, or names do not serve.
    """
    sources = config.sources
    if not isinstance(sources, tuple) or len(sources) < least:
        raise FerJaxError(f"sources={sources!r} must be a tuple of {least} names or more")
    for name in sources:
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise FerJaxError(
                f"sources={sources!r}: {name!r} must be a word of letters, digits and _, and none "
                f"of {', '.join(RESERVED)}"
            )
    if len(set(sources)) < len(sources):
        raise FerJaxError(f"sources={sources!r} must differ from each other")
    if not isinstance(config.widths, tuple) or len(config.widths) != len(sources):
        raise FerJaxError(
            f"widths={config.widths!r} must be a tuple of {len(sources)}, for {', '.join(sources)}"
        )
    for field in ("widths", *sizes, "num_classes"):
        value = getattr(config, field)
        numbers = value if field == "widths" else (value,)
        if min(numbers) < 1:
            raise FerJaxError(f"{field}={value!r} must be positive")
        if max(numbers) > MAX_SIZE:
            raise FerJaxError(f"{field}={value!r} must be {MAX_SIZE} or less")
    check_dtypes(config, "param_dtype")
    if not 0 <= config.dropout < 1:  # NaN is neither
        raise FerJaxError(f"dropout={config.dropout!r} must lie in [0, 1)")


def check_one_of(config: Any, field: str, names: Iterable[str]) -> None:
    """Refuses a configuration with a name that is not known.

    Raises:
        FerJaxError: names the field and its value.
    """
    value, names = getattr(config, field), tuple(names)
    if value not in names:
        raise FerJaxError(f"{field}={value!r} must be one of {', '.join(names)}")


def pooled_features(
    widths: Mapping[str, int], features: Features
) -> dict[str, Float[Array, "b _"]]:
    """The features that a fusion of pooled features takes, in its order, in float32.

    Args:
        widths: of the sources that are used.
        features: (batch, width) each, any float type; others are left alone.

    Returns:
        An array for each of `widths`.

    Raises:
        FerJaxError: a source is missing, of another shape, or of another number of faces.
    """
    _check_all_there(widths, features)
    shapes = {name: tuple(features[name].shape) for name in widths}
    for name, width in widths.items():
        if len(shapes[name]) != 2 or shapes[name][1] != width:
            raise FerJaxError(
                f"features of {name} are {shapes[name]}; the fusion takes (batch, {width}), or "
                f"({width},) of all sources for one face"
            )
    _check_alike(shapes, slice(0, 1), "row i of all must be the same face")
    return {name: jnp.asarray(features[name], jnp.float32) for name in widths}


def feature_maps(
    widths: Mapping[str, int], features: Features
) -> dict[str, Float[Array, "b h w _"]]:
    """The maps that a fusion of tokens takes, in its order, in float32.

    Args:
        widths: of the sources.
        features: (batch, height, width of the grid, width of the source) each, of one grid.

    Returns:
        An array for each of `widths`.

    Raises:
        FerJaxError: a source is missing, of another shape, or of another grid.
    """
    _check_all_there(widths, features)
    shapes = {name: tuple(features[name].shape) for name in widths}
    for name, width in widths.items():
        if len(shapes[name]) != 4 or shapes[name][3] != width:
            raise FerJaxError(
                f"features of {name} are {shapes[name]}; this fusion takes maps of patches, "
                f"(batch, height, width, {width}), or all without the batch for one face"
            )
    _check_alike(shapes, slice(0, 3), "all must be of the same faces and of one grid")
    return {name: jnp.asarray(features[name], jnp.float32) for name in widths}


def _check_all_there(widths: Mapping[str, int], features: Features) -> None:
    missing = [name for name in widths if name not in features]
    if missing:
        raise FerJaxError(
            f"features of {', '.join(sorted(features)) or 'no source'}; the fusion also takes "
            f"{', '.join(missing)}"
        )


def _check_alike(shapes: Mapping[str, tuple[int, ...]], axes: slice, why: str) -> None:
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape[axes] != shapes[first][axes]:
            raise FerJaxError(
                f"features of {first} are {shapes[first]} and of {name} {shape}; {why}"
            )
