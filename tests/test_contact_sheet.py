import warnings

import cv2
import numpy as np
import pytest

from fer_jax.data.contact_sheet import write_contact_sheet


def _sheet(path, caption: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of signs that the font lacks
        picture = np.full((8, 8, 3), 200, np.uint8)
        write_contact_sheet(path, "two", [("some", [(caption, picture), (caption, None)])])
    return cv2.imread(str(path))


@pytest.mark.parametrize(
    "caption", ["a$^$b.jpg", "$x$", "caf\udce9.jpg", "a\nb", "表情.jpg", "\\frac"]
)
def test_any_name_can_be_a_caption(tmp_path, caption):
    plain = _sheet(tmp_path / "plain.png", "a" * len(caption))
    odd = _sheet(tmp_path / "odd.png", caption)
    assert odd.shape == plain.shape
    assert (odd != plain).any()


def test_what_the_font_lacks_is_shown_as_such(tmp_path):
    lacking = _sheet(tmp_path / "lacking.png", "caf\udce9.jpg")
    np.testing.assert_array_equal(lacking, _sheet(tmp_path / "mark.png", "caf\ufffd.jpg"))
