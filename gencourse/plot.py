"""Figures in one style: real is blue, generated is orange, in every chapter.

Each drawing function takes an Axes (or makes one) and returns it; `show` puts the figure into the
notebook as one small picture with alternative text.
"""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

REAL = "#0072B2"  # blue, Okabe–Ito: told apart by colour-blind readers too
FAKE = "#E69F00"  # orange
THIRD = "#009E73"  # green: the discriminator, or whatever is neither real nor generated
FOURTH = "#CC79A7"  # pink


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
    """The bytes of a figure as PNG (or JPEG, smaller where the figure is photographs).

    A PNG gets a palette, which makes it a third of the size: 128 colours are plenty for lines, and
    256 where there are images in the figure. For lines the palette is the one of smallest largest
    error: the usual one, of smallest mean error, turns a thin pink line grey.
    """
    buffer = io.BytesIO()
    if jpeg:
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
    mime = "image/jpeg" if jpeg else "image/png"
    bundle = {
        mime: base64.b64encode(png(figure, jpeg=jpeg)).decode("ascii"),
        "text/plain": alt,
    }
    plt.close(figure)
    display(bundle, raw=True, metadata={mime: {"alt": alt}})


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
    sheet = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1, c))  # one white pixel between
    for i, image in enumerate(x):
        top, left = (i // columns) * (h + 1), (i % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = np.clip((image.transpose(1, 2, 0) + 1) / 2, 0, 1)
    if ax is None:
        width = min(6.0, 0.75 * columns)
        _, ax = plt.subplots(figsize=(width, width * rows / columns + (0.3 if title else 0)))
    ax.imshow(sheet.squeeze(), vmin=0, vmax=1)
    ax.set_axis_off()
    if title:
        ax.set_title(title)
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


def density(x, p, *, ax=None, color=REAL, label=None, fill=True):
    """Draw a probability density over one dimension.

    x, p: (N,) positions and densities.
    Returns: the Axes.
    """
    ax = _axes(ax)
    x, p = _array(x), _array(p)
    ax.plot(x, p, color=color, label=label)
    if fill:
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
