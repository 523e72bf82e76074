# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 0 · Start here
#
# There are two ways to make a computer draw: tell it the rule, or show it examples. Today you do
# both.

# %% [markdown]
# **In this course you will make pictures like these,** on a laptop, with programs whose every line
# you understand. Each new picture begins as a few random numbers.
#
# ![Rows of small grey shoes, shirts, trousers and bags; some are torn.](images/05_clothes.png)
#
# *[Chapter 05](05_dcgan.ipynb): clothes that don't exist. They are the first that its network
# drew; nobody picked them.*
#
# ![Clothes, the same clothes softened, and rows of new ones in soft grey.](images/08_vae.png)
#
# *[Chapter 08](08_vae.ipynb): real pictures, packed into a few numbers and unpacked; and new ones.
# The last row shows how far one gets without a network.*
#
# ![Sixty small colour pictures, rough and hard to name.](images/05_colour.png)
#
# *Photographs in colour (chapter 05 again) are much harder: few things have a name.*
#
# <!-- the pictures of later chapters: one picture and one line each -->

# %% [markdown]
# **After this chapter you can** render a shaded picture from nothing but geometry; train a
# generator and watch handwritten digits appear; and say what each way needs, and where it stops.
#
# **You need** a little Python, vectors and their dot product, square roots, sine and tangent. No
# machine learning yet.
#
# <!-- stamp -->
# *Run time: 1.5 min, peak memory 1.5 GB, `cpu` profile on `digits`, `shapes`
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/00_start_here.ipynb)
# <!-- /badge -->
#
# Welcome! A notebook is text and *cells* of code. Click on a cell, press **Shift + Enter**, and it
# runs; go from top to bottom. You can't break anything: *Kernel → Restart* gives you a clean start.

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import inspect
import time
from collections import namedtuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from gencourse import data, losses, nets, plot, runtime, train, widgets

# %%
plot.style()
runtime.seed_everything(0)  # the same "random" numbers each time, so that you see what we saw
device = runtime.device()
print(runtime.describe())

# %%
HEIGHT, WIDTH = runtime.budget(smoke=(72, 120), cpu=(288, 480), gpu=(288, 480))  # of the rendering
AMBIENT = 0.25  # light that comes from everywhere: shadows are dark, not black
Z = 64  # random numbers behind each learned picture: more than digits need, cheap all the same
BATCH = 64  # pictures per training step: enough for a steady direction, few enough to be quick
RATE = 2e-3  # length of a training step: large, so that we see something within a minute
STEPS = runtime.budget(smoke=20, cpu=1_000, gpu=2_000)  # digits are readable after a few hundred
BETAS = (0.5, 0.999)  # how long Adam, which makes the steps, remembers: 0.5 is DCGAN's advice
DECAY = 0.98  # the networks we look at are averages over about 1 / (1 − DECAY) steps
SEEDS = range(runtime.budget(smoke=1, cpu=3, gpu=3))  # a result that rests on one run proves little

# %% [markdown]
# ## Where this chapter is heading
#
# Left: pictures that follow a rule; a page of code knows everything about them. Middle: digits that
# people wrote by hand. Right: what a neural network draws before any training. By the end of this
# chapter the right panel will look much like the middle one.

# %%
shapes, digits = data.load("shapes", count=1_000), data.load("digits")
G = nets.DCGANGenerator(16, channels=1, z_dim=Z, width=16).to(device)
noise = torch.randn(64, Z, device=device)  # the same noise for every learned picture below

fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.7))
plot.grid(shapes.images(torch.arange(16)), columns=4, ax=axes[0], title="by rule")
plot.grid(digits.images(torch.arange(16)), columns=4, ax=axes[1], title="by hand")
plot.grid(10 * G(noise[:16]), columns=4, ax=axes[2], title="untrained, contrast × 10")
plot.show(
    fig,
    alt="Three grids of small pictures: clean coloured shapes, grey handwritten digits, and grey "
    "noise from a network that has learned nothing yet.",
)

# %% [markdown]
# # By rule
#
# ## 0.1 Which number belongs in which pixel?
#
# A picture is a table of numbers, one per pixel (three for colour). To fill it by rule, put an eye
# in front of a scene. Through every pixel runs one **ray**: it starts at the eye $o$ and goes in
# direction $d$, a vector of length 1. After a distance $t$ it is at
#
# $$o + t\,d.$$
#
# Whatever the ray hits first is what the pixel shows.

# %% [markdown]
# **Which direction belongs to which pixel?** Imagine a screen at distance 1 in front of the eye.
# Three arrows of length 1, each perpendicular to the others, say how the camera stands: *forward*,
# *right* and *up*. To find them we need the **cross product**: $a\times b$ is perpendicular to $a$
# and to $b$, and the order of the two decides which way it points. Let *vertical* be $(0,1,0)$.
# Then *right* is forward × vertical, divided by its length, and *up* is right × forward.

# %% [markdown]
# The camera sees a certain *angle* between the lower and the upper edge of the screen. In the
# triangle on the left below, the tangent is the far side over the near one, and the near one is 1.
# So half the screen is $\tan(\text{angle}/2)$ high. The ray through the screen's point $(x, y)$ has
# the direction
#
# $$\text{forward} + x\,\text{right} + y\,\text{up}, \qquad\text{divided by its length.}$$

# %%
def arrow(ax, start, end, text):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": plot.REAL})
    ax.annotate(text, end, (6, 4), textcoords="offset points", color=plot.REAL)


half = np.tan(np.radians(40) / 2)
fig, (side, front) = plt.subplots(1, 2, figsize=(8.4, 3.2), width_ratios=[1.5, 1])
side.plot([1, 1], [-half, half], color="k", linewidth=3)  # the screen
side.plot([1, 0, 1], [half, 0, -half], color="0.6", linewidth=1)
side.plot([0, 1.5], [0, 1.5 * 0.2], color=plot.FAKE)  # the ray through y = 0.2
side.plot(0, 0, "ko")
side.text(-0.07, -0.1, "eye")
side.text(0.2, 0.015, "angle / 2", fontsize=8)
side.text(1.04, -half, "screen, half of it is\ntan(angle / 2) high")
side.text(1.3, 0.32, "ray", color=plot.FAKE)
arrow(side, (0, 0), (0.75, 0), "forward")
arrow(side, (0, 0), (0, 0.35), "up")
side.set(xlim=(-0.2, 1.75), ylim=(-0.45, 0.45), aspect="equal", title="from the side")
front.hlines(np.linspace(-half, half, 7), -4 / 3 * half, 4 / 3 * half, color="0.8")
front.vlines(np.linspace(-4 / 3 * half, 4 / 3 * half, 9), -half, half, color="0.8")
front.plot(0.3, 0.18, "s", color=plot.FAKE, markersize=12)
front.text(0.12, 0.28, "pixel (x, y)", color=plot.FAKE)
arrow(front, (0, 0), (0.3, 0), "x right")
arrow(front, (0.3, 0), (0.3, 0.15), "y up")
front.set(aspect="equal", title="the screen, from the eye")
for ax in (side, front):
    ax.set_axis_off()
