"""Figures in one style: real is blue, generated is orange, in every chapter.

Each drawing function takes an Axes (or makes one) and returns it; `show` puts the figure into the
notebook as one small picture with alternative text. Images are enlarged by whole factors, until a
person can judge them: a picture of 28 pixels is drawn with 56, and each of its pixels is 2 × 2.
"""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox, IdentityTransform
from PIL import Image

REAL = "#0072B2"  # blue, Okabe–Ito: told apart by colour-blind readers too
FAKE = "#E69F00"  # orange
THIRD = "#009E73"  # green: the discriminator, or whatever is neither real nor generated
FOURTH = "#CC79A7"  # pink
SIDE = 56  # pixels that a drawn image has at least; but one pixel of it has no more than 8


def style():
    """Set the course's matplotlib style; call it once, at the top of a notebook."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.0, 3.4),
            "figure.dpi": 80,
            "savefig.dpi": 80,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": plt.cycler(color=[REAL, FAKE, THIRD, FOURTH, "#56B4E9", "#000000"]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "font.size": 10,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def _axes(ax):
    return ax if ax is not None else plt.subplots()[1]


def _array(values):
    if isinstance(values, torch.Tensor):
        return values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=float)


def png(figure, *, jpeg=False):
    """The bytes of a figure as PNG, or as JPEG, which is smaller for a photograph.

    A figure that holds a `grid` grows until its images are large enough, and always is a PNG. A PNG
    gets a palette, which makes it a third of the size: 128 colours are plenty for lines, and 256
    where there are images in the figure. For lines the palette is the one of smallest largest
    error: the usual one, of smallest mean error, turns a thin pink line grey.
    """
    buffer = io.BytesIO()
    if sheets := _sheets(figure):
        _grow(figure)
        figure.draw_without_rendering()  # now it is laid out, and axes may shrink to their images
        figure.set_layout_engine("none")
        for sheet in sheets:
            sheet.axes.set_axes_locator(sheet.place)
    elif jpeg:
        figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 50})
        return buffer.getvalue()
    figure.savefig(buffer, format="png")
    if any(ax.images for ax in figure.axes):
        colours, method = 256, Image.Quantize.MEDIANCUT
    else:
        colours, method = 128, Image.Quantize.MAXCOVERAGE
    picture = Image.open(buffer).convert("RGB")
    # one k-means pass puts the large areas (a density's filling) back on their exact colour
    picture = picture.quantize(colours, method, kmeans=1, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def show(target, alt, *, jpeg=False):
    """Display a figure in the notebook with alternative text, then close it.

    target: a Figure, an Axes, or an array of Axes of one figure.
    alt: one or two sentences for somebody who can't see the picture.
    """
    from IPython.display import display

    if isinstance(target, np.ndarray):
        target = target.flat[0]
    figure = target if hasattr(target, "savefig") else target.figure
    content = png(figure, jpeg=jpeg)
    mime = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
    bundle = {mime: base64.b64encode(content).decode("ascii"), "text/plain": alt}
    plt.close(figure)
    display(bundle, raw=True, metadata={mime: {"alt": alt}})


class _Sheet(AxesImage):
    """An image whose pixels all become squares of the same whole number of pixels."""

    def __init__(self, ax, pixels, least):
        """pixels: (H, W, 3) uint8. least: how many pixels each should become."""
        height, width, _ = pixels.shape
        super().__init__(ax, extent=(-0.5, width - 0.5, height - 0.5, -0.5), clip_on=False)
        self.set_data(pixels)
        self.shape, self.least = np.array([width, height]), least
        ax.set(aspect="equal", xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        ax.add_image(self)

    def room(self):
        """The box that the layout gives to the axes, in pixels."""
        figure = self.axes.figure
        return self.axes.get_position(original=True).transformed(figure.transSubfigure)

    def place(self, ax, renderer=None):
        """The part of that box that is drawn on, as a share of the figure: an Axes' locator."""
        room = self.room()
        size = _whole(room, self.shape) * self.shape
        if not size.all():  # smaller than its own pixels: nothing can be whole
            return ax.get_position(original=True)
        place = Bbox.from_bounds(0, 0, *size).anchored(ax.get_anchor(), room)
        place = Bbox.from_bounds(*np.round(place.min), *size)
        return place.transformed(ax.figure.transSubfigure.inverted())

    def make_image(self, renderer, magnification=1.0, unsampled=False):
        """What matplotlib draws: the enlarged pixels, and the place of their lower left corner."""
        times = _whole(self.axes.bbox, self.shape)
        if unsampled or magnification != 1 or not times:
            return super().make_image(renderer, magnification, unsampled)
        box = self.axes.bbox
        left, bottom = np.round(box.min + (box.size - times * self.shape) / 2)
        pixels = self.to_rgba(self._A, bytes=True)[::-1].repeat(times, 0).repeat(times, 1)
        return pixels, left, bottom, IdentityTransform()


def _whole(box, shape):
    """The largest whole factor by which an image fits into a box."""
    return int((box.size / shape).min() + 1e-6)


def _sheets(figure):
    return [image for ax in figure.axes for image in ax.images if isinstance(image, _Sheet)]


