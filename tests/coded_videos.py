"""Videos whose frames say which they are: a blue square with the frame's number in its red."""

import cv2
import numpy as np

SIZE = (320, 240)
BOX = (40, 100, 40, 40)  # left, top, width, height
_STEP = 45  # far more than what a codec blurs


def write_coded(path, frames=25, fps=25.0):
    """Motion JPEG of a green ground with the square at `BOX`; numbers are modulo 25."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, SIZE)
    left, top, width, height = BOX
    for number in range(1, frames + 1):
        image = np.full((SIZE[1], SIZE[0], 3), (40, 120, 40), np.uint8)
        square = image[top : top + height, left : left + width]
        square[: height // 2] = (230, 0, 20 + _STEP * (number % 5))
        square[height // 2 :] = (230, 0, 20 + _STEP * (number // 5 % 5))
        writer.write(image)
    writer.release()
    return path


def number_in(image, box=BOX):
    """The number of the frame, 0 to 24, that an RGB picture shows; its square is at `box`."""
    left, top, width, height = box
    square = image[top : top + height, left + width // 2 - 4 :][:, :8].astype(float)
    assert square[..., 2].mean() > 150, "no square"
    digits = (square[rows, :, 0].mean() for rows in (slice(6, height // 2 - 6),
                                                     slice(height // 2 + 6, -6)))  # fmt: skip
    low, high = (round((red - 20) / _STEP) for red in digits)
    return low + 5 * high