plot.show(fig, alt="Left: an eye, arrows forward and up, and a screen at distance 1; lines to "
                   "its edges and an orange ray through one point. Right: the screen as a grid "
                   "of pixels; one of them is x to the right and y up from the middle.")


# %%
def unit(v):
    """Vectors of the same direction and length 1."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def camera_rays(height, width, eye, target, angle=40.0):
    """Directions (height, width, 3) of the rays of a camera with this vertical angle [degrees]."""
    forward = unit(target - eye)
    right = unit(np.cross(forward, [0.0, 1.0, 0.0]))  # [0, 1, 0] is vertical
    up = np.cross(right, forward)
    half = np.tan(np.radians(angle) / 2)  # half the screen's height, at distance 1
    x = (2 * (np.arange(width) + 0.5) / width - 1) * half * width / height  # pixels' middles
    y = (1 - 2 * (np.arange(height) + 0.5) / height) * half  # row 0 is the top
    return unit(forward + x[None, :, None] * right + y[:, None, None] * up)


# %% [markdown]
# A **sphere** is every point at distance $r$ from a centre $c$. The ray meets it where
# $\lVert o + t\,d - c\rVert^2 = r^2$. Multiply out, with $d\cdot d = 1$:
#
# $$t^2 + 2bt + k = 0,\qquad b = d\cdot(o-c),\quad k = \lVert o-c\rVert^2 - r^2,$$
#
# a quadratic equation with the solutions $t = -b \pm\sqrt{b^2-k}$.
#
# **Predict:** a quadratic has two roots, one, or none. What does each case look like in the scene?
# And if there are two, which one does the eye see?


# %%
def dot(a, b):
    """Dot products of vectors (…, 3)."""
    return (a * b).sum(axis=-1)


# %%
def hit_sphere(origin, direction, centre, radius):
    """Distance t to a sphere along each ray, infinite where it is missed."""
    b = dot(direction, origin - centre)
    k = dot(origin - centre, origin - centre) - radius**2
    root = np.sqrt(np.maximum(b**2 - k, 0))
    t = -b - root  # the nearer of the two
    return np.where((b**2 > k) & (t > 1e-4), t, np.inf)


# %%
eye, centre, radius = np.array([0.0, 0.0, 4.0]), np.zeros(3), 1.0
rays = camera_rays(120, 160, eye, target=centre)
t = hit_sphere(eye, rays, centre, radius)
hit = np.isfinite(t)
points = eye + t[hit][:, None] * rays[hit]  # (number of hits, 3)
print(f"{hit.sum():,} of {hit.size:,} rays hit; the nearest point is at t = {t.min():.3f}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.6))
left.imshow(hit)
left.set_title("does the ray hit?")
image = right.imshow(np.where(hit, t, np.nan), cmap="viridis")
right.set_title("how far away?")
fig.colorbar(image, ax=right, label="t [radii of the sphere]")
for ax in (left, right):
    ax.set_axis_off()
plot.show(
    fig,
    alt="Left: a white disc on black. Right: the same disc coloured by distance, nearest in the "
    "middle and farther towards the rim.",
)

# %% [markdown]
# No root: the ray passes by. Two roots: it enters the sphere and leaves it again, and the eye sees
# the entrance, the **smaller** $t$. Exactly one root: it grazes the rim.
#
# The right picture already knows that this is a ball and not a disc. Our eyes can't tell: distance
# isn't light. That comes next.
#
# First a habit of this course. Every section ends with a *checkpoint*: a cell that tests the result
# **by another route**. From a distance $\ell$, the rim of a sphere appears at the angle
# $\arcsin(r/\ell)$ to its centre. That is school geometry, without a quadratic.

# %%
# checkpoint: hits lie on the sphere, the disc is what geometry predicts, the camera looks ahead
assert np.abs(np.linalg.norm(points - centre, axis=-1) - radius).max() < 1e-6
odd = camera_rays(101, 101, eye, target=np.array([1.0, 2.0, 0.0]))
assert np.allclose(odd[50, 50], unit(np.array([1.0, 2.0, 0.0]) - eye))  # the pixel in the middle
angle = np.arccos(dot(rays, unit(centre - eye)))
predicted = angle < np.arcsin(radius / np.linalg.norm(centre - eye))
assert (predicted == hit).all()
print("✓ every pixel agrees")

# %% [markdown]
# ## 0.2 Why does a disc not look like a ball?
#
# Because light is missing. Let $n$ be the **normal**, the unit vector perpendicular to the surface
# (on a sphere it points away from the centre), and $s$ the unit vector towards the sun. A surface
# that faces the sun gets the full light; one that is tilted spreads the same light over a larger
# area. This is Lambert's law, 1760:
#
# $$\text{brightness} = a + (1-a)\,\max(0,\; n\cdot s),\qquad n = \frac{p-c}{r}.$$
#
# $p$ is the point, and $a$ a little light from everywhere (*ambient*).
#
# **Predict:** with the sun at the upper left, where is the brightest pixel? Where would it be
# without the $\max$?


# %%
def lambert(normal, sun):
    return AMBIENT + (1 - AMBIENT) * np.maximum(dot(normal, sun), 0)


# %%
sun = unit(np.array([-0.6, 0.85, 0.55]))  # from the left, from above, from behind the eye
normals = (points - centre) / radius
as_colour, shaded = np.zeros((*hit.shape, 3)), np.zeros(hit.shape)
as_colour[hit] = (normals + 1) / 2  # each part from [-1, 1] to [0, 1]
shaded[hit] = lambert(normals, sun)

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.1))
titles = ("the disc", "its normals, as colours", "lit by Lambert's law")
for ax, picture, title in zip(axes, (hit, as_colour, shaded), titles, strict=True):
    ax.imshow(picture, vmin=0, vmax=1)
    ax.set_title(title)
    ax.set_axis_off()
plot.show(
    fig,
    alt="A flat white disc; the same disc in a rainbow of colours that encode its normals; and a "
    "grey ball, bright at the upper left and dark at the lower right.",
    jpeg=True,
)

# %% [markdown]
# One dot product, and a disc becomes a ball. The brightest point is the one that faces the sun,
# with or without the $\max$; without it, the dark side would sink below the ambient light. The
# picture says nothing about what lies *between* ball and sun: nothing here can throw a shadow yet.
#
# The checkpoint needs no vector geometry: the normal is the direction in which the distance
# $\lVert p - c\rVert$ grows fastest, so we measure its slope by moving each point a tiny bit.

# %%
# checkpoint: normals have length 1 and equal the measured slope of the distance
assert np.abs(np.linalg.norm(normals, axis=-1) - 1).max() < 1e-6
for axis in range(3):
    step = 1e-6 * np.eye(3)[axis]
    further = np.linalg.norm(points + step - centre, axis=-1)
    nearer = np.linalg.norm(points - step - centre, axis=-1)
    assert np.abs((further - nearer) / 2e-6 - normals[:, axis]).max() < 1e-6
print("✓ perpendicular to the surface, everywhere")

# %% [markdown]
# ## 0.3 What is the rule for marble?
#
# A **texture** can be a rule too: a function from position to colour. For a chessboard it is "round
# down $x$ and $z$, add them, even or odd". Nature is harder, since it needs *controlled disorder*.
# Here is a simpler form of Ken Perlin's idea of 1985: put a random number on each corner of a grid
# of cubes, and blend smoothly in between. Along each axis the corner ahead gets the weight
# $\text{blend}(f)$, and the corner behind gets the rest:
#
# $$\text{blend}(f) = f^2(3-2f),\qquad f \text{ from } 0 \text{ to } 1 \text{ across a cube.}$$
#
# **Predict:** what do you get when you add this noise to a copy of itself, twice as fine and half
# as strong, and again, and again?

# %%
CORNERS = np.random.default_rng(3).random((32, 32, 32))  # repeats every 32 cubes: far enough


# %%
def noise_at(p, smooth=True):
    """Noise in [0, 1] at points (…, 3)."""
    cell = np.floor(p).astype(int)
    f = p - cell
    if smooth:
        f = f * f * (3 - 2 * f)  # flat at both ends: no seams between cubes
    total = np.zeros(p.shape[:-1])
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(np.array(corner) == 1, f, 1 - f).prod(axis=-1)
        i = (cell + corner) % 32
        total += weight * CORNERS[i[..., 0], i[..., 1], i[..., 2]]
    return total


# %%
def fractal(p):
    """Five layers of noise, each twice as fine and half as strong as the last."""
    return sum(noise_at(p * 2**i + 17 * i) / 2 ** (i + 1) for i in range(5))


# %%
def mix(a, b, amount):
    """Colour between a and b (RGB, each from 0 to 1)."""
    return np.asarray(a) + (np.asarray(b) - np.asarray(a)) * amount[..., None]


# %%
def checkerboard(p):
    odd = (np.floor(p[..., 0]) + np.floor(p[..., 2])) % 2
    return mix((0.92, 0.90, 0.85), (0.25, 0.33, 0.42), odd)


# %%
def marble(p):
    stripes = np.sin(4 * p[..., 0] + 3 * p[..., 1] + 9 * fractal(2.5 * p))
    return mix((0.15, 0.22, 0.32), (0.93, 0.90, 0.86), np.abs(stripes) ** 0.6)


# %%
line = np.arange(160) / 40  # from 0 to 4
plane = np.stack([*np.meshgrid(line, line), np.zeros((160, 160))], axis=-1)  # (160, 160, 3)
fig, axes = plt.subplots(1, 4, figsize=(7.2, 2.1))
fields = (
    checkerboard(plane[..., [0, 2, 1]]),
    noise_at(2 * plane),
    fractal(plane),
    marble(plane / 2),
)
titles = ("chessboard", "noise", "noise, five layers", "marble")
for ax, picture, title in zip(axes, fields, titles, strict=True):
    ax.imshow(picture)
    ax.set_title(title)
    ax.set_axis_off()
plot.show(
    fig,
    alt="Four squares: a chessboard, blurry grey blobs, a cloud with fine detail, and cream "
    "marble with dark winding veins.",
    jpeg=True,
)

# %% [markdown]
# The layers make a cloud. Marble is stripes, $|\sin|$ of the position, pushed out of shape by that
# cloud. Nobody drew a vein: a handful of numbers and a table of random corners hold all of it, at
# any size.
#
# But look at how we found those numbers: somebody tried until it *looked right*. No rule says how
# close this is to a stone. To say "close" about pictures we shall need to compare *distributions*,
# and that is [chapter 01](01_kl_divergence.ipynb).

# %%
# checkpoint: at the corners the noise is the table; where cubes meet, its slope does not jump
corners = np.random.default_rng(0).integers(0, 31, (1_000, 3))
assert np.allclose(noise_at(corners.astype(float)), CORNERS[tuple(corners.T)])
face = np.random.default_rng(1).uniform(0, 31, (1_000, 3))
face[:, 0] = np.round(face[:, 0])  # on a face between two cubes
for smooth in (True, False):
    ahead, behind = noise_at(face + [1e-5, 0, 0], smooth), noise_at(face - [1e-5, 0, 0], smooth)
    slopes = (ahead - noise_at(face, smooth)) / 1e-5, (noise_at(face, smooth) - behind) / 1e-5
    jump = np.abs(slopes[0] - slopes[1]).max()
    print(f"smooth={smooth!s:6} largest jump of the slope {jump:.4f}")
    assert (jump < 1e-3) == smooth  # without blend's flat ends there is a crease at each face

# %% [markdown]
# ## 0.4 The whole scene
#
# Three questions are left. **Who is hit first?** The smallest $t$ over all things: some balls, and
# the floor $y = 0$, which is simpler than a sphere: $o_y + t\,d_y = 0$.
#
# **Is it in shadow?** Send one more ray, from the point towards the sun. If it hits anything, only
# the ambient light is left.
#
# **Does it reflect?** Then look along the mirrored direction $d - 2(d\cdot n)\,n$ and ask the same
# question again: the function calls *itself*.
#
# **Predict:** what will the mirror ball show of the sky, of the floor, of the other balls?

# %%
Ball = namedtuple("Ball", "centre radius texture mirror")


# %%
def hit_floor(origin, direction):
    """Distance t to the floor y = 0 along each ray, infinite where it is missed."""
    height, fall = origin[..., 1], -direction[..., 1]
    t = np.divide(height, fall, out=np.full_like(fall, np.inf), where=fall > 1e-9)
    return np.where(t > 1e-4, t, np.inf)


# %%
def first_hit(origin, direction, balls):
    """Distance to the nearest thing and its number: 0 is the floor, 1 the first ball, …"""
    ts = [hit_sphere(origin, direction, ball.centre, ball.radius) for ball in balls]
    ts = np.stack([hit_floor(origin, direction), *ts])
    return ts.min(axis=0), ts.argmin(axis=0)


# %%
def sky(direction):
    return mix((0.97, 0.90, 0.80), (0.35, 0.55, 0.85), np.clip(direction[:, 1], 0, 1) ** 0.6)


# %%
def trace(origin, direction, balls, sun, depth=2):
    """Colours (N, 3) that come along N rays; depth: how many mirrors a ray may meet."""
    t, thing = first_hit(origin, direction, balls)
    colour = sky(direction)
    for i in range(len(balls) + 1):
        here = (thing == i) & np.isfinite(t)
        d, p = direction[here], origin[here] + t[here, None] * direction[here]
        if i == 0:
            normal, texture, mirror = np.zeros_like(p) + [0, 1, 0], checkerboard, 0.05
        else:
            normal = (p - balls[i - 1].centre) / balls[i - 1].radius
            texture, mirror = balls[i - 1].texture, balls[i - 1].mirror
        start = p + 1e-3 * normal  # a little above, or the surface would shadow itself
        free, _ = first_hit(start, np.zeros_like(p) + sun, balls)
        light = np.where(np.isinf(free), lambert(normal, sun), AMBIENT)
        seen = texture(p) * light[:, None]
        if depth > 0 and mirror > 0 and here.any():
            reflected = d - 2 * dot(d, normal)[:, None] * normal
            mirrored = trace(start, reflected, balls, sun, depth - 1)
            seen = (1 - mirror) * seen + mirror * mirrored
        haze = 1 - np.exp(-6e-4 * t[here] ** 2.5)  # far things fade into the sky
        colour[here] = mix(seen, sky(d), haze)
    return colour


# %% [markdown]
# One ray per pixel gives stairs along every edge, since a pixel is either in or out. So we send a
# few rays through each pixel and average: **anti-aliasing**.


# %%
def render(balls, sun, height, width, rays_per_side=2):
    """A picture (height, width, 3) with values in [0, 1]."""
    eye, n = np.array([0.0, 1.7, 6.2]), rays_per_side
    rays = camera_rays(n * height, n * width, eye, target=np.array([0.2, 0.75, 0.0])).reshape(-1, 3)
    light = trace(np.zeros_like(rays) + eye, rays, balls, sun)
    light = light.reshape(height, n, width, n, 3).mean(axis=(1, 3))
    # screens darken the middle tones (power 2.2); this undoes a part of it, as looked best here
    return np.clip(light, 0, 1) ** (1 / 1.6)


# %%
def paint(*colour):
    return lambda p: np.zeros_like(p) + colour


# %%
balls = [
    Ball(np.array([-1.35, 0.90, 0.20]), 0.90, marble, mirror=0.08),
    Ball(np.array([0.90, 1.05, -1.20]), 1.05, paint(0.9, 0.9, 0.9), mirror=0.75),
    Ball(np.array([0.75, 0.65, 0.90]), 0.65, paint(0.85, 0.33, 0.10), mirror=0.12),
    Ball(np.array([-0.25, 0.33, 1.75]), 0.33, paint(0.00, 0.45, 0.70), mirror=0.10),
    Ball(np.array([2.20, 0.40, 0.60]), 0.40, paint(0.00, 0.62, 0.45), mirror=0.10),
]

# %%
began = time.perf_counter()
picture = render(balls, sun, HEIGHT, WIDTH)
render_seconds = time.perf_counter() - began
print(f"{4 * HEIGHT * WIDTH:,} rays and their reflections in {render_seconds:.1f} s")

# %%
fig, ax = plt.subplots(figsize=(7.2, 4.4))
ax.imshow(picture, interpolation="antialiased")
ax.set_axis_off()
plot.show(
    fig,
    alt="Five balls on a chessboard floor under an evening sky: one of marble, one mirror, and "
    "three glossy ones in orange, blue and green, each with a shadow.",
    jpeg=True,
)

# %% [markdown]
# Not bad for a quadratic equation. Every shade, shadow and curved reflection *follows*; we placed
# none of them. The mirror shows the sky above a bent horizon, the floor below it, and at its left
# the marble ball: dark, because the mirror sees the side away from the sun.
#
# What the picture does not have: soft shadows, and light that bounces from the orange ball onto
# the floor. For those, each point must gather light from *all* directions. One sends many rays in
# random directions and takes their mean: Monte Carlo integration, which
# [chapter 01](01_kl_divergence.ipynb) uses for another purpose.

# %% [markdown]
# ### Move the sun
#
# **Predict** before you slide: we *fake* a rough surface. The ball stays a perfect sphere; only its
# normals are turned a little, at random. Will it look rough? And which shadow stays smooth all the
# same?


# %%
def small_scene(sun_direction=-50, sun_height=45, roughness=0.3):
    turn, rise = np.radians(sun_direction), np.radians(sun_height)
    sun = np.array([np.sin(turn) * np.cos(rise), np.sin(rise), np.cos(turn) * np.cos(rise)])
    ball = [Ball(np.array([0.0, 1.0, 0.0]), 1.0, None, 0.0)]
    eye = np.array([0.0, 1.6, 4.4])
    d = camera_rays(110, 170, eye, target=np.array([0.0, 0.75, 0.0])).reshape(-1, 3)
    t, thing = first_hit(eye + 0 * d, d, ball)
    p = eye + np.where(np.isfinite(t), t, 0)[:, None] * d
    bumps = np.stack([noise_at(9 * p[thing == 1] + 50 * i) for i in range(3)], axis=-1) - 0.5
    normal = np.zeros_like(p) + [0, 1, 0]
    normal[thing == 1] = unit(p[thing == 1] - ball[0].centre + 2 * roughness * bumps)
    in_sun = np.isinf(first_hit(p + 1e-3 * normal, sun + 0 * d, ball)[0])
    colour = np.where(thing[:, None] == 1, (0.85, 0.45, 0.2), checkerboard(p))
    colour = colour * np.where(in_sun, lambert(normal, sun), AMBIENT)[:, None]
    haze = np.where(np.isfinite(t), 1 - np.exp(-6e-4 * np.minimum(t, 99) ** 2.5), 1)
    colour = mix(colour, sky(d), haze).reshape(110, 170, 3)
    fig, ax = plt.subplots(figsize=(4.6, 3.0))
    ax.imshow(np.clip(colour, 0, 1) ** (1 / 1.6), interpolation="bilinear")
    ax.set_axis_off()
    return fig


# %%
widgets.explore(
    small_scene,
    alt="An orange ball with a bumpy surface on a chessboard, lit from the upper left.",
    sun_direction=(-180, 180, -50),
    sun_height=(5, 90, 45),
    roughness=(0.0, 1.0, 0.3),
)

# %% [markdown]
# It does look rough: shading is all that the eye has. But the shadow on the floor stays a smooth
# ellipse, since the shape never changed. Films and games use this trick (*bump mapping*) every day.
# Slide the sun down to the horizon and it shows: the bumps throw no shadows on each other.

# %% [markdown]
# The checkpoint predicts the shadows without tracing: a point on the floor is dark exactly when the
# straight line from it to the sun passes a centre at less than the ball's radius.

# %%
# checkpoint: shadows on the floor, by the distance from a point to a line
floor = np.random.default_rng(2).uniform(-4, 4, (5_000, 3)) * [1, 0, 1]
free, _ = first_hit(floor + [0, 1e-9, 0], np.zeros_like(floor) + sun, balls)
passes = [np.linalg.norm(np.cross(b.centre - floor, sun), axis=-1) - b.radius for b in balls]
closest = np.min(passes, axis=0)
clear = np.abs(closest) > 1e-6  # leave out the points exactly on a shadow's edge
assert (np.isfinite(free) == (closest < 0))[clear].all()
print(f"✓ {np.isfinite(free).mean():.0%} of the floor is in shadow, by both routes")

# %% [markdown]
# ## 0.5 The same idea, smaller
#
# A rule has one great gift: it **knows what it drew**. The course's own pictures, `shapes`, are
# made in this way. For each one we know the shape, colour, size and place (its *factors*), and so
# it can write its own caption. They are small, endless and need no download. We shall use them
# whenever we want to check what a network *thinks* it sees.
#
# **Predict:** the average position of the bright pixels of a circle should be… which factor?

# %%
fig, axes = plt.subplots(2, 4, figsize=(7.2, 4.0))
for i, ax in zip((0, 5, 7, 11, 12, 15, 21, 23), axes.flat, strict=True):  # not eight in orange
    plot.grid(shapes.images([i]), ax=ax)
    what, where = shapes.captions[i].split(", ")
    ax.set_title(f"{what},\n{where}", fontsize=7.5)
plot.show(
    fig,
    alt="Eight small pictures of one coloured shape on black each, with captions such as: a small "
    "orange circle, centre.",
)

# %% [markdown]
# The average position of a circle's bright pixels is its *place*; the checkpoint measures it. And
# these captions can't be wrong: the words and the pixels come from the same numbers. That is what
# makes such pictures a good test. What they can't tell us is how a method does on photographs,
# where nobody knows the numbers.

# %%
# checkpoint: the centre measured in the pixels is the x and y that the rule was given
circles = (shapes.factors["shape"] == shapes.classes.index("circle")).nonzero().squeeze(1)
weight = shapes.images(circles).add(1).sum(1).cpu()  # (N, H, W), 0 on the black ground
place = (torch.arange(32) + 0.5) / 32  # of the pixels' centres, as fractions of the width
x = (weight.sum(1) * place).sum(1) / weight.sum((1, 2))
y = (weight.sum(2) * place).sum(1) / weight.sum((1, 2))
assert (x - shapes.factors["x"][circles].cpu()).abs().max() < 0.01
assert (y - shapes.factors["y"][circles].cpu()).abs().max() < 0.01
print(f"✓ {len(circles)} circles are where their factors say")

# %% [markdown]
# ## 0.6 Where rules end
#
# Now the rule for a handwritten **3**. "Two half circles, open to the left, one above the other."
# Five *knobs*, numbers that we turn at random, set its width, height, slant, thickness and place.
# The rule fits in one cell.
#
# **Predict:** could you tell these from real ones at first glance?


# %%
def threes(n, seed=0):
    """n pictures (n, 1, 16, 16) of a 3, by rule, in [-1, 1]."""
    rng = np.random.default_rng(seed)

    def knob(low, high):
        return rng.uniform(low, high, (n, 1, 1, 1))

    wide, tall, slant = knob(2.4, 3.8), knob(3.0, 3.6), knob(-0.1, 0.25)
    thick, shift = knob(0.3, 1.0), knob(-1.0, 0.0)
    turn = np.linspace(-0.5, 0.8, 30) * np.pi  # from the middle of the 3 to its upper tip
    down = tall * np.concatenate([-1 - np.sin(turn), 1 + np.sin(turn)])
    right = wide * np.tile(np.cos(turn), 2) - slant * down + shift  # both (n, 1, 1, 60)
    v, u = np.mgrid[:16, :16] - 7.5  # each pixel's place, from the middle: (16, 16) each
    distance = np.hypot(u[..., None] - right, v[..., None] - down)  # (n, 16, 16, 60)
    nearest_point = distance.min(axis=-1)  # of the stroke
    ink = np.clip(1 - (nearest_point - thick[..., 0]) / 1.8, 0, 1)
    coarse = F.avg_pool2d(torch.tensor(ink[:, None], dtype=torch.float32), 2)  # the real ones were
    return F.interpolate(2 * coarse - 1, size=16, mode="bilinear")  # scanned at 8 × 8, too


# %%
real = digits.images((digits.labels == 3).nonzero().squeeze(1)).cpu()
fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 1.75))
plot.grid(threes(18), columns=6, ax=left, title="3 by rule")
plot.grid(real[:18], columns=6, ax=right, title="3 by hand")
plot.show(
    fig,
    alt="Left: 18 threes drawn by a rule, different but all neat. Right: 18 threes written by "
    "people: some with a flat top, some like a 7 with a tail, some broken.",
)

# %% [markdown]
# Surprisingly good! Look closer, though: the rule's threes differ in the five ways that we thought
# of. The real ones also have flat tops, broken strokes and curls that no knob of ours turns.
#
# And that was one digit. There are nine more rules to write, then letters, then shoes, cats and
# faces. For a cat nobody knows what the knobs *are*. We also cheated a little: we turned ours until
# they looked like the examples. So why not let the machine look at the examples?

# %%
# checkpoint: a 3 is open on the left and closed on the right; ours and the real ones agree
for pictures in (threes(500), real):
    mean = pictures.mean(0)[0]  # the average picture (16, 16)
    assert mean[4:12, 11:13].mean() > mean[4:12, 3:5].mean()
print("✓ on average, more ink on the right")

# %% [markdown]
# # By learning
#
# ## 0.7 Two networks and a game
#
# - The **generator** $G$ is a function with many thousand adjustable numbers, its *weights*. In go
#   `Z` random numbers $z$ (the *latent* vector), out comes a picture $G(z)$: noise at first.
# - The **discriminator** $D$ is a second network. It sees pictures and says how sure it is that one
#   is real, $D(x)$ between 0 and 1. (In the code `D(x)` is any number; `sigmoid` turns it into one
#   between 0 and 1.)
#
# In each step both change their weights a tiny bit: $D$ to tell real from generated better, $G$ so
# that $D$ takes its pictures for real. This is a *generative adversarial network*, a **GAN**.
#
# **Predict:** nobody tells $G$ what a digit is, or shows it one. Can it learn?

# %%
D = nets.DCGANDiscriminator(16, channels=1, width=16).to(device)
learned_numbers = sum(weights.numel() for weights in G.parameters())
print(f"G has {learned_numbers:,} weights, D {sum(w.numel() for w in D.parameters()):,}")


# %%
def show_strip(pictures, text):
    _, ax = plt.subplots(figsize=(6.4, 0.85))
    plot.grid(pictures.detach(), columns=12, ax=ax).set_title(text, loc="left", fontsize=9)
    plot.show(ax, alt=f"Twelve generated pictures side by side, {text}.")


# %% [markdown]
# Below is the whole of it. You don't have to understand it yet: [chapter 02](02_minimax.ipynb)
# explains the game, [chapter 04](04_first_gan.ipynb) every line. Just find the two players. The
# pictures we look at come from a running *average* of $G$'s weights, which is calmer than $G$, and
# in the second half the steps get smaller, so that both settle.


# %%
def play(G, D, steps, d_learns=True, g_learns=True, moments=()):
    """Let G and D play; show pictures of the same noise at some moments. Returns the averaged G."""
    d_opt = torch.optim.Adam(D.parameters(), lr=RATE, betas=BETAS)
    g_opt = torch.optim.Adam(G.parameters(), lr=RATE, betas=BETAS)
    average, began = train.EMA(G, DECAY), time.perf_counter()
    for step in range(steps + 1):
        if step in moments:
            seconds = time.perf_counter() - began
            show_strip(average.model(noise[:12]), f"after {step:,} steps, {seconds:.0f} s")
        train.set_learning_rate(train.learning_rate(step, steps + 1, RATE), g_opt, d_opt)
        x_real = digits.batch(step, BATCH)
        x_fake = G(torch.randn(BATCH, Z, device=device))
        if d_learns:  # D: tell real from generated
            d_loss = losses.discriminator_loss(D(x_real), D(x_fake.detach()))
            d_opt.zero_grad()
            d_loss.backward()
            d_opt.step()
        if g_learns:  # G: be taken for real
            g_loss = losses.generator_loss(D(x_fake))
            g_opt.zero_grad()
            g_loss.backward()
            g_opt.step()
        average.update()
    return average.model


# %%
began = time.perf_counter()
moments = [0, *(int(STEPS * part) for part in (0.05, 0.1, 0.2, 0.5, 1.0))]
generator = play(G, D, STEPS, moments=moments)
learn_seconds = time.perf_counter() - began

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.95))
plot.grid(digits.batch(0, 48), ax=left, title="written by hand")
plot.grid(generator(noise[:48]).detach(), ax=right, title="drawn by the generator")
plot.show(
    fig,
    alt="Left: 48 real handwritten digits. Right: 48 generated ones; many can be read, some are "
    "mixtures of two digits or broken strokes.",
)

# %% [markdown]
# Every column of the strips is *one* noise vector, becoming a picture: grey at first (the noise is
# too weak to see), then ink in the middle, then strokes, then mostly digits. (Is *every* strip
# grey? Then this is the quick test, `smoke`.) $G$ never saw a digit. All it ever got is which way
# each pixel must change to please $D$.
#
# Now look honestly, and at *all* of them, since picking the prettiest proves nothing. Many you can
# read. Some are between two digits, some belong to no alphabet. What the figure does not tell: are
# these *new* digits or copies? Are all ten there, equally often? Looking can't settle that.
# Measuring can, and 0.8 makes a start.

# %%
# checkpoint: the ink is where real ink is, on average, and the pictures differ from each other
with torch.no_grad():
    drawn = generator(torch.randn(1_500, Z, device=device)).cpu()
train_x = digits.images(torch.arange(len(digits))).cpu()
agreement = np.corrcoef(drawn.mean(0).flatten(), train_x.mean(0).flatten())[0, 1]
assert drawn.shape[1:] == digits.shape and drawn.abs().max() <= 1
if runtime.profile() != "smoke":
    assert agreement > 0.9 and drawn.std(0).mean() > 0.5 * train_x.std(0).mean()
print(f"✓ correlation of the two average pictures: {agreement:.2f}")

# %% [markdown]
# ## 0.8 Both ways, measured
#
# We need a distance between pictures. The simplest: the square root of the summed squared
# differences of all pixels. With it, ask two questions.
#
# 1. Is every **drawn** picture close to some **real** one? If not, we draw nonsense.
# 2. Is every **real** picture close to some **drawn** one? If not, we left something out.
#
# Question 1 looks for the nearest among the training digits. Question 2 starts from *test* digits,
# which neither side has seen. As a yardstick, real digits have to answer both questions too.
#
# **Predict:** our rule knows only threes. Which of the two questions will give it away?


# %%
def nearest(a, b):
    """Distance from each picture of a to its nearest neighbour in b."""
    return torch.cdist(a.flatten(1), b.flatten(1)).min(dim=1).values


test = data.load("digits", "test")
test_x = test.images(torch.arange(len(test))).cpu()
began = time.perf_counter()
by_rule = threes(1_500)
threes_seconds = time.perf_counter() - began

# %%
def outline(ax, values, color, name):
    bins = np.linspace(0, 12, 40)
    ax.hist(values.numpy(), bins, density=True, histtype="step", color=color, label=name)
    ax.set_xlabel("distance to the nearest [pixel values]")


fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
ways = [
    ("real", train_x, plot.REAL),
    ("by rule", by_rule, plot.THIRD),
    ("learned", drawn, plot.FAKE),
]
for name, pictures, color in ways:
    out = nearest(test_x if name == "real" else pictures, train_x)
    back = nearest(test_x, pictures)
    print(f"{name:8}  drawn → real: median {out.median():.2f}   real → drawn: {back.median():.2f}")
    outline(left, out, color, name)
    outline(right, back, color, name)
left.set(title="1. from drawn to real", ylabel="density")
right.set(title="2. from real to drawn")
left.legend()
plot.show(
    fig,
    alt="Two histograms of nearest-neighbour distances for real digits, the rule's threes and "
    "learned digits. In the second, many real digits are far from everything the rule drew.",
)

# %% [markdown]
# Blue is the yardstick: test digits against training digits, the same curve on both sides. In 1
# both ways lie a little to the right of it. Question 2 gives the rule away: its neat threes lie
# near real ones, but most real digits are near nothing that it drew. The generator, in this one
# training, is not far from blue in both.
#
# Remember the two questions. [Chapter 01](01_kl_divergence.ipynb) turns them into the two
# directions of the KL divergence, [chapter 07](07_evaluation.ipynb) into precision and recall.

# %% [markdown]
# What the figure does not say: whether pixels are the right ruler (move a digit by one pixel, and
# it is "far"), and whether the generator *copies*. Whoever copied every training digit would be at
# zero in 1 and equal the blue curve in 2.
#
# The table below sums up both ways. Its seconds are for one scene, for all the threes, and for the
# whole training. The rule needs lines of code and no examples. The network needs no line that says
# what a digit looks like, but it needs the examples, and it does not know which digit it drew.

# %%
def lines(*functions):
    """How many lines of code these functions have."""
    return sum(len(inspect.getsource(f).splitlines()) for f in functions)


geometry = lines(unit, camera_rays, hit_sphere, hit_floor, first_hit, lambert, trace, render)
texture = lines(noise_at, fractal, mix, marble, checkerboard, sky)
table = [
    ("", "by rule: scene", "by rule: 3", "learned: digits"),
    ("lines that say how it looks", geometry + texture, lines(threes), 0),
    ("examples looked at", 0, "a few, by us", f"{len(digits):,}"),
    ("numbers learned from them", 0, 0, f"{learned_numbers:,}"),
    ("random numbers per picture", 0, 5, Z),
    ("seconds", round(render_seconds, 1), round(threes_seconds, 1), round(learn_seconds, 1)),
    ("knows what it drew", "yes", "yes", "no"),
]
for what, scene, three, learned in table:
    print(f"{what:28}{scene!s:>16}{three!s:>14}{learned!s:>18}")

# %%
# checkpoint: distances by cdist equal distances by hand, and leaving out digits shows in 2 only
by_hand = np.sqrt(((test_x[0] - train_x).numpy() ** 2).sum((1, 2, 3))).min()
assert np.isclose(by_hand, nearest(test_x[:1], train_x).item(), rtol=1e-3)
missed = nearest(test_x, by_rule).median() / nearest(test_x, train_x).median()
strange = nearest(by_rule, train_x).median() / nearest(test_x, train_x).median()
assert missed > 1.5 > strange
print(f"✓ compared with real digits: drawn → real ×{strange:.1f}, real → drawn ×{missed:.1f}")

# %% [markdown]
# ## 0.9 Break it: a judge that stops learning
#
# A GAN needs *two* learners. What if $D$ learns first, becomes an expert, and then never changes
# again? It sounds reasonable: a teacher needn't learn during the lesson.
#
# We train a new $D$ against an untrained $G$, then freeze it and let only $G$ learn. At last $D$
# may learn again, for as many steps as at first. The cell prints how strongly $D$ believes that a
# picture is real, for real ones and for generated ones. Three times, from different random numbers.
#
# **Predict:** can $G$ convince the frozen judge? And what will its pictures look like?


# %%
def beliefs(G, D):
    """D's mean belief in real pictures and in generated ones."""
    with torch.no_grad():
        real = torch.sigmoid(D(digits.batch(0, 256))).mean()
        fake = torch.sigmoid(D(G(torch.randn(256, Z, device=device)))).mean()
    return real.item(), fake.item()


