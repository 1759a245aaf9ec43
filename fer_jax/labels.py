"""Label spaces of the data sets, each in its own official order, and the maps between them.

Classes carry one display name everywhere (Aff-Wild2's: Neutral, Anger, Disgust, Fear, Happiness,
Sadness, Surprise, Other, plus Contempt), so that two spaces can be compared by name. Indices start
at 0 and -1 means "no label". RAF-DB's own label files count from 1.
"""

import dataclasses

import numpy as np

from fer_jax.errors import FerJaxError

_ALIASES = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "contemptuous": "contempt",
}


def _key(name: str) -> str:
    key = name.strip().lower()
    return _ALIASES.get(key, key)


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """An ordered set of classes.

    Attributes:
        name: how configs, bundles and data sets refer to it.
        classes: display names; the position is the label's index.

    Raises:
        FerJaxError: no class, or two that are the same one (`Happy` and `Happiness`).
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self):
        keys = [_key(one) for one in self.classes]
        twice = sorted({one for one in self.classes if keys.count(_key(one)) > 1})
        if not keys or twice:
            what = f"names a class twice: {', '.join(twice)}" if twice else "has no classes"
            raise FerJaxError(f"label space {self.name!r} {what}; give each class one name")

    def __len__(self) -> int:
        return len(self.classes)

    def index(self, name: str) -> int:
        """The index of a class, by display name or alias, in any case.

        Args:
            name: such as `"Happiness"`, `"happy"` or `"HAPPY"`.

        Returns:
            Its position in `classes`.

        Raises:
            FerJaxError: the space has no such class.

        Example:
            >>> label_space("affwild2_expr").index("happy")
            4
        """
        keys = [_key(one) for one in self.classes]
        try:
            return keys.index(_key(name))
        except ValueError:
            raise FerJaxError(
                f"label {name!r} is not in the space {self.name}; one of {', '.join(self.classes)}"
            ) from None


# Aff-Wild2: the annotation files' header. AffectNet: its readme. RAF-DB: its readme, less one.
# FER2013: the Kaggle page. FER+: the columns of fer2013new.csv, less "unknown" and "NF".
# ExpW: the readme of label.lst.
LABEL_SPACES = {
    space.name: space
    for space in (
        LabelSpace(
            "affwild2_expr",
            ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other"),
        ),
        LabelSpace(
            "affectnet7",
            ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger"),
        ),
        LabelSpace(
            "affectnet8",
            ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt"),
        ),
        LabelSpace(
            "rafdb",
            ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"),
        ),
        LabelSpace(
            "fer2013",
            ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral"),
        ),
        LabelSpace(
            "ferplus",
            ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt"),
        ),
        LabelSpace(
            "expw",
            ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral"),
        ),
    )
}


def label_space(name: str) -> LabelSpace:
    """Looks up a label space by name.

    Args:
        name: a key of `LABEL_SPACES`.

    Returns:
        The space.

    Raises:
        FerJaxError: there is none of that name.

    Example:
        >>> label_space("expw").classes[0]
        'Anger'
    """
    if name not in LABEL_SPACES:
        raise FerJaxError(f"no label space {name!r}; one of {', '.join(LABEL_SPACES)}")
    return LABEL_SPACES[name]


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """How the labels of one space read in another; classes meet by name and nothing is merged.

    Attributes:
        source: the space that labels come in.
        target: the space that they are brought to.
        indices: for each source class its index in the target, -1 where it has no counterpart.
        lost: source classes without a counterpart; their samples lose their label.
        unreached: target classes that no source class leads to.
    """

    source: LabelSpace
    target: LabelSpace
    indices: tuple[int, ...]
    lost: tuple[str, ...]
    unreached: tuple[str, ...]

    @property
    def total(self) -> bool:
        """Whether every source class has a counterpart."""
        return not self.lost

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Maps an array of labels; -1 stays -1, and a lost class becomes -1.

        Args:
            labels: integers in [-1, len(source)), of any shape.

        Returns:
            int32 of the same shape, in [-1, len(target)).

        Raises:
            FerJaxError: a label outside the source space.

        Example:
            >>> label_map("expw", "affwild2_expr").apply(np.array([0, 6, -1])).tolist()
            [1, 0, -1]
        """
        labels = np.asarray(labels)
        if labels.size and not np.issubdtype(labels.dtype, np.integer):
            raise FerJaxError(f"labels are {labels.dtype}, not integers; convert them first")
        outside = labels[(labels < -1) | (labels >= len(self.source))]
        if outside.size:
            raise FerJaxError(
                f"label {outside[0]} is outside the space {self.source.name}, which has "
                f"{len(self.source)} classes; check which space the labels are in"
            )
        # The appended -1 is what label -1 picks.
        return np.asarray((*self.indices, -1), np.int32)[labels]

    def describe(self) -> str:
        """One sentence that says what the map keeps and what it loses."""
        words = f"{self.source.name} -> {self.target.name}: "
        words += "every class has a counterpart" if self.total else f"loses {', '.join(self.lost)}"
        if self.unreached:
            words += f"; nothing leads to {', '.join(self.unreached)}"
        return words


def label_map(
    source: LabelSpace | str, target: LabelSpace | str, require_total: bool = False
) -> LabelMap:
    """The map from one label space to another, by class name.

    Args:
        source: the space that labels come in, or its name.
        target: the space that they are brought to, or its name.
        require_total: refuse a map that loses a class.

    Returns:
        The map, which says what is lost.

    Raises:
        FerJaxError: the spaces have no class in common, or `require_total` and one is lost.

    Example:
        >>> label_map("affectnet8", "affwild2_expr").lost
        ('Contempt',)
    """
    source = label_space(source) if isinstance(source, str) else source
    target = label_space(target) if isinstance(target, str) else target
    position = {_key(name): index for index, name in enumerate(target.classes)}
    indices = tuple(position.get(_key(name), -1) for name in source.classes)
    lost = tuple(name for name, index in zip(source.classes, indices, strict=True) if index < 0)
    unreached = tuple(name for i, name in enumerate(target.classes) if i not in indices)
    if len(lost) == len(source):
        raise FerJaxError(
            f"label spaces {source.name} ({', '.join(source.classes)}) and {target.name} "
            f"({', '.join(target.classes)}) share no class; nothing can be mapped"
        )
    if require_total and lost:
        raise FerJaxError(
            f"label space {target.name} has no counterpart of {', '.join(lost)} in {source.name}; "
            "choose a space that has, or allow the loss"
        )
    return LabelMap(source, target, indices, lost, unreached)
