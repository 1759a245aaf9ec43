import io

import numpy as np
import pytest
from collection_trees import labelled, pixel_text, pixels, reasons, touch, write
from PIL import Image

from fer_jax.data.collections.fer2013 import SPACE, read_fer2013
from fer_jax.data.images import decode_image
from fer_jax.errors import FerJaxError

# From the page of the challenge.
NAMES = ["Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral"]


def _rows(order, usages=("Training", "PublicTest", "PrivateTest")):
    rows = []
    for number in range(7):
        fields = {
            "emotion": str(number),
            "pixels": pixel_text(number),
            "usage": usages[number % 3],
        }
        rows.append(",".join(fields[name] for name in order))
    return rows


@pytest.mark.parametrize(
    ("file", "header", "order"),
    [
        ("fer2013.csv", "emotion,pixels,Usage", ["emotion", "pixels", "usage"]),
        ("fer2013/fer2013.csv", "emotion,pixels,Usage", ["emotion", "pixels", "usage"]),
        ("icml_face_data.csv", "emotion, Usage, pixels", ["emotion", "usage", "pixels"]),
    ],
)
def test_pixels_in_a_csv_file_become_png(tmp_path, file, header, order):
    write(tmp_path / file, "\r\n".join([header, *_rows(order)]) + "\r\n", "utf-8-sig")
    examples, faults = read_fer2013(tmp_path)
    assert faults == []
    splits = ["train", "validation", "test"] * 3
    assert labelled(examples, SPACE) == [(f"{file}:{n + 2}", splits[n], NAMES[n]) for n in range(7)]
    for number, one in enumerate(examples):
        image = Image.open(io.BytesIO(one.encoded))
        assert (image.format, image.mode, image.size) == ("PNG", "L", (48, 48))
        np.testing.assert_array_equal(np.asarray(image), pixels(number))
        np.testing.assert_array_equal(
            decode_image(one.read()), np.repeat(pixels(number)[..., None], 3, axis=-1)
        )
        assert (one.path, one.source) == (tmp_path / file, "fer2013")


def test_every_bad_row_is_named(tmp_path):
    good = pixel_text(0)
    words = good.split()
    rows = [
        f"0,{good},Training",
        f"7,{good},Training",
        f"x,{good},Training",
        f"0,{good},Usage",
        f"0,{' '.join(words[:-1])},Training",
        f"0,{' '.join([*words[:-1], '256'])},Training",
        f"0,{' '.join([*words[:-1], '-1'])},Training",
        f"0,{' '.join([*words[:-1], '1.5'])},Training",
        f"0,{good}",
        f'0,"{good},Training',
        "",
        f'1,"{good}",PrivateTest',
    ]
    write(tmp_path / "fer2013.csv", "\n".join(["emotion,pixels,Usage", *rows]))
    examples, faults = read_fer2013(tmp_path)
    assert labelled(examples, SPACE) == [
        ("fer2013.csv:2", "train", "Anger"),
        ("fer2013.csv:13", "test", "Disgust"),
    ]
    assert reasons(faults) == {
        "fer2013.csv:3": "emotion '7' is not a number from 0 to 6",
        "fer2013.csv:4": "emotion 'x' is not a number from 0 to 6",
        "fer2013.csv:5": "usage 'Usage' is not Training, PublicTest or PrivateTest",
        "fer2013.csv:6": "has 2303 pixels, not 2304",
        "fer2013.csv:7": "pixel '256' is not a number from 0 to 255",
        "fer2013.csv:8": "pixel '-1' is not a number from 0 to 255",
        "fer2013.csv:9": "pixel '1.5' is not a number from 0 to 255",
        "fer2013.csv:10": "has more or fewer fields than the header",
        "fer2013.csv:11": "has more or fewer fields than the header",
    }
    assert {fault.name: fault.split for fault in faults}["fer2013.csv:6"] == "train"


def test_class_folders_as_on_kaggle(tmp_path):
    folders = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    for number, folder in enumerate(folders):
        split = ["train", "test", "val"][number % 3]
        touch(tmp_path, f"{split}/{folder}/Training_{number}.jpg")
    examples, faults = read_fer2013(tmp_path)
    assert faults == []
    names = ["train", "test", "validation"]
    assert {one.path.name: (one.split, SPACE.classes[one.label]) for one in examples} == {
        f"Training_{n}.jpg": (names[n % 3], NAMES[n]) for n in range(7)
    }
    assert {one.source for one in examples} == {"fer2013"}


def test_other_folders_are_refused(tmp_path):
    words = r"no FER2013; looked for fer2013\.csv, or icml_face_data\.csv, or train/angry; found no"
    with pytest.raises(FerJaxError, match=words):
        read_fer2013(tmp_path)
    write(tmp_path / "fer2013.csv", "emotion,pixels\n")
    with pytest.raises(FerJaxError, match=r"has no column usage; its first line is emotion, pix"):
        read_fer2013(tmp_path)
