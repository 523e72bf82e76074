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
    """For each image of x (k, places): it stands there with each pixel as k × k equal ones.

    k: the largest such factor; an image without any fails. places: (top, left), in order.
    """
    drawn = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    results = []
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
            places = [
                (top, left)
                for top, left in corners.tolist()
                if np.abs(drawn[top : top + height, left : left + width] - wanted).max() <= 4
            ]
            if places:
                results.append((k, places))
                break
        else:
            raise AssertionError("an image is not there in whole squares")
    return results


def factors(content, x):
    return {k for k, _ in found(content, x)}


def saved(figure, **options):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("side", "channels", "factor"), [(28, 1, 2), (32, 3, 2), (16, 1, 4), (56, 3, 1), (3, 1, 8)]
)
def test_small_images_are_enlarged_by_a_whole_factor(side, channels, factor):
    x = images(5, side, channels)
    for ax in (plot.grid(x, columns=3), plot.grid(x, title="a title"), plot.rows({"a name": x})):
        figure = ax.figure
        assert factors(saved(figure), x) == {factor}, "saved by matplotlib alone"
        assert factors(plot.png(figure), x) == {factor}
        assert factors(plot.png(figure), x) == {factor}, "the second time"


@pytest.mark.parametrize("options", [{"bbox_inches": "tight"}, {"dpi": 120}, {"dpi": 131}])
def test_the_squares_are_whole_however_a_figure_is_saved(options):
    x = images(6, 28)
    assert min(factors(saved(plot.grid(x, columns=3, title="a title").figure, **options), x)) >= 2


@pytest.mark.parametrize("layout", ["constrained", "none", "adjusted"])
def test_a_figure_grows_until_its_images_can_be_seen(layout):
    """Beside curves, at sizes that fit nothing, in several grids of different images."""
    x, y = images(8, 28), images(3, 32, 3, seed=1)
    for width, height in ((3.21, 1.43), (6.6, 2.0), (7.37, 3.9)):
        kind = "constrained" if layout == "constrained" else "none"
        figure, axes = plt.subplots(1, 3, figsize=(width, height), layout=kind)
        if layout == "adjusted":
            figure.subplots_adjust(left=0.271, right=0.99, bottom=0.02, top=0.77)
        plot.grid(x, columns=4, ax=axes[0], title="first").set_anchor("W")
        plot.grid(y, columns=2, ax=axes[1], title="second")
        axes[2].plot([0, 1], [3, 4])
        axes[2].set_xlabel("step")
        content = plot.png(figure)
        assert factors(content, x) | factors(content, y) <= {2, 3, 4}
        height = Image.open(io.BytesIO(content)).size[1]
        for ax, part in zip(axes, (x, y), strict=False):
            (_, [(top, left), *_]), *_ = found(content, part[:1])
            # the axes begin and end where their images do: what is written there fits
            np.testing.assert_allclose([left, height - top], [ax.bbox.x0, ax.bbox.y1], atol=1e-3)
            times = ax.bbox.size / ax.images[0].get_size()[::-1]
            np.testing.assert_allclose(times, times.round()[0], atol=1e-6)


def test_names_stand_beside_their_rows_and_short_rows_end_in_white():
    x = images(5, 28)
    ax = plot.rows({"one": x, "two": x[:2], "the longest name of all": x}, columns=4)
    content = plot.png(ax.figure)
    _, rows = found(content, x[:1])[0]
    assert [len(places) for _, places in found(content, x[:4])] == [3, 3, 2, 2]
    top, bottom = rows[1][0], rows[1][0] + 56
    drawn = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert (drawn[top:bottom, rows[1][1] + 2 * 58 :] > 250).all(), "the short row ends in white"
    for text, (top, left) in zip(ax.texts, rows, strict=True):
        box = text.get_window_extent()
        middle = ax.figure.bbox.height - (box.y0 + box.y1) / 2
        assert abs(middle - (top + 28)) < 4, "the name stands beside its row"
        assert 0 <= box.x0 and box.x1 <= left, "in the figure, left of the images"


def test_long_words_around_few_images_are_not_cut_off():
    x = images(1, 28)
    for ax in (plot.grid(x, title="far wider than one image"), plot.rows({"and so is this": x})):
        assert factors(plot.png(ax.figure), x) == {2}
        for words in (ax.title, *ax.texts):
            box = words.get_window_extent()
            assert 0 <= box.x0 and box.x1 <= ax.figure.bbox.x1


def test_one_that_is_too_small_or_has_no_images_is_drawn_as_ever():
    figure, axes = plt.subplots(1, 9, figsize=(1, 1))
    plot.grid(images(64, 28), ax=axes[0])
    with pytest.warns(UserWarning, match="collapsed"):
        assert saved(figure).startswith(b"\x89PNG")
    figure, ax = plt.subplots(figsize=(3, 2))
    ax.imshow(np.zeros((5, 5)))
    assert Image.open(io.BytesIO(plot.png(figure))).size == (240, 160)
    with pytest.raises(ValueError, match="this has shape"):
        plot.grid(torch.zeros(3, 28, 28))


def test_show_gives_images_as_png_with_alternative_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *x, **options: shown.append((x, options)))
    plot.show(plot.rows({"a": images(2, 28)}), alt="two pictures", jpeg=True)
    plot.show(plt.subplots()[1], alt="a photograph", jpeg=True)
    kinds = [set(bundle) for ((bundle,), _) in shown]
    assert kinds == [{"image/png", "text/plain"}, {"image/jpeg", "text/plain"}]
    assert shown[0][1]["metadata"] == {"image/png": {"alt": "two pictures"}}
    assert not plt.get_fignums(), "the figures were closed"