# %%
def frozen_judge(seed):
    """D's beliefs (3, 2) after each of three trainings, and what G drew after the second."""
    runtime.seed_everything(seed)
    G = nets.DCGANGenerator(16, channels=1, z_dim=Z, width=16).to(device)
    D = nets.DCGANDiscriminator(16, channels=1, width=16).to(device)
    play(G, D, SHORT, g_learns=False)
    expert = beliefs(G, D)
    play(G, D, 2 * SHORT, d_learns=False)
    fooled, fooling = beliefs(G, D), G(noise).detach().cpu()
    play(G, D, SHORT, g_learns=False)
    return torch.tensor([expert, fooled, beliefs(G, D)]), fooling


# %%
SHORT = runtime.budget(smoke=15, cpu=60, gpu=60)  # noise against digits is an easy lesson
stories = [frozen_judge(seed=1 + seed) for seed in SEEDS]
moments = ("D has learned, G has not", "G has learned, D is frozen", "D may learn again, a moment")
for i, moment in enumerate(moments):
    for name, column in (("D(real)", 0), ("D(generated)", 1)):
        shown = "  ".join(f"{believed[i, column]:.3f}" for believed, _ in stories)
        print(f"{moment:28} {name:13} {shown}")

# %%
believed, fooling = stories[0]
fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 1.5))
plot.grid(fooling[:12], columns=6, ax=left, title="what convinces a frozen judge …")
plot.grid(generator(noise[:12]).detach(), columns=6, ax=right, title="… and one that learns")
plot.show(
    fig,
    alt="Left: 12 pictures that a frozen discriminator takes for digits; they look like nothing a "
    "person would write. Right: 12 digits from the generator that played against a learner.",
)

