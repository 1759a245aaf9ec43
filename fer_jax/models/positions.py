"""Fixed position embeddings.

Source: facebookresearch/mae `util/pos_embed.py`.
"""

import numpy as np
from jaxtyping import Float32


def sincos_positions(width: int, grid: int) -> Float32[np.ndarray, "1 tokens width"]:
    """MAE's 2-D sine-cosine embedding, with a row of zeros for CLS.

    Of each token's channels the first half encodes its column x, the second its row y; with D the
    width and k = 0 ... D/4 - 1, each half is sin(p / 10000^(4k / D)) followed by the cosines.

    Args:
        width: token width, a multiple of 4.
        grid: patches along one side.

    Returns:
        Embeddings of CLS and of the patches, row by row.

    Example:
        >>> sincos_positions(4, 2)[0, :3].astype(float).round(2).tolist()
        [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.0, 1.0]]
    """
    if width % 4:
        raise ValueError(f"{width=} must be a multiple of 4")
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width / 4))
    rows, columns = np.mgrid[:grid, :grid]
    angles = [np.outer(places.ravel(), frequencies) for places in (columns, rows)]
    parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    patches = np.concatenate(parts, axis=1)
    return np.concatenate([np.zeros((1, width)), patches]).astype(np.float32)[None]
