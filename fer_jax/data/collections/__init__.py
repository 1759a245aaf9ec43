"""Readers of well-known collections of faces, each in its own label space."""

import dataclasses
import importlib
import os
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_jax.data.examples import Example, Fault


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a collection is read; its module is imported when it is.

    Attributes:
        module: of this package.
        space: name of the label space of the examples.
        layout: one line on what the folder holds.
        options: of the module's function `read_<module>`.
    """

    module: str
    space: str
    layout: str
    options: tuple[tuple[str, Any], ...] = ()

    def read(self, folder: str | os.PathLike[str]) -> "tuple[list[Example], list[Fault]]":
        """Lists a folder: its examples, and what cannot or shall not be used.

        Raises:
            FerJaxError: the folder does not hold the collection.
        """
        from fer_jax.data.listing import without_bad_names

        module = importlib.import_module(f"{__name__}.{self.module}")
        read = getattr(module, f"read_{self.module}")
        examples, faults = read(folder, **dict(self.options))
        examples, unnamed = without_bad_names(examples)
        return examples, [*faults, *unnamed]


_AFFECTNET = "{train_set,val_set}/{images/0.jpg,annotations/0_exp.npy}, or training.csv"
_FERPLUS = "fer2013new.csv with fer2013.csv or FER2013Train/, or votes.csv with pictures"

READERS: Mapping[str, Reader] = types.MappingProxyType(
    {
        "rafdb": Reader(
            "rafdb",
            "rafdb",
            "basic/EmoLabel and basic/Image/aligned, or DATASET/{train,test}/{1..7}",
        ),
        "affectnet": Reader("affectnet", "affectnet8", _AFFECTNET),
        "affectnet7": Reader(
            "affectnet", "affectnet7", f"{_AFFECTNET}; without Contempt", (("classes", 7),)
        ),
        "expw": Reader("expw", "expw", "label.lst and image/origin, or labels.csv with photo"),
        "fer2013": Reader(
            "fer2013", "fer2013", "fer2013.csv or icml_face_data.csv, or train/angry/*.jpg"
        ),
        "ferplus": Reader(
            "ferplus", "ferplus", f"{_FERPLUS}; images with 6 of 10 votes for a class"
        ),
        "ferplus_votes": Reader(
            "ferplus",
            "ferplus",
            f"{_FERPLUS}; all images, for their votes as soft labels",
            (("rule", "votes"),),
        ),
    }
)