# %% [markdown]
# The frozen judge is fully convinced, by pictures in which nobody else sees a digit. It learned
# what separates digits from *that one kind of noise*, and nothing else. $G$ found the gap in its
# knowledge and stays there. After a second lesson, as short as the first, the trick is worth
# nothing.
#
# So the judge must keep up with the forger. This is why training a GAN is a game and not a walk
# downhill ([chapter 02](02_minimax.ipynb)), and why its losses are so odd to read ([chapter
# 04](04_first_gan.ipynb)). A generator that lives in one gap returns as *mode collapse* in [chapter
# 06](06_mode_collapse.ipynb).

# %%
# checkpoint: first the expert knows, then it is fooled, then it knows again
learner = nearest(generator(noise).detach().cpu(), train_x).median()
if runtime.profile() != "smoke":
    for believed, fooling in stories:
        expert, fooled, caught = believed[:, 1]
        assert expert < 0.1 and fooled > 0.9 and caught < 0.1
        assert nearest(fooling, train_x).median() > learner
print("✓ sure, fooled, sure again; and what fools it is far from every digit")

# %% [markdown]
# # How this course works

# %% [markdown]
# ## The way ahead
#
# Read in the order of the numbers; each chapter says which earlier ones it needs.

# %% [markdown]
# | chapter | question |
# |---|---|
# | **00 Start here** | What does it take to make a picture? |
# | [01 KL divergence](01_kl_divergence.ipynb) | How different are two distributions? |
# | [02 Minimax](02_minimax.ipynb) | What if two networks play a game? |
# | [03 Convolutions](03_convolutions.ipynb) | How does a network see and paint? |
# | [04 The first GAN](04_first_gan.ipynb) | What does each line of the training loop do? |
# | [05 DCGAN](05_dcgan.ipynb) | How do we train one to the end? |
# | [06 Mode collapse](06_mode_collapse.ipynb) | Why do GANs forget, and what helps? |
# | [07 Evaluation](07_evaluation.ipynb) | How good is a generator, honestly? |
# | [08 VAE](08_vae.ipynb) | Can we learn to draw without a judge? |
# | [09 Latent space](09_latent_space.ipynb) | What do the random numbers mean? |
# | [10 GAN against VAE](10_gan_vs_vae.ipynb) | Which of the two, and when? |
# | [14 Fast training](14_fast_training.ipynb) | Where does the time go? |

