"""MAE's sine-cosine positions, term by term."""

import math

import numpy as np
import pytest

from fer_jax.models.positions import sincos_positions


def test_every_term_by_the_formula():
    width, grid = 12, 3
    found = sincos_positions(width, grid)
    assert found.shape == (1, 10, 12)
    np.testing.assert_array_equal(found[0, 0], 0)
    for row in range(grid):
        for column in range(grid):
            expected = []
            for place in (column, row):
                angles = [place / 10000 ** (4 * k / width) for k in range(width // 4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            np.testing.assert_allclose(found[0, 1 + row * grid + column], expected, atol=1e-7)


def test_a_width_that_cannot_be_split_is_named():
    with pytest.raises(ValueError, match="width=10 must be a multiple of 4"):
        sincos_positions(10, 2)
