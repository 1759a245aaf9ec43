"""Examples of one label space in another, so that collections can be mixed."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fer_jax.data.examples import Example, Fault, LeftOut
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace, label_map


def map_examples(
    examples: Sequence[Example], source: LabelSpace | str, target: LabelSpace | str
) -> tuple[list[Example], list[Fault]]:
    """Brings labels and votes to another space; classes meet by name and nothing is merged.

    An example whose class has no counterpart is left out, even if votes for other classes remain:
    they are the minority's. One without a label keeps the votes that have a counterpart, and is
    left out if none has.

    Args:
        examples: of the space `source`.
        source: the space that labels and votes come in, or its name.
        target: the space that they are brought to, or its name.

    Returns:
        The examples of the space `target`, and those left out.

    Raises:
        FerJaxError: the spaces share no class; a label or a number of votes is not of `source`.
    """
    mapping = label_map(source, target)
    labels = mapping.apply(np.asarray([example.label for example in examples], np.int32))
    mapped, left_out = [], []
    for example, label in zip(examples, labels.tolist(), strict=True):
        if label < 0 <= example.label:
            lost = mapping.source.classes[example.label]
            reason = f"class {lost} has no counterpart in {mapping.target.name}"
            left_out.append(LeftOut(example.name, reason, example.split))
            continue
        votes = _map_votes(example, mapping.indices, mapping.source, mapping.target)
        if label < 0 and any(example.votes) and not votes:
            reason = f"its votes have no counterpart in {mapping.target.name}"
            left_out.append(LeftOut(example.name, reason, example.split))
            continue
        mapped.append(dataclasses.replace(example, label=label, votes=votes))
    return mapped, left_out


def _map_votes(
    example: Example, indices: Sequence[int], source: LabelSpace, target: LabelSpace
) -> tuple[float, ...]:
    if not example.votes:
        return ()
    if len(example.votes) != len(source):
        raise FerJaxError(
            f"{example.name}: has votes for {len(example.votes)} classes, {source.name} has "
            f"{len(source)}; check which space they are of"
        )
    votes = [0.0] * len(target)
    for index, count in zip(indices, example.votes, strict=True):
        if index >= 0:
            votes[index] = count
    return tuple(votes) if any(votes) else ()