# %% [markdown]
# **A chapter** has the rhythm you just met: question, *prediction*, equation, code, figure, and
# what the figure says and doesn't. Please do predict before you run a cell. A wrong guess is the
# moment you learn something; a cell that only ran teaches little.
#
# **Checkpoint** cells prove results by another route. If one fails after you changed something, it
# tells you that you changed the meaning. Change things!
#
# **Break it** sections make a real mistake on purpose, so that you recognise it when you make it.
#
# **Exercises:** chapters 01 to 10 and 14 have a notebook of their own each, in
# [`exercises/`](../exercises/README.md): write a function, and a check names your mistake.

# %% [markdown]
# **No GPU? No problem.** Each chapter has three sizes, called *profiles*:
#
# | profile | for | what you get |
# |---|---|---|
# | `smoke` | a quick test that all cells run | seconds, no good pictures |
# | `cpu` | any laptop | recognisable pictures, a few minutes per training |
# | `gpu` | a graphics card | the full training |
#
# The first line that a chapter prints names the profile. It is `gpu` where PyTorch finds one, else
# `cpu`. To choose another, put this in a cell above the imports:
# `%env GENCOURSE_PROFILE=smoke`.
#
# For a free GPU, open a chapter in Google Colab with the badge at its top, then choose
# *Runtime → Change runtime type → GPU*.

