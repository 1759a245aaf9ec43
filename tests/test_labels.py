"""Orders against the label numbers that each data set publishes; maps against names."""

import numpy as np
import pytest

from fer_jax.errors import FerJaxError
from fer_jax.labels import LABEL_SPACES, LabelSpace, label_map, label_space

# The headers and readmes of the data sets, in the words used there.
PUBLISHED = {
    "affwild2_expr": "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
    "affectnet7": "Neutral,Happy,Sad,Surprise,Fear,Disgust,Anger",
    "affectnet8": "Neutral,Happy,Sad,Surprise,Fear,Disgust,Anger,Contempt",
    "rafdb": "Surprise,Fear,Disgust,Happiness,Sadness,Anger,Neutral",
    "fer2013": "Angry,Disgust,Fear,Happy,Sad,Surprise,Neutral",
    "ferplus": "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt",
    "expw": "angry,disgust,fear,happy,sad,surprise,neutral",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_order_is_the_published_one(name):
    space = label_space(name)
    words = PUBLISHED[name].split(",")
    assert [space.index(word) for word in words] == list(range(len(space)))


def test_every_space_is_published():
    assert set(LABEL_SPACES) == set(PUBLISHED)


@pytest.mark.parametrize("word", ["happy", "Happiness", " HAPPY ", "joy"])
def test_aliases_in_any_case(word):
    assert label_space("affwild2_expr").index(word) == 4


def test_unknown_class_names_the_classes():
    with pytest.raises(FerJaxError, match=r"'bored' is not in the space rafdb; one of Surprise, F"):
        label_space("rafdb").index("bored")


def test_unknown_space_names_the_spaces():
    with pytest.raises(FerJaxError, match=r"'imagenet'; one of affwild2_expr, affectnet7"):
        label_space("imagenet")


def test_one_class_under_two_names_is_refused():
    with pytest.raises(FerJaxError, match="Happiness, Happy"):
        LabelSpace("mine", ("Happy", "Neutral", "Happiness"))
    with pytest.raises(FerJaxError, match="no classes"):
        LabelSpace("mine", ())


@pytest.mark.parametrize("source", LABEL_SPACES)
@pytest.mark.parametrize("target", LABEL_SPACES)
def test_map_keeps_names(source, target):
    source, target = label_space(source), label_space(target)
    mapped = label_map(source, target).apply(np.arange(len(source)))
    for name, index in zip(source.classes, mapped, strict=True):
        assert (target.classes[index] == name) if index >= 0 else (name not in target.classes)


def test_map_says_what_is_lost():
    partial = label_map("affectnet8", "affwild2_expr")
    assert partial.lost == ("Contempt",)
    assert partial.unreached == ("Other",)
    assert not partial.total
    assert (
        partial.describe() == "affectnet8 -> affwild2_expr: loses Contempt; nothing leads to Other"
    )
    assert label_map("rafdb", "affwild2_expr", require_total=True).total


def test_required_total_map_names_the_loss():
    with pytest.raises(FerJaxError, match="expw has no counterpart of Other in affwild2_expr"):
        label_map("affwild2_expr", "expw", require_total=True)


def test_spaces_without_a_common_class_do_not_map():
    with pytest.raises(FerJaxError, match="share no class"):
        label_map("expw", LabelSpace("weather", ("Rain", "Sun")))


def test_apply_keeps_unlabelled_and_shape_and_refuses_outside():
    mapping = label_map("affectnet8", "affwild2_expr")
    mapped = mapping.apply(np.array([[-1, 7], [6, 0]]))
    assert mapped.dtype == np.int32
    assert mapped.tolist() == [[-1, -1], [1, 0]]
    with pytest.raises(FerJaxError, match="label 8 is outside"):
        mapping.apply(np.array([0, 8]))
    with pytest.raises(FerJaxError, match="label -2 is outside"):
        mapping.apply(np.array([-2]))
    with pytest.raises(FerJaxError, match="float64, not integers"):
        mapping.apply(np.array([0.5]))