def _grow(figure):
    """Enlarge a figure until its images are large enough, and little of their axes stays empty."""
    for _ in range(5 if _sheets(figure) else 0):
        figure.draw_without_rendering()  # lays it out
        factors, lacking = [], []
        for sheet in _sheets(figure):
            size = sheet.room().size
            wanted = sheet.shape * max(sheet.least, round((size / sheet.shape).min()))
            factors.append(wanted / size)
            lacking.append(wanted - size)
        if np.max(factors) <= 1 + 1e-6:
            return
        inches = figure.get_size_inches()
        if len(figure.axes) == 1:  # what stands around it does not grow
            inches = inches + np.maximum(lacking[0], 0) / figure.dpi
        else:
            inches = inches * np.maximum(np.max(factors, axis=0), 1)
        figure.set_size_inches(inches)


def grid(x, *, columns=8, ax=None, title=None):
    """Draw images side by side.

    x: (N, C, H, W) with C = 1 or 3, in [-1, 1].
    Returns: the Axes.
    Raises: ValueError if x has another shape.
    """
    x = _array(x)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"grid draws images (N, 1 or 3, H, W); this has shape {x.shape}.")
    n, c, h, w = x.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1, 3))  # one white pixel between
    for i, image in enumerate(x):
        top, left = (i // columns) * (h + 1), (i % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = np.clip((image.transpose(1, 2, 0) + 1) / 2, 0, 1)
    times, own = min(8, -(-SIDE // min(h, w))), ax is None
    if own:
        inches = (times * np.array(sheet.shape[1::-1]) + 8) / plt.rcParams["figure.dpi"]
        _, ax = plt.subplots(figsize=inches, layout="constrained")
    _Sheet(ax, (255 * sheet).round().astype(np.uint8), times)
    ax.set_axis_off()
    if title:
        ax.set_title(title)
    if own:
        _grow(ax.figure)
        least = (ax.title.get_window_extent().width + 8) / ax.figure.dpi
        ax.figure.set_figwidth(max(ax.figure.get_figwidth(), least))
    return ax


def rows(images, *, columns=12, ax=None):
    """Draw one row of images per name, the name to its left.

    images: dict from a name to images (N, C, H, W), in [-1, 1], of which the first `columns` are
        drawn; all of one size.
    Returns: the Axes.
    """
    parts = [_array(x[:columns]) for x in images.values()]
    columns = max(map(len, parts))
    missing = [((0, columns - len(part)), (0, 0), (0, 0), (0, 0)) for part in parts]
    whole = [np.pad(x, m, constant_values=1) for x, m in zip(parts, missing, strict=True)]
    own, ax = ax is None, grid(np.concatenate(whole), columns=columns, ax=ax)
    height = whole[0].shape[2]
    for row, name in enumerate(images):
        ax.annotate(
            name, (-0.5, row * (height + 1) + (height - 1) / 2), (-6, 0),
            textcoords="offset points", ha="right", va="center", fontsize=9,
        )
    if own:
        width = max(name.get_window_extent().width for name in ax.texts)
        ax.figure.set_figwidth(ax.figure.get_figwidth() + width / ax.figure.dpi)
        _grow(ax.figure)
    return ax


def curves(history, keys=None, *, ax=None, smooth=1, ylabel="loss [nats]"):
    """Draw quantities of a run against the step.

    history: mapping with "step" and one list per quantity, as `Run.history` is.
    keys: the quantities to draw, default all but the step and the rate.
    smooth: length of a running mean [steps]; the raw values stay visible behind it.
    Returns: the Axes.
    """
    ax = _axes(ax)
    keys = keys or [k for k in history if k != "step" and not k.endswith("_per_second")]
    steps = np.asarray(history["step"], dtype=float)
    for i, key in enumerate(keys):
        values = np.asarray(history[key], dtype=float)
        colour = {"d_loss": THIRD, "g_loss": FAKE}.get(key, f"C{i}")  # D green, G orange
        if smooth > 1 and len(values) > smooth:
            ax.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            mean = np.convolve(values, np.ones(smooth) / smooth, mode="valid")
            ax.plot(steps[smooth - 1 :], mean, color=colour, label=key)
        else:
            ax.plot(steps, values, color=colour, label=key)
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    ax.legend()
    return ax


def density(x, p, *, ax=None, color=REAL, label=None):
    """Draw a probability density over one dimension.

    x, p: (N,) positions and densities.
    Returns: the Axes.
    """
    ax = _axes(ax)
    x, p = _array(x), _array(p)
    ax.plot(x, p, color=color, label=label)
    ax.fill_between(x, p, color=color, alpha=0.2, linewidth=0)
    ax.set_ylabel("density")
    return ax


def field(function, *, limits=(-2, 2), arrows=15, ax=None, color="0.6"):
    """Draw a two-dimensional vector field.

    function: maps two (arrows, arrows) arrays x, y to the two components at those points.
    Returns: the Axes.
    """
    ax = _axes(ax)
    line = np.linspace(*limits, arrows)
    x, y = np.meshgrid(line, line)
    u, v = function(x, y)
    ax.quiver(x, y, u, v, color=color, width=0.004)
    ax.set_aspect("equal")
    return ax