# %% [markdown]
# ## 0.10 Is this machine ready?
#
# The cell below looks, and says in plain words what is missing. A ✗ at the GPU is fine: that is
# what `cpu` is for. A ✗ anywhere else comes with what to do.

# %%
report = runtime.check_machine()
for ok, sentence in report:
    print("✓" if ok else "✗", sentence)

# %%
# checkpoint: the packages say the same when they are really imported
import torchvision

assert torch.ones(2, device=device).sum().item() == 2  # the device computes
version = torchvision.__version__.split("+")[0]
assert any(ok and version in sentence for ok, sentence in report)
print("✓ ready for chapter 01")

# %% [markdown]
# ## Exercises
#
# Three to do right here; nobody checks them but you. From chapter 01 on, every chapter has
# [exercises that answer back](../exercises/README.md).
#
# 1. **The other root.** In `hit_sphere`, use `t = -b + root`. Predict the shaded ball before you
#    run 0.1 and 0.2 again. Their checkpoints still pass: why? Write one that doesn't.
# 2. **Wood.** Write a texture `wood(p)`: rings are the fractional part of the distance to an axis,
#    disturbed by a little `fractal` noise. Put it on a ball.
# 3. **How few examples?** Train on twenty digits only: `digits = data.Images(digits.x[:20],
#    digits.labels[:20], digits.classes, "few")`, a new `G` and `D`, then `generator = play(G, D,
#    STEPS)`. Make `drawn` again, but keep the old `train_x`. Predict both histograms of 0.8 first.
#    Which one improves, and why is that bad news?

