"""How many faces of each class each split of a data set holds, as a table for people."""

import numpy as np

from fer_jax.data.dataset import FaceData


def split_table(data: FaceData) -> str:
    """A line for each class, where any face has a label, and one for those without.

    Args:
        data: the data set.
    """
    splits, labels = data.index["split"], data.index["label"]
    names = list(dict.fromkeys(splits.tolist()))
    labelled = (labels >= 0).any()
    rows = [[data.label_space.name if labelled else "", *names]]
    classes = list(enumerate(data.label_space.classes)) if labelled else []
    if (labels < 0).any():
        classes.append((-1, "no label"))
    for label, name in classes:
        rows.append([name, *(str(np.sum((splits == s) & (labels == label))) for s in names)])
    rows.append(["all", *(str(np.sum(splits == split)) for split in names)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
    lines = [f"{data.path}: {len(data)} faces, {data.template}"]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)
