"""Classes that a bundle and a data set share, where their label spaces differ."""

import dataclasses

import numpy as np
from jaxtyping import Int

from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelMap, LabelSpace, label_map


@dataclasses.dataclass(frozen=True)
class ScoredClasses:
    """The classes that a bundle and a data set share, and how to find them in each.

    Attributes:
        names: display names, in the order of the data set's space.
        outputs: for each the index of the bundle's logit.
        labels: for each label of the data set (and last for -1) its place among `names`, or -1.
        mapping: from the bundle's space to the data set's.
    """

    names: tuple[str, ...]
    outputs: Int[np.ndarray, "shared"]
    labels: Int[np.ndarray, "data_classes_and_none"]
    mapping: LabelMap


def shared_classes(bundle_labels: LabelSpace, data_labels: LabelSpace) -> ScoredClasses:
    """Which classes can be scored when a bundle meets data, of its own or of another label space.

    The bundle then chooses among the shared classes only (the largest of their logits), and images
    of a class that it does not know are not scored: both are stated in the report.

    Args:
        bundle_labels: the space of the logits.
        data_labels: the space of the labels.

    Returns:
        The shared classes.

    Raises:
        FerJaxError: fewer than two classes are shared.
    """
    mapping = label_map(bundle_labels, data_labels)
    output_of = {target: output for output, target in enumerate(mapping.indices) if target >= 0}
    shared = sorted(output_of)
    if len(shared) < 2:
        raise FerJaxError(
            f"label spaces {bundle_labels.name} and {data_labels.name} share only the class "
            f"{data_labels.classes[shared[0]]}; there is nothing to choose from, use other data"
        )
    labels = np.full(len(data_labels) + 1, -1)
    labels[shared] = np.arange(len(shared))
    return ScoredClasses(
        names=tuple(data_labels.classes[i] for i in shared),
        outputs=np.array([output_of[i] for i in shared]),
        labels=labels,
        mapping=mapping,
    )