# %% [markdown]
# ## Recap
#
# - A picture by **rule**: rays, a quadratic, a dot product. It is exact, needs no example, and
#   knows what it drew.
# - Rules end where nobody can write down the knobs.
# - A picture by **learning**: a generator turns noise into pictures, and a discriminator that
#   *keeps learning* shows it the way.
# - Two questions judge any generator: is what it draws real, and does it draw all that is real?
# - Looking is the start, never the proof: predict, run, check by another route.

# %% [markdown]
# ## References
#
# - J. H. Lambert, *Photometria*, 1760: the cosine law. We add a constant for ambient light.
# - T. Whitted, *An improved illumination model for shaded display*, CACM 23(6), 1980: rays that
#   call for more rays. We leave out glass.
# - K. Perlin, *An image synthesizer*, SIGGRAPH 1985: noise and marble. His corners hold random
#   slopes, ours random values, which is simpler and a little blockier.
# - I. Goodfellow et al., *Generative adversarial nets*, 2014, arXiv:1406.2661: the game.
# - A. Radford et al., 2016, arXiv:1511.06434: the networks; ours are smaller, and average weights.
# - E. Alpaydin, C. Kaynak, *Optical recognition of handwritten digits*, UCI, 1998: the digits, as
#   scikit-learn ships them; we enlarge them to 16 × 16.
