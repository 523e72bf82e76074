"""Pictures by rule: circles, squares, triangles and crosses with known factors and a caption.

A shape is a signed distance: negative inside, positive outside, in fractions of the picture's
width. A pixel takes the colour to the degree that the shape covers it, so edges are smooth at any
size. Picture number i depends on nothing but i and the seed.
"""

import math

import numpy as np
import torch

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (230, 55, 55),
    "orange": (245, 145, 35),
    "yellow": (245, 225, 70),
    "green": (60, 175, 80),
    "blue": (60, 110, 230),
    "purple": (165, 75, 205),
}
SIZE = (0.13, 0.26)  # radius; every shape then covers about the area of the circle, or less
PLACE = (0.30, 0.70)  # x and y alike: the largest shape stays inside at every angle
# The captions' words for the lower, middle and upper third of size, y and x
EXTENTS = ("small", "medium-sized", "large")
HEIGHTS = ("top", "", "bottom")
WIDTHS = ("left", "", "right")
CHUNK = 1_000  # pictures drawn at once, which bounds the memory


def _box(u, v, half_width, half_height):
    """Signed distance of the points (u, v) to a rectangle around the origin."""
    du, dv = u.abs() - half_width, v.abs() - half_height
    outside = torch.hypot(du.clamp(min=0), dv.clamp(min=0))
    return outside + torch.maximum(du, dv).clamp(max=0)


def distance(shape, u, v, radius):
    """Signed distance to a shape around the origin, negative inside.

    shape: a word of SHAPES; u, v: positions, u to the right and v up; radius: in the same unit,
    and all three of shapes that broadcast.
    Returns: tensor of the broadcast shape, in the same unit. For the triangle it is the distance to
    the nearest of its three lines: the zero line is exact, the corners stay sharp.
    """
    if shape == "circle":
        return torch.hypot(u, v) - radius
    if shape == "square":
        return _box(u, v, 0.8 * radius, 0.8 * radius)
    if shape == "triangle":  # the inscribed circle's radius is half the circumscribed one's
        slanted = u.abs() * (math.sqrt(3) / 2) + v / 2
        return torch.maximum(slanted, -v) - 0.56 * radius
    if shape == "cross":
        long, short = 0.95 * radius, 0.33 * radius
        return torch.minimum(_box(u, v, long, short), _box(u, v, short, long))
    raise ValueError(f"There is no shape {shape!r}; choose one of {', '.join(SHAPES)}.")


def draw(shape, colour, size, x, y, angle=0.0, *, pixels=32):
    """Draw one shape in any colour on each of N black pictures.

    shape: a word of SHAPES, the same for all.
    colour: (N, 3) or (3,), red, green and blue from 0 to 255.
    size, x, y: (N,) or numbers: radius and centre as fractions of the picture's width, (0, 0) being
    the top left corner; angle: (N,) or a number, anticlockwise [degrees].
    pixels: height and width.
    Returns: (N, 3, pixels, pixels) uint8.
    Source: coverage from a signed distance, as in Green 2007, doi:10.1145/1281500.1281665.
    """
    values = [torch.as_tensor(value, dtype=torch.float32) for value in (size, x, y, angle)]
    size, x, y, angle = (value.reshape(-1, 1, 1) for value in values)
    centres = (torch.arange(pixels) + 0.5) / pixels
    right, up = centres - x, y - centres[:, None]  # (N, 1, W) and (N, H, 1)
    cosine, sine = torch.cos(angle.deg2rad()), torch.sin(angle.deg2rad())
    u, v = cosine * right + sine * up, cosine * up - sine * right  # turn the points back: (N, H, W)
    coverage = (0.5 - distance(shape, u, v, size) * pixels).clamp(0, 1)
    colour = torch.as_tensor(colour, dtype=torch.float32).reshape(-1, 3, 1, 1)
    return (coverage[:, None] * colour).round().to(torch.uint8)


def factors(first, last, *, seed=0, rotate=False):
    """What pictures first … last - 1 show, drawn independently and uniformly.

    rotate: turn each shape by a random angle. Off by default: small networks learn upright shapes
    in seconds and rotated ones hardly at all.
    Returns: dict of (last - first,) tensors: "shape" and "colour" (int64, places in SHAPES and
    COLOURS), "size", "x", "y" (fractions of the width), "angle" [degrees].
    """
    if not 0 <= first <= last:
        raise ValueError(f"Pictures {first} to {last} are no range: 0 ≤ first ≤ last is needed.")
    # A counter-based generator can start anywhere: each picture owns 8 numbers, 4 per count.
    bits = np.random.Philox(key=seed % 2**64, counter=2 * first)
    u = torch.from_numpy(np.random.Generator(bits).random((last - first, 8))).float()
    return {
        "shape": (u[:, 0] * len(SHAPES)).long().clamp(max=len(SHAPES) - 1),
        "colour": (u[:, 1] * len(COLOURS)).long().clamp(max=len(COLOURS) - 1),
        "size": SIZE[0] + u[:, 2] * (SIZE[1] - SIZE[0]),
        "x": PLACE[0] + u[:, 3] * (PLACE[1] - PLACE[0]),
        "y": PLACE[0] + u[:, 4] * (PLACE[1] - PLACE[0]),
        "angle": u[:, 5] * 360 * float(rotate),
    }


def _third(value, limits, words):
    """Which of three words, by the third of the limits that the value is in."""
    return words[min(2, max(0, int(3 * (value - limits[0]) / (limits[1] - limits[0]))))]


def captions(factors):
    """A caption for each picture, such as "a small red triangle, top left".

    factors: as `factors` returns them. Returns: list of N str. The angle is not mentioned.
    """
    colours, result = list(COLOURS), []
    columns = (factors[key].tolist() for key in ("shape", "colour", "size", "x", "y"))
    for shape, colour, size, x, y in zip(*columns, strict=True):
        large = _third(size, SIZE, EXTENTS)
        row, column = _third(y, PLACE, HEIGHTS), _third(x, PLACE, WIDTHS)
        place = f"{row} {column}".strip() or "centre"
        result.append(f"a {large} {colours[colour]} {SHAPES[shape]}, {place}")
    return result


def render(first, last, *, pixels=32, seed=0, rotate=False):
    """Pictures first … last - 1 of an endless series: a pure function of its arguments.

    pixels: height and width; seed, rotate: as in `factors`.
    Returns: ((N, 3, pixels, pixels) uint8, the factors, the list of N captions).
    """
    known = factors(first, last, seed=seed, rotate=rotate)
    colours = torch.tensor(list(COLOURS.values()))[known["colour"]]
    x = torch.empty(last - first, 3, pixels, pixels, dtype=torch.uint8)
    for start in range(0, last - first, CHUNK):
        for i, shape in enumerate(SHAPES):
            rows = start + (known["shape"][start : start + CHUNK] == i).nonzero().squeeze(1)
            where = {name: known[name][rows] for name in ("size", "x", "y", "angle")}
            x[rows] = draw(shape, colours[rows], **where, pixels=pixels)
    return x, known, captions(known)
