"""Images in figures: each of their pixels becomes a square of the same whole number of pixels."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from gencourse import plot


@pytest.fixture(autouse=True)
def course_style():
    with plt.rc_context():
        plot.style()
        yield
    plt.close("all")


def images(count, side, channels=1, seed=0):
    """(N, C, H, W) in [-1, 1] of a few bright colours, none of them white: a palette keeps them."""
    rng = np.random.default_rng(seed)
    levels = np.array([0, 90, 180])
    values = levels[rng.integers(0, 3, (count, channels, side, side))]
    values[..., 0, 0], values[..., -1, -1] = 90, 180  # in no picture are the corners alike
    return torch.from_numpy(values) / 127.5 - 1


def found(content, x):
    """The factor by which each image of x stands in a PNG: exactly, or it fails.

    Looked for is the image with each pixel as k × k equal ones, from the largest k on.
    """
    drawn = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    factors = []
    for image in (127.5 * (x + 1)).round().int().permute(0, 2, 3, 1).numpy():
        for k in range(16, 0, -1):
            wanted = np.broadcast_to(image, (*image.shape[:2], 3)).repeat(k, 0).repeat(k, 1)
            height, width, _ = wanted.shape
            size = drawn.shape[0] - height + 1, drawn.shape[1] - width + 1
            if min(size) < 1:
                continue
            corners = np.argwhere(np.abs(drawn[: size[0], : size[1]] - wanted[0, 0]).max(-1) <= 4)
            for pixel in np.random.default_rng(0).integers(0, (height, width), (40, 2)):
                y, x_ = (corners + pixel).T  # where the image may begin, by one pixel after another
                corners = corners[np.abs(drawn[y, x_] - wanted[tuple(pixel)]).max(-1) <= 4]
            if any(
                np.abs(drawn[top : top + height, left : left + width] - wanted).max() <= 4
                for top, left in corners
            ):
                factors.append(k)
                break
        else:
            raise AssertionError("an image is not there in whole squares")
    return factors
