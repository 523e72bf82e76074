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
# # 3 · Convolutions
#
# One small window slides over a picture; a few layers of that tell a shirt from a coat.

# %% [markdown]
# **After this chapter you can** compute a convolution, its size and its gradient by hand · say what
# a net can see (receptive field), what it shares (weights), how large its weights should start, and
# where chequerboards come from · train a small classifier and question its mistakes.
#
# **You need** [chapter 01](01_kl_divergence.ipynb) for the cross-entropy. Some calculus and
# matrices.
#
# <!-- stamp -->
# *Run time: 12 min, peak memory 1.8 GB, `cpu` profile on `fashion_mnist`
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/03_convolutions.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gencourse import data, evaluate, nets, plot, runtime, train, widgets

# %%
plot.style()
runtime.seed_everything(0)
DEVICE = runtime.device()
print(runtime.describe())

# %%
DATA = runtime.budget(smoke="digits", cpu="fashion_mnist", gpu="fashion_mnist")
STEPS = runtime.budget(smoke=30, cpu=5_000, gpu=5_000)  # eleven passes over 60,000 pictures
SHORT = runtime.budget(smoke=4, cpu=40, gpu=40)  # enough to prove that two loops are one
DEEP = runtime.budget(smoke=4, cpu=150, gpu=150)  # per deep stack of section 3.9
TRIAL = runtime.budget(smoke=6, cpu=300, gpu=300)  # per net of "Break it"
WIDTH = runtime.budget(smoke=8, cpu=32, gpu=32)  # channels of the first block; the cost grows fast
BATCH = 128  # a mean over more pictures: a steadier gradient for the same number of steps
LR = 2e-3  # found by trial for this net; a GAN, with two losses that pull apart, gets less
SHIFT = 1  # pixels by which training pictures are moved: a shirt further left is still a shirt
SEED = 0
SEEDS = range(3)  # a verdict rests on three runs

# %% [markdown]
# ## Where this chapter is heading
#
# The same picture five times: once as it is, and four times seen through a window of nine numbers.
# At first we make such windows by hand; in section 3.10 a net finds its own.

# %%
images = data.load(DATA)
test_images = data.load(DATA, split="test")
CHANNELS, SIZE, _ = images.shape
picture = images.images([0])[0, 0].cpu()  # (H, W) in [-1, 1]
print(images)

# %%
KERNELS = {
    "blur": torch.full((3, 3), 1 / 9),
    "sharpen": torch.tensor([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    "left to right": torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8,
    "top to bottom": torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]) / 8,
}


def through(kernel, x):
    """The map of one kernel (k, k) over one picture (H, W), of the same size."""
    border = len(kernel) // 2
    x = F.pad(x[None, None], (border, border, border, border), mode="replicate")
    return F.conv2d(x, kernel[None, None])[0, 0]


def show_maps(maps, alt, shared=False):
    """Single-channel maps (H, W) side by side, each with its name; grey is zero."""
    fig, axes = plt.subplots(1, len(maps), figsize=(1.5 * len(maps), 1.8))
    top = max(x.abs().max() for x in maps.values())
    for ax, (name, x) in zip(axes, maps.items(), strict=True):
        limit = top if shared else x.abs().max().clamp(min=1e-9)
        plot.grid((x / limit)[None, None], ax=ax, title=name)
        ax.title.set_fontsize(9)
    plot.show(fig, alt=alt)

# %%
seen = {"picture": picture}
for name, kernel in KERNELS.items():
    seen[name] = through(kernel, picture)
show_maps(
    seen,
    alt="A picture, the same blurred and sharpened, and two maps in which only its vertical and "
    "only its horizontal edges stand out.",
)

# %% [markdown]
# ## 3.1 One kernel, one picture
#
# **Question.** What is computed at each place?
#
# Lay the **kernel** $w$, a table of $k\times k$ weights, on the picture $x$ so that its upper left
# corner is at row $i$ and column $j$. Multiply what lies on top of each other, and add:
#
# $$y[i,j] = \sum_{u=0}^{k-1}\sum_{v=0}^{k-1} w[u,v]\;x[i+u,\;j+v].$$
#
# Then move on by one. The outputs form a new picture $y$, a **feature map**.
#
# **Predict:** the kernel "left to right" has negative weights in its left column, the same weights
# with a plus in its right one, zeros between. Where will $y$ be zero? Where largest?

# %%
def correlate(x, w):
    """The sum above at every place: x (H, W), w (k, k) → (H−k+1, W−k+1)."""
    k = len(w)
    y = torch.zeros(x.shape[0] - k + 1, x.shape[1] - k + 1)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = (w * x[i : i + k, j : j + k]).sum()
    return y

# %%
w = KERNELS["left to right"]
y_loops = correlate(picture, w)
print("picture", tuple(picture.shape), "→ map", tuple(y_loops.shape))


def show_window(i, j):
    fig, axes = plt.subplots(1, 3, figsize=(6, 2.3))
    patch = picture[i : i + 3, j : j + 3]
    for ax, x, name in zip(axes, (picture, patch, y_loops), ("x", "window", "y"), strict=True):
        ax.imshow(x, vmin=-1, vmax=1)
        ax.set_title(name)
        ax.set_axis_off()
    for (u, v), value in np.ndenumerate(patch.numpy()):
        text = f"{value:.1f}\n×{8 * w[u, v]:.0f}/8"
        colour = "k" if value > 0 else "w"
        axes[1].text(v, u, text, ha="center", va="center", fontsize=9, color=colour)
    axes[0].add_patch(plt.Rectangle((j - 0.5, i - 0.5), 3, 3, fill=False, color=plot.FOURTH, lw=2))
    axes[2].add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, color=plot.FOURTH, lw=2))
    axes[2].set_title(f"y[{i}, {j}] = {y_loops[i, j]:.2f}")
    return fig


i, j = divmod(int(y_loops.argmax()), y_loops.shape[1])
alt = "The picture with a marked window, its nine pixels times the nine weights, and the map."
plot.show(show_window(i, j), alt=alt)

# %% [markdown]
# The output is zero (grey) wherever all columns under the window agree, be they black or white, and
# largest where dark turns to bright from left to right: an edge. From bright to dark it is negative
# (black). The map has two pixels less each way, since the window has to stay inside.
#
# **The same as a matrix product.** Python loops are slow. Copy every window out into one row of a
# matrix $P$ (its rows overlap, so pixels are copied up to nine times). Then all sums at once are
# $y = P\,\mathrm{vec}(w)$.

# %%
patches = picture.unfold(0, 3, 1).unfold(1, 3, 1)  # (H−2, W−2, 3, 3): a view of all windows
P = patches.flatten(2).flatten(0, 1)  # one row per window
y_matrix = (P @ w.flatten()).reshape(y_loops.shape)
y_torch = F.conv2d(picture[None, None], w[None, None])[0, 0]
torch.testing.assert_close(y_loops, y_matrix)
torch.testing.assert_close(y_loops, y_torch)
print("P is", " × ".join(map(str, P.shape)))

# %% [markdown]
# Three routes, one result. `F.conv2d` takes (B, C, H, W) and kernels (C_out, C_in, k, k): each
# output channel has a kernel for *every* input channel, and adds up their maps, plus a bias.
#
# **A word about the word.** In mathematics, *convolution* runs through the picture backwards,
# $\sum w[u,v]\,x[i-u,\,j-v]$; what we (and every deep learning library) compute is called
# **cross-correlation**. One is the other with the kernel turned by 180°. A net that learns $w$ just
# learns the turned kernel, so it does not matter there. It will matter in section 3.5.
#
# **What the map does not say:** what a kernel responds to, and which kernels are worth having. The
# first is the next question.

# %%
# checkpoint: by a route without windows. Fourier turns a correlation into a product
spectrum = torch.fft.fft2(picture) * torch.fft.fft2(w, s=picture.shape).conj()
y_fourier = torch.fft.ifft2(spectrum).real[: SIZE - 2, : SIZE - 2]  # the rest wraps around
torch.testing.assert_close(y_fourier, y_torch, rtol=1e-4, atol=1e-5)
turned = correlate(picture, w.flip(0, 1))  # the other convention must fail this test
assert not torch.allclose(y_fourier, turned, rtol=1e-4, atol=1e-5)

# %% [markdown]
# ## 3.2 What a kernel can see
#
# **Question.** Nine numbers: what do they respond to?
#
# Two sums tell a lot. If the weights sum to 1, an even area keeps its brightness, as with "blur"
# and "sharpen". If they sum to 0, an even area gives 0 whatever its brightness: the kernel sees
# only *changes*. And among windows of equal norm a kernel responds most to the one that looks like
# itself, because $\sum w\,x$ is the dot product of $w$ with the window.
#
# A smooth kernel for edges in *any* direction is the derivative of a Gaussian bump of width
# $\sigma$ along the direction $\varphi$ (sign turned: brighter that way is plus):
#
# $$w_\varphi[u,v] \;\propto\; (v\cos\varphi + u\sin\varphi)\;e^{-(u^2+v^2)/2\sigma^2}.$$
#
# **Predict:** which edges remain at $\varphi = 90°$? What gets lost as $\sigma$ grows?

# %%
def edge_kernel(degrees, sigma, radius=5):
    """Derivative of a Gaussian along a direction; u counts rows down, v columns to the right."""
    line = torch.arange(-radius, radius + 1.0)
    u, v = torch.meshgrid(line, line, indexing="ij")
    bump = torch.exp(-(u**2 + v**2) / (2 * sigma**2))
    w = (v * math.cos(math.radians(degrees)) + u * math.sin(math.radians(degrees))) * bump
    return w / (w * v).abs().sum().clamp(min=(w * u).abs().sum())


def draw_edges(angle, width, number):
    x = images.images([number])[0, 0].cpu()
    kernel = edge_kernel(angle, width)
    maps = {"picture": x, f"{angle}°, σ = {width:.1f} pixels": kernel, "map": through(kernel, x)}
    fig, axes = plt.subplots(1, 3, figsize=(6, 2.2))
    for ax, (name, m) in zip(axes, maps.items(), strict=True):
        plot.grid((m / m.abs().max())[None, None], ax=ax, title=name)
        ax.title.set_fontsize(10)
    return fig


alt = "A picture, an edge kernel of a chosen direction and width, and the map it gives."
widgets.explore(draw_edges, alt, angle=(0, 180, 30), width=(0.5, 2.5, 0.8), number=(0, 30, 0))

# %% [markdown]
# Turn the angle (when the notebook runs): edges across the direction light up, edges along it
# vanish, and 180° turns black to white. A wide kernel sees large outlines and no seams.
#
# Do we need a kernel for each angle? The formula is $\cos\varphi$ times one kernel plus
# $\sin\varphi$ times another. So *two* maps hold the edges of all directions, and their length
# $\sqrt{y_0^2 + y_{90}^2}$ says how strong an edge is, whatever its direction.

# %%
y0 = through(edge_kernel(0, 0.8), picture)
y90 = through(edge_kernel(90, 0.8), picture)
mixed = math.cos(math.radians(30)) * y0 + math.sin(math.radians(30)) * y90
show_maps(
    {"0°": y0, "90°": y90, "mixed to 30°": mixed, "strength": (y0**2 + y90**2).sqrt()},
    alt="Edges from left to right, from top to bottom, a mixture of the two for 30 degrees, and "
    "the strength of edges of all directions.",
)

# %% [markdown]
# **What this does not say:** which kernels are worth having. Edges were chosen by people. The
# point of section 3.10 is to let the data choose.
#
# Also, two kernels in a row can do no more than one larger kernel: 3×3 after 3×3 is some 5×5 (the
# checkpoint computes it). For a second layer to say something *new*, there must be something
# nonlinear between the two, such as $\mathrm{ReLU}(a) = \max(a, 0)$. (Linear layers in a row can
# still be worth it: they may be *cheaper* than the one layer that they equal. Section 3.4 counts.)

# %%
# checkpoint: sums say what an even area gives; angles mix; two kernels are one larger kernel
torch.testing.assert_close(correlate(torch.ones(5, 5), KERNELS["blur"]), torch.ones(3, 3))
assert max(correlate(torch.ones(5, 5), KERNELS["left to right"]).abs().flatten()) < 1e-6
turned = F.normalize(through(edge_kernel(30, 0.8), picture).flatten(), dim=0)
assert turned @ F.normalize(mixed.flatten(), dim=0) > 0.9999  # equal, up to a factor
a, b = torch.randn(2, 3, 3)
both = F.conv2d(a[None, None], b.flip(0, 1)[None, None], padding=2)[0, 0]  # true convolution
assert (correlate(picture, both) - correlate(correlate(picture, a), b)).abs().max() < 1e-4

# %% [markdown]
# ## 3.3 Padding, stride, pooling
#
# **Question.** How large is the output?
#
# Three choices decide, besides the kernel's side $k$: **padding** $p$ puts $p$ zeros at each end of
# every row and column, **stride** $s$ moves the window $s$ pixels at a time. In one dimension with
# $n$ pixels, the window's left end may stand at $-p$, $-p+s$, $-p+2s$ … up to $n+p-k$. Counting
# these gives
#
# $$m = \left\lfloor\frac{n + 2p - k}{s}\right\rfloor + 1.$$
#
# **Predict:** $n = 28$ with $(k, s, p)$ = (3, 1, 0), (3, 1, 1), (3, 2, 1), (4, 2, 1), (2, 2, 0).

# %%
def out_size(n, k, s, p):
    return (n + 2 * p - k) // s + 1


for k, s, p in ((3, 1, 0), (3, 1, 1), (3, 2, 1), (4, 2, 1), (2, 2, 0)):
    by_torch = nn.Conv2d(1, 1, k, stride=s, padding=p)(torch.zeros(1, 1, 28, 28)).shape[-1]
    print(f"k={k} s={s} p={p}:  28 → {out_size(28, k, s, p):2d}   torch says {by_torch}")

# %% [markdown]
# (3, 1, 1) keeps the size, which is why it is everywhere. Padding isn't free: the zeros are
# invented (in our scale, where black is −1, zero is *grey*), and a net can read from them where the
# border is.
#
# **Pooling** has no weights. It cuts the map into 2×2 blocks and keeps the mean (average pooling)
# or the largest (max pooling) of each. What for? Cheaper layers, a wider view for what follows, and
# a little indifference to place.
#
# **Predict:** move the picture by one pixel. By how much does the map change, relative to its own
# size: without pooling, with blocks of 2, of 4, of 7?

# %%
def moved(x, pixels):
    """Pictures (B, C, H, W) moved to the right; black (−1) comes in from the left."""
    return F.pad(x, (pixels, 0, 0, 0), value=-1)[..., : x.shape[-1]]


def relative_change(f, x):
    """‖f(moved x) − f(x)‖ / ‖f(x)‖, averaged over pictures; black counts as 0."""
    before, after = f(x + 1).flatten(1), f(moved(x, 1) + 1).flatten(1)
    return float(((after - before).norm(dim=1) / before.norm(dim=1)).mean())


some = images.images(range(200)).cpu()[:, :1]
for k in (1, 2, 4, 7):
    largest = relative_change(lambda x, k=k: F.max_pool2d(x, k), some)
    mean = relative_change(lambda x, k=k: F.avg_pool2d(x, k), some)
    thinned = relative_change(lambda x, k=k: x[..., ::k, ::k], some)
    print(f"blocks of {k}:  max {largest:.2f}   mean {mean:.2f}   one pixel of {k} {thinned:.2f}")

# %% [markdown]
# Pooling with larger blocks forgets more of the exact place; keeping every $k$th pixel without
# pooling does not. It is no full indifference, though: with blocks the numbers are smaller, none is
# zero.
#
# A convolution alone is not indifferent to place at all. It is **equivariant**: move the picture,
# and the map moves along, unchanged but for the border. (A sleeve is found wherever it is, by the
# same weights.) With stride $s$ this is true only for moves by a multiple of $s$.

# %%
def moves_along(s, pixels):
    """Whether, away from the border, moving the input by `pixels` just moves the output."""
    kernel, inside = KERNELS["left to right"][None, None], slice(3, -3)
    before = F.conv2d(some, kernel, stride=s)
    after = F.conv2d(some.roll(pixels, -1), kernel, stride=s)
    return torch.allclose(after[..., inside], before.roll(pixels // s, -1)[..., inside], atol=1e-5)

# %%
for s, pixels in ((1, 1), (2, 1), (2, 2)):
    print(f"stride {s}, moved by {pixels}: the map moves along: {moves_along(s, pixels)}")

# %%
# checkpoint: the formula against counting and torch; average pooling is a convolution
for n in range(1, 12):
    for k, s, p in ((k, s, p) for k in range(1, 6) for s in range(1, 5) for p in range(3)):
        if n + 2 * p >= k:
            starts = range(-p, n + p - k + 1, s)
            assert len(starts) == out_size(n, k, s, p)
            made = F.conv1d(torch.zeros(1, 1, n), torch.zeros(1, 1, k), stride=s, padding=p)
            assert made.shape[-1] == len(starts)
box = torch.full((1, 1, 2, 2), 1 / 4)
torch.testing.assert_close(F.avg_pool2d(some, 2), F.conv2d(some, box, stride=2))
assert moves_along(1, 1) and moves_along(2, 2) and not moves_along(2, 1)

# %% [markdown]
# ## 3.4 What sharing saves, and the fully connected end
#
# **Question.** A convolution is linear, so there *is* a matrix $A$ with
# $\mathrm{vec}(y) = A\,\mathrm{vec}(x)$. Is it any special matrix?
#
# We find $A$ column by column: column $c$ is the answer to the picture that is 1 at pixel $c$ and 0
# elsewhere. All such pictures together are the identity matrix, cut into pictures.
#
# **Predict:** for 6×6 pixels and a 3×3 kernel, how many rows and columns does $A$ have, how many
# entries are not zero, how many *different* numbers are there?

# %%
kernel = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
A = F.conv2d(torch.eye(36).reshape(36, 1, 6, 6), kernel).flatten(1).T  # (16, 36)
print(f"{A.numel()} entries, {int((A != 0).sum())} not zero, {len(A.unique()) - 1} different")
fig, ax = plt.subplots(figsize=(5.6, 2.6))
shown = ax.imshow(A, cmap="Blues", vmin=0, vmax=9, interpolation="nearest")
ax.set(xlabel="pixel of x (row by row)", ylabel="pixel of y")
fig.colorbar(shown, ax=ax, label="entry", shrink=0.8)
plot.show(
    fig,
    alt="A matrix of 16 rows and 36 columns, nearly all zero. Each row has the nine kernel weights "
    "in three groups of three, moved to the right by one from row to row.",
)

# %% [markdown]
# Every row holds the same nine numbers, only shifted: **weights are shared**. And most entries are
# fixed to zero: **connections are local**. A fully connected (dense) layer is free to have any
# $A$ at all.
#
# **Predict:** weights of a layer from one 28×28 picture to 32 maps of 28×28 – dense, and as a 3×3
# convolution?

# %%
dense = (28 * 28) * (32 * 28 * 28) + 32 * 28 * 28
conv = sum(p.numel() for p in nn.Conv2d(1, 32, 3, padding=1).parameters())
print(f"dense {dense:,} weights · convolution {conv:,} · ratio {dense / conv:,.0f}")

# %% [markdown]
# Sharing is a bet: that what is worth seeing in one corner is worth seeing in every other. "Break
# it" shows what happens when the bet is lost.
#
# **The end of the net.** A decision must look at the whole picture. The usual way: make the maps
# small by pooling, lay them out in one vector (`Flatten`), and end in dense layers. Even that is a
# convolution: its kernel is as large as the map.
#
# A dense layer *between* others holds most weights of our small net (section 3.10 prints it). DCGAN
# ([chapter 05](05_dcgan.ipynb)) has no fully connected hidden layers: one such step at the end of
# its discriminator $D$, one at the beginning of its generator $G$, convolutions between.

# %% [markdown]
# ### 1×1 convolutions: a linear layer at every pixel
#
# **Question.** What is a kernel good for that sees a single pixel?
#
# With $k = 1$ the sum over the window is gone. The sum over the channels is left:
#
# $$y[o, i, j] = \sum_c w[o, c]\;x[c, i, j].$$
#
# This is the matrix $w$, applied to the vector of channels, at every pixel separately. It mixes
# channels, it looks at no neighbour, and it changes *how many* channels there are.
#
# So it can make room for an expensive layer. Instead of one 3×3 convolution from 256 to 256
# channels: 1×1 down to 64 channels, 3×3 among the 64, 1×1 back up to 256. This is called a
# **bottleneck**.
#
# **Predict:** by what factor does the bottleneck save weights?

# %%
def count_weights(net):
    return sum(p.numel() for p in net.parameters())


plain = nn.Conv2d(256, 256, 3, padding=1, bias=False)
bottleneck = nn.Sequential(
    nn.Conv2d(256, 64, 1, bias=False),
    nn.Conv2d(64, 64, 3, padding=1, bias=False),
    nn.Conv2d(64, 256, 1, bias=False),
)
counts = count_weights(plain), count_weights(bottleneck)
print("weights of one 3×3 and of the bottleneck:", *counts)
print(f"ratio {counts[0] / counts[1]:.1f}")

# %% [markdown]
# Each weight is used once per pixel, so multiplications fall by the same factor as the weights.
# (The time may fall by another one: that depends on the machine.)
#
# The bottleneck above has no ReLU inside. So it *is* one linear layer, a 3×3 convolution from 256
# to 256 channels, written as a product: a **factorisation**. It saves, and it gives something up:
# at each pixel everything has to pass through 64 numbers. The same works for a dense layer: a
# matrix of $784\times784$ through 32 numbers costs $2\cdot784\cdot32$ weights instead of $784^2$,
# and has rank 32 at most. Whether the loss in freedom hurts is a question to the data; no count
# answers it.

# %%
# checkpoint: A by its counts; the dense end and 1×1 convolutions by second routes
x = torch.randn(36)
torch.testing.assert_close(A @ x, correlate(x.reshape(6, 6), kernel[0, 0]).flatten())
assert A.shape == (out_size(6, 3, 1, 0) ** 2, 36) and int((A != 0).sum()) == 9 * 16
maps, linear = torch.randn(5, 96, 3, 3), nn.Linear(96 * 3 * 3, 10)
whole = F.conv2d(maps, linear.weight.reshape(10, 96, 3, 3), linear.bias)  # (5, 10, 1, 1)
torch.testing.assert_close(whole.flatten(1), linear(maps.flatten(1)), atol=1e-5, rtol=1e-4)
pointwise = nn.Conv2d(96, 10, 1)
w = pointwise.weight[:, :, 0, 0]  # (10, 96)
by_sum = torch.einsum("oc,bcij->boij", w, maps) + pointwise.bias[:, None, None]
by_linear = F.linear(maps.movedim(1, -1), w, pointwise.bias).movedim(-1, 1)
torch.testing.assert_close(pointwise(maps), by_sum, atol=1e-5, rtol=1e-4)
torch.testing.assert_close(pointwise(maps), by_linear, atol=1e-5, rtol=1e-4)
down, middle, up = (layer.weight for layer in bottleneck)  # its three factors make one 3×3 kernel
product = torch.einsum("om,mnuv,nc->ocuv", up[:, :, 0, 0], middle, down[:, :, 0, 0])
x = torch.randn(1, 256, 5, 5)
torch.testing.assert_close(F.conv2d(x, product, padding=1), bottleneck(x), atol=1e-4, rtol=1e-3)
assert count_weights(plain) == 9 * 256**2
assert count_weights(bottleneck) == 2 * 256 * 64 + 9 * 64**2

# %% [markdown]
# ## 3.5 Backpropagation through a convolution
#
# **Question.** To train, we need the gradient of the loss $L$ with respect to kernel and input. Say
# the layers above hand us $g[i,j] = \partial L/\partial y[i,j]$. What now?
#
# *The kernel.* Weight $w[u,v]$ was used at every place $(i,j)$, times the pixel $x[i+u, j+v]$. By
# the chain rule, add up all its uses:
#
# $$\frac{\partial L}{\partial w[u,v]} = \sum_{i,j} g[i,j]\;x[i+u,\,j+v].$$
#
# Compare with section 3.1: this *is* a cross-correlation, of the input with $g$ in the kernel's
# role. Sharing in the forward pass became a sum in the backward pass.

# %% [markdown]
# *The input.* Pixel $x[m,n]$ was used by each window that covers it. The window at $(i,j)$ met it
# with weight $w[m-i,\,n-j]$ (if that exists), so
#
# $$\frac{\partial L}{\partial x[m,n]} = \sum_{i,j} g[i,j]\;w[m-i,\,n-j].$$
#
# The minus signs make it a *true* convolution: slide the kernel, turned by 180°, over $g$, with
# $k-1$ zeros of padding, so that every overlap counts ("full"). As a matrix: $y = Ax$ gives
# $\partial L/\partial x = A^\top g$. This will be the transposed convolution of section 3.7.
#
# **Predict:** if only *one* output pixel has $g = 1$ and all others 0, what picture is
# $\partial L/\partial x$?

# %%
def backward(x, w, g):
    """Both gradients by hand: x (H, W), w (k, k), g like the output → like w, like x."""
    border = len(w) - 1
    grad_w = correlate(x, g)  # g slides over x: k × k places
    grad_x = correlate(F.pad(g, (border, border, border, border)), w.flip(0, 1))
    return grad_w, grad_x

# %%
x = picture.clone().requires_grad_()
w = torch.randn(3, 3, requires_grad=True)
y = F.conv2d(x[None, None], w[None, None])[0, 0]
loss = (y**2).mean()  # any function of y will do
g = torch.autograd.grad(loss, y, retain_graph=True)[0]
grad_w, grad_x = backward(x.detach(), w.detach(), g)

# %%
auto_w, auto_x = torch.autograd.grad(loss, (w, x))
torch.testing.assert_close(grad_w, auto_w, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(grad_x, auto_x, rtol=1e-4, atol=1e-5)
single = torch.zeros_like(g)
single[4, 6] = 1
stamp = backward(picture, KERNELS["top to bottom"], single)[1]
print(stamp[3:8, 5:10] * 8)

# %% [markdown]
# Autograd agrees. And one output pixel's gradient is a *stamp* of the kernel, not turned, at the
# place of its window: exactly the weights through which it looks.
#
# **Does the gradient find a kernel?** We take pictures and their left-to-right edge maps, hide the
# kernel, and start from zeros. Gradient descent on the mean squared difference, with the gradient
# by the formula above (with several pictures, the sum runs over them too).

# %%
target_kernel = KERNELS["left to right"]
x = images.images(range(32)).cpu()[:, :1]
target = F.conv2d(x, target_kernel[None, None])
found, film = torch.zeros(3, 3), {}
for step in range(1_001):
    if step in (0, 3, 30, 100, 1_000):
        film[f"step {step}"] = found.clone()
    g = 2 * (F.conv2d(x, found[None, None]) - target) / target.numel()
    grad = F.conv2d(x.transpose(0, 1), g.transpose(0, 1))[0, 0]  # correlate, add over pictures
    found = found - 0.2 * grad  # with 0.3, brightness would make it diverge
film["hidden"] = target_kernel
show_maps(
    film,
    alt="A three-by-three kernel at five moments of gradient descent, from even grey to nearly the "
    "hidden edge kernel shown last.",
    shared=True,
)

# %% [markdown]
# The columns of the hidden kernel appear within a few dozen steps: training finds kernels that
# nobody designed. What the film does not say: that this is the only kernel that would do. In real
# pictures neighbours are alike, so some mixtures of weights hardly change the loss, and they are
# learned last: along these directions descent is slow.

# %%
# checkpoint: by a route without calculus: move each weight by ±ε and watch the loss
def mean_square(kernel):
    return (F.conv2d(x.double(), kernel[None, None]) - target).square().mean()


start, eps = torch.randn(3, 3, dtype=torch.float64), 1e-5
g = 2 * (F.conv2d(x.double(), start[None, None]) - target) / target.numel()
by_formula = F.conv2d(x.double().transpose(0, 1), g.transpose(0, 1))[0, 0]
for u, v in np.ndindex(3, 3):
    step = torch.zeros_like(start)
    step[u, v] = eps
    slope = (mean_square(start + step) - mean_square(start - step)) / (2 * eps)
    torch.testing.assert_close(slope, by_formula[u, v], rtol=1e-5, atol=1e-7)
assert mean_square(found.double()) < 0.05 * mean_square(torch.zeros(3, 3).double())

# %% [markdown]
# ## 3.6 Receptive fields
#
# **Question.** How much of the picture can one unit in a deep layer see?
#
# Walk through the layers. Let $r$ be the side of the field and $j$ ("jump") the distance, in input
# pixels, between neighbouring units. At the input both are 1. A layer with kernel $k$ and stride
# $s$ sees $k$ units that are $j$ pixels apart, so
#
# $$r \leftarrow r + (k-1)\,j, \qquad j \leftarrow j\,s.$$
#
# **Predict:** three times (3×3 convolution, 2×2 pooling with stride 2): what is $r$ at the end?
#
# We check it by measuring. The pixels that a unit can see are those its gradient reaches:
# backpropagate from one unit and look where $\partial y/\partial x \ne 0$. Max pooling lets only
# the largest through, so we take many random pictures and add up.

# %%
def receptive_field(layers):
    """Side of the field and jump after layers given as (kernel, stride) [input pixels]."""
    r, jump = 1, 1
    for k, s in layers:
        r, jump = r + (k - 1) * jump, jump * s
    return r, jump

# %%
BLOCKS = [(3, 1), (2, 2)] * 3
for depth in range(len(BLOCKS) + 1):
    r, jump = receptive_field(BLOCKS[:depth])
    print(f"after {depth} layers: field {r:2d} × {r:<2d}  jump {jump}")

# %%
def measure(net, side, channels=1, count=64):
    """Mean |∂ (middle unit) / ∂x| over random pictures: (side, side)."""
    x = torch.randn(count, channels, side, side, requires_grad=True)
    y = net(x)
    middle = y.shape[-1] // 2
    y[:, :, middle, middle].sum().backward()
    return x.grad.abs().mean((0, 1))


def side_of(field):
    """Rows between the first and the last that the gradient reaches."""
    rows = field.sum(1).nonzero()
    return int(rows.max() - rows.min()) + 1


blocks, c = [], 1
for out in (8, 16, 24):
    blocks += [nn.Conv2d(c, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    c = out
fields = [measure(nn.Sequential(*blocks[: 3 * depth]), 64) for depth in (1, 2, 3)]
print("measured after 1, 2, 3 blocks:", [side_of(field) for field in fields])

# %% [markdown]
# Formula and gradient agree. But *can see* is not *does look*. A pixel in the middle is reached on
# many paths through the layers, a pixel in the corner on just one.
#
# Take $n$ layers of 3×3 with equal weights and nothing between them. Paths add up as steps
# of a random walk do: each layer moves by −1, 0 or 1 pixel with equal chance, variance $2/3$. After
# $n$ layers the weights form a bell of variance $2n/3$, so its width grows like $\sqrt n$ while the
# field $r = 2n + 1$ grows like $n$ (Luo et al. 2016 call this the *effective* receptive field).
#
# **Predict:** what becomes of the bell with random weights? And with ReLU between the layers?

# %%
def stack_of(n, channels, relu):
    """n convolutions 3×3 from one channel to many, with new random weights."""
    layers, inputs = [], 1
    for _ in range(n):
        layers.append(nn.Conv2d(inputs, channels, 3, padding=1, bias=False))
        inputs = channels
        if relu:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


n = 10
even = stack_of(n, 1, relu=False)
for layer in even:
    nn.init.constant_(layer.weight, 1 / 9)
bells = {"equal weights": [measure(even, 41, count=1)]}
bells["random"] = [measure(stack_of(n, 16, relu=False), 41, count=1) for _ in SEEDS]
bells["random, ReLU"] = [measure(stack_of(n, 16, relu=True), 41) for _ in SEEDS]
offset = torch.arange(41.0) - 20
profiles = {name: [bell.sum(0) / bell.sum() for bell in b] for name, b in bells.items()}
spreads = {name: [float((p * offset**2).sum().sqrt()) for p in b] for name, b in profiles.items()}
for name, values in spreads.items():
    print(f"{name:14} σ =", "  ".join(f"{value:.2f}" for value in values), "pixels")
print(f"√(2n/3) = {math.sqrt(2 * n / 3):.2f} pixels, times √2: {math.sqrt(4 * n / 3):.2f}")

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), width_ratios=[1, 1, 1.6])
field = 2 * n + 1
for ax, name in zip(axes, ("equal weights", "random, ReLU"), strict=False):
    bell = bells[name][0]
    plot.grid((2 * bell / bell.max() - 1)[None, None], ax=ax, title=name)
    ax.add_patch(plt.Rectangle((9.5, 9.5), field, field, fill=False, color=plot.FOURTH))
colours = (plot.THIRD, plot.FOURTH, "k")
for (name, several), colour in zip(profiles.items(), colours, strict=True):
    for number, profile in enumerate(several):
        axes[2].plot(offset, profile, color=colour, label=None if number else name, linewidth=1)
for rim in (-field / 2, field / 2):
    axes[2].axvline(rim, color="0.4", linestyle="--", linewidth=1)
axes[2].plot([], [], color="0.4", linestyle="--", label="rim of the field")
axes[2].set(xlabel="pixels from the middle", ylabel="share of the gradient", ylim=(0, 0.28))
axes[2].legend(fontsize=7, loc="upper right")
plot.show(
    fig,
    alt="Two maps of gradient size: bright in the middle, dark at the rim of the receptive field, "
    "which is framed. Beside them profiles: a narrow bell for equal weights, and wider ones for "
    "random weights, with and without ReLU, that fill most of the field.",
)

# %% [markdown]
# The bell stays. With random weights it is wider; ReLU hardly changes its width (three seeds). The
# reason is in what we draw, the mean *absolute* gradient. Paths now come with random signs, so
# their *variances* add up to the bell of the random walk. The absolute value goes like the root of
# the variance, and the root of a bell is a bell $\sqrt2$ times as wide.
#
# A net that is *able* to see the whole picture may use its rim little, at least before training.
# Strides and pooling help, because jumps multiply.
#
# **What this leaves out:** in training, BatchNorm (section 3.10) computes means over all places. A
# unit then sees everything, strictly. Measure in eval mode.

# %%
# checkpoint: formula against gradient, for layers drawn at random; the bell against the random walk
for _ in range(10):
    stack = [(int(k), int(s)) for k, s in torch.randint(1, 4, (3, 2))]
    r, jump = receptive_field(stack)
    net = nn.Sequential(*[nn.Conv2d(1, 1, k, stride=s, bias=False) for k, s in stack])
    for layer in net:
        nn.init.constant_(layer.weight, 1.0)
    seen = measure(net, 3 * r + 2 * jump, count=1).sum(1) > 0
    holes = any(s > k for k, s in stack)  # a stride beyond the kernel skips pixels
    assert holes or int(seen.sum()) == r
assert [side_of(field) for field in fields] == [4, 10, 22]
assert abs(spreads["equal weights"][0] - math.sqrt(2 * n / 3)) < 1e-3
for name in ("random", "random, ReLU"):
    assert spreads["equal weights"][0] + 0.3 < min(spreads[name]), spreads
    assert max(spreads[name]) < math.sqrt(4 * n / 3) + 0.6, spreads

# %% [markdown]
# ## 3.7 The transposed convolution, and chequerboards
#
# **Question.** A generator has to go from small to large. What is the way back of a convolution?
#
# Section 3.5 met it: $A^\top$. Reading becomes *painting*: each input pixel $y[i,j]$ lays down a
# copy of the kernel, scaled by its value, $s$ pixels from the next copy. Overlaps add up:
#
# $$x[m,n] = \sum_{i,j} y[i,j]\;w[m - s\,i,\;n - s\,j].$$
#
# **Predict:** is $A^\top A = I$? In words: first convolve, then convolve transposed with the same
# kernel: do you get the picture back?

# %%
def paint(y, w, s):
    """Transposed convolution: y (h, w), kernel (k, k), stride s → ((h−1)s+k, …)."""
    k = len(w)
    x = torch.zeros((y.shape[0] - 1) * s + k, (y.shape[1] - 1) * s + k)
    for i, j in np.ndindex(*y.shape):
        x[s * i : s * i + k, s * j : s * j + k] += y[i, j] * w
    return x

# %%
small = F.avg_pool2d(picture[None, None], 2)[0, 0]
brush = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])
painted = paint(small, brush, 2)
by_torch = F.conv_transpose2d(small[None, None], brush[None, None], stride=2)[0, 0]
torch.testing.assert_close(painted, by_torch)
print(tuple(small.shape), "→", tuple(painted.shape))

# %%
wide = torch.ones(3, 3) / 9
down = F.conv2d(picture[None, None], wide[None, None], stride=2)[0, 0]
back = paint(down, wide, 2)
show_maps(
    {"x": picture, "A x": down, "Aᵀ A x": back, "ones painted": paint(down**0, wide, 2)},
    alt="A picture, its smaller blurred map, the map painted back to full size with a grid of "
    "lines across it, and the same grid from a constant input.",
)

# %% [markdown]
# No. The size came back (but for a last row and column, which no window had reached), not the
# picture. And there is a new guest: a **chequerboard**. The last map shows that the picture is
# innocent: even a constant input gives it, since with $k = 3$ and $s = 2$ some pixels are painted
# by one brush, some by two, some by four.
#
# Let us measure. Paint a constant map, leave out the border, and sort the output pixels into the
# four **phases** (row even or odd, column even or odd). Within a phase all are equal. The
# *unevenness* is the standard deviation of the four divided by their root mean square: 0 for none,
# 1 if they cancel.

# %%
def phases(x):
    """Means over the four phases, away from the border: x (B, H, W) → (B, 4)."""
    x = x[:, 4:-4, 4:-4]
    return torch.stack([x[:, a::2, b::2].mean((1, 2)) for a, b in np.ndindex(2, 2)], 1)


def unevenness(x):
    values = phases(x)
    return float((values.std(1, correction=0) / values.square().mean(1).sqrt()).mean())


def kernel3(y, w):
    return F.conv_transpose2d(y, w, stride=2, padding=1, output_padding=1)


def kernel4(y, w):
    return F.conv_transpose2d(y, w, stride=2, padding=1)


def resize_first(y, w):
    return F.conv2d(F.interpolate(y, scale_factor=2, mode="nearest"), w.transpose(0, 1), padding=1)

# %% [markdown]
# Two cures are known: a kernel whose side is a **multiple of the stride**, or **resize first**
# (copy every pixel into a 2×2 block), then convolve with stride 1.
#
# We try them with 16 input channels and 500 output channels, twice: with all weights 1, and with
# random weights, as in a net before training.
#
# **Predict** the six numbers: zero or not?

# %%
constant = torch.ones(1, 16, 12, 12)
methods = {"k = 3, s = 2": (kernel3, 3), "k = 4, s = 2": (kernel4, 4)}
methods["resize, k = 3"] = (resize_first, 3)
table = {}
for name, (up, k) in methods.items():
    ones, random = torch.ones(16, 500, k, k), torch.randn(16, 500, k, k)
    table[name] = [unevenness(up(constant, w)[0]) for w in (ones, random)]
    print(f"{name:14} weights 1: {table[name][0]:.3f}   random weights: {table[name][1]:.3f}")

# %% [markdown]
# The first column is the usual story: kernel 3 paints unevenly, both cures do not. The second is
# told less often. With *random* weights, kernel 4 is as uneven as kernel 3: each phase is painted
# by four *different* weights, and nothing makes their sums agree.
#
# So a multiple of the stride makes the *counts* equal: then equal weights are enough for an even
# picture. Nor is kernel 3 doomed: `brush`, above, paints exactly 1 at every pixel inside, because
# its sums agree. Resizing first is even for a constant input, *whatever* the weights.
#
# **What this does not say:** what training makes of it. Chapter 05 keeps kernel 4; if generated
# pictures show a fine grid, look here first.

# %%
# checkpoint: the transposed convolution is Aᵀ; phase sums predict what a constant map becomes
w = torch.randn(1, 1, 3, 3)
columns = F.conv2d(torch.eye(36).reshape(36, 1, 6, 6), w, stride=2).flatten(1).T  # A: (4, 36)
painted = F.conv_transpose2d(torch.eye(4).reshape(4, 1, 2, 2), w, stride=2, output_padding=1)
assert torch.equal(painted.flatten(1), columns)
w = torch.randn(1, 1, 4, 4)
values = phases(kernel4(torch.ones(1, 1, 12, 12), w)[0])[0]
sums = torch.stack([w[0, 0, a::2, b::2].sum() for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))])
torch.testing.assert_close(values, sums, rtol=1e-4, atol=1e-5)
by_brush = phases(kernel3(torch.ones(1, 1, 12, 12), brush[None, None])[0])
torch.testing.assert_close(by_brush, torch.ones(1, 4))  # even, with k = 3
assert table["k = 3, s = 2"][0] > 0.3 and table["k = 4, s = 2"][0] < 1e-6
assert table["k = 4, s = 2"][1] > 0.5 and table["resize, k = 3"][1] < 1e-4

# %% [markdown]
# ## 3.8 How large weights should start
#
# **Question.** A net starts with random weights. How large should they be?
#
# One unit adds up $n$ inputs, its **fan-in**: $y = \sum_{i=1}^n w_i x_i$. (In a convolution,
# $n = C_\text{in}\,k^2$.) Draw the weights independently, from a law that is symmetric about 0,
# with variance $v$. For given inputs, $y$ has mean 0, and all mixed terms $\mathbb E[w_i w_j]$ are
# 0. What is left is
#
# $$\operatorname{Var}(y) = \sum_i v\,x_i^2
# = n \cdot v \cdot \underbrace{\tfrac1n\textstyle\sum_i x_i^2}_{\text{mean square of the input}}.$$
#
# Fan-in times variance of the weights times *mean square* of the input. (Not its variance: a
# constant input counts, too.)

# %% [markdown]
# Next comes ReLU. As often as $y$ is positive it is negative, by symmetry, so ReLU removes **half**
# of the mean square. (LeakyReLU, with slope $a$ below 0, leaves $\tfrac12(1 + a^2)$ of it.) One
# layer with its ReLU multiplies the mean square by $\tfrac12 n v$. A stack of $L$ layers multiplies
# it by
#
# $$\left(\tfrac12\,n\,v\right)^L.$$
#
# A power: below 1 it dies out, above 1 it explodes. Only $v = 2/n$ keeps it. This is **He
# initialisation** (also *Kaiming*, after the first name): weights with standard deviation
# $\sqrt{2/n}$.
#
# **Predict:** 20 layers with 32 channels and 3×3 kernels, so $n = 288$. How large are the numbers
# at the end with He's weights, with weights twice as large, with PyTorch's default ($v = 1/(3n)$),
# and with DCGAN's standard deviation of 0.02?

# %%
LAYERS, FAN_IN = 20, 32 * 3 * 3


@torch.no_grad()
def sizes(std, seed, norm=False):
    """Root mean square behind each convolution of a deep stack with new weights: (LAYERS,)."""
    torch.manual_seed(seed)
    h, found = torch.randn(16, 32, 8, 8), []
    for _ in range(LAYERS):
        w = std * torch.randn(32, 32, 3, 3)
        h = F.conv2d(F.pad(h, (1, 1, 1, 1), mode="circular"), w)  # a ring: no zeros at the rim
        if norm:
            h = F.batch_norm(h, None, None, training=True)
        found.append(h.square().mean().sqrt())
        h = h.relu()
    return torch.stack(found)


STARTS = {
    "twice He": 2 * math.sqrt(2 / FAN_IN),
    "He: √(2/n)": math.sqrt(2 / FAN_IN),
    "PyTorch's default: √(1/(3n))": math.sqrt(1 / (3 * FAN_IN)),
    "DCGAN's 0.02": 0.02,
}
signal = {name: [sizes(std, seed) for seed in range(5)] for name, std in STARTS.items()}
signal["0.02 with BatchNorm"] = [sizes(0.02, seed, norm=True) for seed in range(5)]

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.4))
depth = torch.arange(1, LAYERS + 1)
colours = (plot.FOURTH, "k", "C4", plot.THIRD, "0.6")
for (name, several), colour in zip(signal.items(), colours, strict=True):
    for number, line in enumerate(several):
        ax.semilogy(depth, line, color=colour, linewidth=1.3, label=None if number else name)
for std in STARTS.values():  # nothing has cut the first layer's input yet, so no half there
    theory = math.sqrt(FAN_IN) * std * (0.5 * FAN_IN * std**2) ** ((depth - 1) / 2)
    ax.semilogy(depth, theory, color="0.3", linestyle=":", linewidth=2, zorder=0)
ax.plot([], [], color="0.3", linestyle=":", linewidth=2, label="the formula")
ax.set(xlabel="layer", ylabel="root mean square", xticks=range(1, LAYERS + 1, 3))
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plot.show(
    fig,
    alt="Size of the numbers behind each of twenty layers, five seeds each, on a logarithmic axis: "
    "nearly straight lines that follow the dotted formula. Twice He rises by orders of magnitude, "
    "He stays level, the default and 0.02 fall by many orders. 0.02 with BatchNorm is level at 1.",
)
for name, several in signal.items():
    last = ", ".join(f"{line[-1]:.1e}" for line in several)
    print(f"{name:28} behind the last layer: {last}")

# %% [markdown]
# A straight line on a logarithmic axis is a power, and the lines follow the formula. (They end a
# little below it: the formula speaks of a mean, and a few large draws pull a mean up.) He's weights
# keep the size within a factor of a few. Both smaller starts lose several orders of magnitude.
#
# Backwards the same sum runs over a layer's *outputs*. So gradients shrink or grow by the same kind
# of power; the next section measures it.
#
# **What the figure does not say:** that a level size is enough to train. (It is not, as the next
# section shows.) And it is about the start only; nothing here holds the size during training,
# except BatchNorm.

# %% [markdown]
# **What BatchNorm changes.** It divides each channel by its spread, so a factor in the weights
# cancels: $\mathrm{BN}(c\,w * x) = \mathrm{BN}(w * x)$. In the figure, 0.02 with BatchNorm is
# level: no power of anything is left. Differentiate both sides by $w$: the gradient at $c\,w$ is
# $c$ times *smaller*. So small weights get larger gradients.
#
# **Why DCGAN's 0.02 works.** DCGAN draws *all* weights with standard deviation 0.02, whatever the
# fan-in, and has BatchNorm nearly everywhere. Let us compare with He.
#
# (In a transposed convolution only $(k/s)^2$ weights per channel paint one pixel. So its fan-in is
# $C_\text{in}(k/s)^2$.)

# %%
print("channels in   He, 4×4 convolution   He, 4×4 transposed, stride 2")
for channels in (3, 64, 128, 256, 512, 1024):
    forward, transposed = math.sqrt(2 / (16 * channels)), math.sqrt(2 / (4 * channels))
    print(f"{channels:11d}   {forward:19.3f}   {transposed:28.3f}")

# %% [markdown]
# For wide layers, 0.02 *is* about He's value (DCGAN's own nets had up to 1,024 channels). In
# narrower ones, like most in chapter 05, it is too small (divide He's value by 0.02), and BatchNorm
# makes up for it.
#
# Three layers have no BatchNorm. D's first gives small numbers; the next BatchNorm enlarges them.
# G's last gives small ones: G starts near grey, where tanh is nearly straight. D's last has
# thousands of inputs; for it 0.02 is not small.
#
# So the rule "0.02" rests on the rule "BatchNorm". Without BatchNorm it becomes the falling line of
# the figure. [Chapter 04](04_first_gan.ipynb) takes BatchNorm out of a net with PyTorch's default,
# [chapter 05](05_dcgan.ipynb) out of one with 0.02.

# %%
# checkpoint: the formula by Monte Carlo, in the stack, and against torch's own initialiser
x, v = 1 + torch.rand(50), 0.3**2  # the mean is not 0, so mean square and variance differ
y = math.sqrt(v) * torch.randn(100_000, 50) @ x
formula = 50 * v * x.square().mean()
torch.testing.assert_close(y.var(), formula, rtol=0.03, atol=0)
torch.testing.assert_close(y.relu().square().mean(), formula / 2, rtol=0.03, atol=0)
assert y.var() > 5 * 50 * v * x.var()  # with the variance of x the formula would be wrong
layer = nn.Conv2d(32, 64, 3)
assert abs(layer.weight.std() * math.sqrt(3 * FAN_IN) - 1) < 0.03  # PyTorch's default
nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
assert abs(layer.weight.std() / STARTS["He: √(2/n)"] - 1) < 0.03
last = {name: torch.stack(several)[:, -1].log10() for name, several in signal.items()}
assert last["He: √(2/n)"].abs().max() < 1 < 4 < last["twice He"].min()
assert last["DCGAN's 0.02"].max() < last["PyTorch's default: √(1/(3n))"].min() - 2 < -7
assert last["0.02 with BatchNorm"].abs().max() < 0.01
up = F.conv_transpose2d(torch.randn(16, 32, 12, 12), 0.02 * torch.randn(32, 64, 4, 4), stride=2)
assert abs(up[..., 4:-4, 4:-4].var() / (32 * 4 * 0.02**2) - 1) < 0.1  # fan-in of a transposed one
x, mix, w = torch.randn(8, 4, 9, 9), torch.randn(8, 6, 7, 7), torch.randn(6, 4, 3, 3)
grads = []
for c in (1.0, 10.0):
    kernels = (c * w).requires_grad_()
    y = F.batch_norm(F.conv2d(x, kernels), None, None, training=True)
    grads.append(torch.autograd.grad((mix * y).sum(), kernels)[0])
torch.testing.assert_close(grads[0], 10 * grads[1], rtol=1e-3, atol=1e-3)

# %% [markdown]
# ## 3.9 Residual connections
#
# **Question.** Weights of the right size keep the numbers level through 20 layers. Can we then
# train a net with 48 layers?
#
# A **residual connection** adds the input of some layers to their output:
#
# $$\text{plain: } h_{l+1} = f_l(h_l) \qquad \text{residual: } h_{l+1} = h_l + f_l(h_l).$$
#
# The layers only have to learn the *residual*: what should change. Write $J_l$ for the derivative
# of $f_l$. Backwards the chain rule gives
#
# $$\text{plain: } g\,J_L J_{L-1}\cdots J_1 \qquad
# \text{residual: } g\,(I + J_L)\cdots(I + J_1) = g\,\big(I + \textstyle\sum_l J_l + \dots\big).$$
#
# In the plain stack everything has to pass through every $J$. In the residual one, the term $I$
# carries the gradient $g$ to the first layer *unchanged*.

# %% [markdown]
# One thing from section 3.8: by the sum, sizes grow. If $h$ and $f(h)$ are unrelated and equally
# large, the mean square doubles in each layer, and $2^{48}$ is too much. So we divide $f$ by
# $\sqrt L$: then it grows by $(1 + 1/L)^L < e$ in all.
#
# Our two stacks have the same 48 layers (3×3, 16 channels, ReLU first), the same number of weights,
# *the same* first weights (He), and see the same batches with the same optimiser and rate. They
# differ in "$h\,+$" and in the factor $1/\sqrt L$ that belongs to it. There is no BatchNorm.
#
# **Predict:** how large is the gradient at the first layer, in each of them?

# %%
class Deep(nn.Module):
    """Many 3×3 layers on small maps, plain or residual."""

    def __init__(self, residual, depth=48, width=16):
        super().__init__()
        self.residual, self.factor = residual, 1 / math.sqrt(depth)
        self.first = nn.Conv2d(CHANNELS, width, 3, padding=1, bias=False)
        self.layers = nn.ModuleList()
        for _ in range(depth):
            self.layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.head = nn.Linear(width, len(images.classes))
        for layer in [self.first, *self.layers]:
            nn.init.kaiming_normal_(layer.weight)

    def maps(self, x):  # (B, C, H, W) → (B, width, H/4, W/4)
        h = self.first(F.avg_pool2d(x, 4))
        for layer in self.layers:
            f = layer(h.relu())
            h = h + self.factor * f if self.residual else f
        return h

    def forward(self, x):  # (B, C, H, W) → logits (B, classes)
        return self.head(self.maps(x).mean((2, 3)))

# %%
def new_deep(kind, seed):
    torch.manual_seed(seed)
    net = Deep(residual="residual" in kind)
    if "default" in kind:
        for layer in [net.first, *net.layers]:
            layer.reset_parameters()  # PyTorch's default start
    if "no factor" in kind:
        net.factor = 1.0
    return net


def at_the_start(net):
    """On one batch: the gradient's norm in each layer; how alike the maps of two pictures are."""
    net, x = net.double(), images.batch(0, 32).cpu().double()  # numbers too small for float32
    labels = images.labels[images.indices(0, 32)].cpu()
    F.cross_entropy(net(x), labels).backward()
    gradients = torch.stack([layer.weight.grad.norm() for layer in net.layers])
    maps = net.maps(x).detach().flatten(1)
    maps = maps / maps.norm(dim=1, keepdim=True)
    cosines = maps @ maps.T  # (32, 32), ones on the diagonal
    return gradients, float((cosines.sum() - 32) / (32 * 31))

# %%
KINDS = ("plain, default", "plain, He", "residual, He", "residual, He, no factor")
starts = {kind: [at_the_start(new_deep(kind, seed)) for seed in SEEDS] for kind in KINDS}
print("gradient's norm at the first layer, and mean cosine of two pictures' maps; three seeds")
for kind, several in starts.items():
    first = "  ".join(f"{float(gradients[0]):.1e}" for gradients, _ in several)
    alike = "  ".join(f"{cosine:.2f}" for _, cosine in several)
    print(f"{kind:24}  {first}   {alike}")

# %%
def learn(kind, seed, steps=DEEP, lr=1e-3):
    """A short training of a deep stack. Returns its losses [nats]."""
    net, losses = new_deep(kind, seed).to(DEVICE), []
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for step in range(steps):
        labels = images.labels[images.indices(step, 64)].to(DEVICE)
        loss = F.cross_entropy(net(images.batch(step, 64)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).cpu()


learned = {kind: [learn(kind, seed) for seed in SEEDS] for kind in ("plain, He", "residual, He")}

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
for kind, colour in zip(KINDS, ("k", plot.FOURTH, plot.THIRD, "0.6"), strict=True):
    for number, (gradients, _) in enumerate(starts[kind]):
        left.semilogy(gradients, color=colour, linewidth=0.8, label=None if number else kind)
for kind, colour in (("plain, He", plot.FOURTH), ("residual, He", plot.THIRD)):
    for losses in learned[kind]:
        smooth = losses.unfold(0, min(10, len(losses)), 1).mean(1)
        right.plot(smooth, color=colour, linewidth=0.8)
right.axhline(math.log(len(images.classes)), color="0.6", linestyle=":", label="undecided")
left.set(xlabel="layer", ylabel="norm of the gradient", title="at the start")
right.set(xlabel="step", ylabel="loss, mean of 10 steps [nats]", title="training", ylim=(0, 3))
left.legend(fontsize=7)
right.legend(fontsize=8)
plot.show(
    fig,
    alt="Left: gradient size in each layer, three seeds per kind, on a logarithmic axis: "
    "vanishingly small with the default start, level for the others; without the factor far too "
    "large. Right: the loss of three residual stacks falls; that of the plain ones lags behind.",
)
for kind, several in learned.items():
    print(f"{kind:13} loss at the end:", "  ".join(f"{x[-20:].mean():.2f}" for x in several))

# %% [markdown]
# With PyTorch's default start practically nothing reaches the first layer. With He's weights the
# plain stack's gradient is small, but not gone. Still its loss lags behind, with every seed. The
# table's last column shows what else may be wrong: at the end of the stack the maps of *different*
# pictures are almost the same, so little is left to tell apart. In the residual stack $h$ is
# carried along, and pictures stay more different. (Without the factor its gradients are huge: the
# doubling.)
#
# **What this does not say:** that plain deep nets can't be trained. We tried one depth, one rate, a
# short time, no BatchNorm. Our classifier, next, has five layers and no residual connections.

# %%
# checkpoint: equal weights at the start; the term I by autograd; and what f = 0 lets through
plain, residual = new_deep("plain, He", 0), new_deep("residual, He", 0)
assert count_weights(plain) == count_weights(residual)
for a, b in zip(plain.parameters(), residual.parameters(), strict=True):
    assert torch.equal(a, b)
J1, J2 = torch.randn(2, 4, 4)
through_two = torch.autograd.functional.jacobian(
    lambda h: (h + J1 @ h) + J2 @ (h + J1 @ h), torch.randn(4)
)
torch.testing.assert_close(through_two, torch.eye(4) + J1 + J2 + J2 @ J1, rtol=1e-4, atol=1e-5)
x = images.images([0]).cpu()
for net in (plain, residual):
    for layer in net.layers:
        nn.init.zeros_(layer.weight)
assert torch.equal(residual.maps(x), residual.first(F.avg_pool2d(x, 4)))  # all of it arrives
assert torch.equal(plain.maps(x), torch.zeros_like(plain.maps(x)))  # nothing does
assert max(gradients[0] for gradients, _ in starts["plain, default"]) < 1e-12
for he, shortcut in zip(starts["plain, He"], starts["residual, He"], strict=True):
    assert 0.2 < shortcut[0][0] / shortcut[0][-1] < 5  # first layer's gradient against the last's
    assert shortcut[0][0] > he[0][0] and shortcut[1] < he[1]
if runtime.profile() != "smoke":
    ends = {kind: [float(x[-20:].mean()) for x in several] for kind, several in learned.items()}
    assert max(ends["residual, He"]) < min(ends["plain, He"])

# %% [markdown]
# ## 3.10 A small net learns its own kernels
#
# **Question.** How good are learned kernels at telling ten kinds of pictures apart?
#
# Three **blocks**, each: 3×3 convolution (size kept), BatchNorm, ReLU, max pooling (size halved).
# Fewer places, more channels. Then the dense end: 128 **features**, and ten
# **logits** $a_1 \dots a_{10}$, one per class.
#
# *BatchNorm* brings each channel to mean 0 and variance 1 over the batch and all places, then
# scales and shifts it by two learned numbers. *Dropout* silences a random tenth ($p = 0.1$) of the
# units in each training step, so that none is relied upon alone, and multiplies the others by
# $1/(1-p)$: the mean stays. In use all units are on. Both layers differ in training and in use:
# hence `train()` and `eval()`.

# %%
class Classifier(nn.Module):
    def __init__(self, size, channels, classes=10, width=32, dropout=0.1):
        super().__init__()
        layers, c = [], channels
        for out in (width, 2 * width, 3 * width):  # (B, c, s, s) → (B, out, s/2, s/2)
            layers += [nn.Conv2d(c, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            c = out
        side = size // 8  # each pooling drops a last odd row and column
        layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(c * side * side, 128), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(128, classes))

    def features(self, x):  # (B, C, H, W) → (B, 128)
        return self.body(x)

    def forward(self, x):  # (B, C, H, W) → logits (B, classes)
        return self.head(self.body(x))

# %%
runtime.seed_everything(SEED)
ours = Classifier(SIZE, CHANNELS, len(images.classes), WIDTH).eval()  # a look changes nothing
x = images.batch(0, 2).cpu()
for layer in [*ours.body, *ours.head]:
    x = layer(x)
    if weights := count_weights(layer):
        print(f"{type(layer).__name__:12} → {tuple(x.shape[1:])!s:14} {weights:8,} weights")

# %% [markdown]
# **The loss.** *Softmax* turns logits into probabilities, and the loss is the surprise at the true
# class $c$, in nats, averaged over the batch (the cross-entropy of
# [chapter 01](01_kl_divergence.ipynb), where the truth has all its mass on $c$):
#
# $$q_k = \frac{e^{a_k}}{\sum_l e^{a_l}}, \qquad
# L = -\log q_c = -a_c + \log\sum_l e^{a_l}.$$
#
# Its gradient is as simple as can be: $\partial L/\partial a_k = q_k - [k = c]$, where $[k = c]$ is
# 1 for the true class and 0 for all others.
#
# **Predict:** what is $L$ before training, when all classes seem equally likely?

# %%
torch.testing.assert_close(nn.Dropout(0.1)(torch.ones(999)).unique(), torch.tensor([0, 1 / 0.9]))
a, labels = torch.randn(4, 10, requires_grad=True), torch.tensor([3, 0, 9, 3])
by_hand = (-a[range(4), labels] + a.exp().sum(1).log()).mean()
torch.testing.assert_close(by_hand, F.cross_entropy(a, labels))
slope = (a.softmax(1) - F.one_hot(labels, 10)).detach() / 4
torch.testing.assert_close(torch.autograd.grad(by_hand, a)[0], slope)
print(f"undecided: log 10 = {math.log(10):.3f} nats")

# %% [markdown]
# **The loop.** Each step moves every training picture by up to one pixel (`train.shifted`): more
# pictures for free, and a lesson in indifference to place. The rate is constant for half the
# steps, then falls to zero. AdamW is Adam, with weights that shrink a little in each step.

# %%
def fit(net, steps):
    runtime.seed_everything(SEED)
    net = net.to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01, fused=True)
    for step in range(steps):
        train.set_learning_rate(train.learning_rate(step, steps, LR), optimizer)
        x = train.shifted(images.batch(step, BATCH), SHIFT)
        labels = images.labels[images.indices(step, BATCH)].to(DEVICE)
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()

# %% [markdown]
# This is the whole loop. The package has the same net and the same loop (with progress and
# checkpoints). From the same seed, both must end in the same weights. (A GPU adds in another order
# each time, and Adam makes much of it. So there we take one step, and ask that nearly all agree.)

# %%
def new_net(seed=SEED):
    runtime.seed_everything(seed)
    return nets.Classifier(SIZE, CHANNELS, classes=len(images.classes), width=WIDTH)


settings = dict(batch_size=BATCH, lr=LR, shift=SHIFT, seed=SEED)

# %%
steps = SHORT if DEVICE.type == "cpu" else 1
mine, theirs = fit(ours, steps), new_net()
train.train_classifier(images, theirs, steps=steps, precision="float32", progress=False, **settings)
pairs = zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
close = [torch.isclose(a, b, rtol=1e-3, atol=1e-4).flatten() for a, b in pairs]
agree = torch.cat(close).float().mean().item()
print(f"{agree:.2%} of the numbers agree after {steps} steps")
assert agree == 1 if DEVICE.type == "cpu" else agree > 0.9

# %% [markdown]
# Now the whole training. (The course ships the result for MNIST and Fashion-MNIST as *judges*:
# files of weights which these very lines made. The command `gencourse train classifier` makes them
# again.)
#
# **Predict:** how many of a hundred unseen pictures will it get right?

# %%
def with_error(share, count):
    return f"{share:.2%} ± {math.sqrt(share * (1 - share) / count):.2%}"


net = new_net()
history = train.train_classifier(
    images, net, steps=STEPS, out=runtime.run_folder("03_classifier"), **settings
)

# %%
accuracy = train.accuracy(net, test_images)
print("unseen pictures: ", with_error(accuracy, len(test_images)), f"of {len(test_images):,} right")
seen = range(min(10_000, len(images)))
right = (evaluate.logits(images.images(seen), net).argmax(1) == images.labels[seen].cpu()).double()
print("training pictures:", with_error(float(right.mean()), len(seen)), f"of {len(seen):,} right")

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.6, 2.6))
smooth = max(1, STEPS // 40)
plot.curves(history, ["loss"], ax=axes[0], smooth=smooth)
axes[0].set_yscale("log")
plot.curves(history, ["accuracy"], ax=axes[1], smooth=smooth, ylabel="share right in the batch")
axes[1].axhline(accuracy, color=plot.FOURTH, linestyle="--", label="unseen, at the end")
axes[1].set_ylim(min(0.75, 0.9 * accuracy), 1.0)
axes[1].legend(fontsize=8)
plot.show(
    fig,
    alt="Loss and share of right answers over the training steps: fast gains at first, slow ones "
    "to the end. A dashed line shows the share of unseen pictures that are right at the end.",
)

# %% [markdown]
# The ± is the standard error from the *number of test pictures* alone; another seed would move the
# result, too. If training pictures are known better than unseen ones (compare the two lines printed
# above the figure), the gap is **overfitting**. Moved pictures and dropout are meant to hold it
# down; this one run does not show how much they do. Both disturb in training only. So the right
# curve (moved pictures, dropout on) lies *below* what the same net can do at rest, and the loss
# above.

# %%
# checkpoint: the number is right by a second count; a well-trained net beats guessing by far
logits = evaluate.logits(test_images, net)  # (N, 10), in batches
predicted, truth = logits.argmax(1), test_images.labels.cpu()
assert abs(float((predicted == truth).double().mean()) - accuracy) < 2e-3
by_chance = (predicted == truth[torch.randperm(len(truth))]).double().mean()  # shuffled labels
if runtime.profile() != "smoke":
    assert accuracy > 0.91 and by_chance < 0.2
    assert sum(history["loss"][-100:]) < 0.5 * sum(history["loss"][100:200])

# %% [markdown]
# ## 3.11 What it learned, and what it gets wrong
#
# **Question.** Are the learned kernels edges, as ours were?
#
# We draw learned kernels, the maps they give of one picture, and random kernels for comparison.
# (Our two edge kernels from the beginning are known as *Sobel* kernels.)
#
# **Predict:** before you look, which of the four kernels from the beginning will turn up?

# %%
first = net.body[0].weight.detach().cpu().mean(1)  # (width, 3, 3)
order = first.flatten(1).norm(dim=1).argsort(descending=True)[:8]
with torch.no_grad():
    maps = net.body[:3](images.images([0]))[0].cpu()  # after convolution, BatchNorm and ReLU
random = torch.randn(len(first), 3, 3)


def tiles(kernels):
    """Kernels (N, 3, 3) as pictures, each scaled to its largest weight."""
    kernels = kernels / kernels.abs().amax((1, 2), keepdim=True)
    return F.interpolate(kernels[:, None], size=(SIZE, SIZE), mode="nearest")


tops = maps[order].amax((1, 2), keepdim=True).clamp(min=1e-6)
shown = {
    "learned": tiles(first[order]),
    "their maps": (2 * maps[order] / tops - 1)[:, None],
    "random": tiles(random[: len(order)]),
}
plot.show(
    plot.rows(shown, columns=8),
    alt="Eight learned three-by-three kernels, some with a bright and a dark side; their maps of "
    "one picture: outlines, filled areas, some nearly empty; and eight random kernels.",
)

# %% [markdown]
# Some have a bright and a dark side, like our edge kernels; none is a copy of one of the four. But
# cover the names: could you tell the learned row from the random one? "It learned edge detectors"
# would say more than this one run shows. With BatchNorm behind and other layers above, a random
# kernel may be useful enough.
#
# **The confusion matrix.** Row: the true class; column: what the net said. On the diagonal it was
# right, so we leave that out.
#
# **Predict:** which pair of classes is mixed up most?

# %%
count = len(images.classes)
confusion = torch.bincount(truth * count + predicted, minlength=count**2).reshape(count, count)
wrong = confusion - confusion.diag().diag()
pairs = (wrong + wrong.T).triu().flatten()
for k in pairs.argsort(descending=True)[:3].tolist():
    name = " and ".join(images.classes[c] for c in divmod(k, count))
    print(f"{name}: {int(pairs[k])} mix-ups, {pairs[k] / pairs.sum():.0%} of all")

fig, ax = plt.subplots(figsize=(5.2, 4.0))
shown = ax.imshow(wrong, cmap="Blues", interpolation="nearest")
ax.set_xticks(range(count), images.classes, rotation=60, ha="right", fontsize=8)
ax.set_yticks(range(count), images.classes, fontsize=8)
ax.set(xlabel="the net says", ylabel="the label says")
for (i, j), value in np.ndenumerate(wrong.numpy()):
    if value:
        dark = value > wrong.max() / 2
        ax.text(j, i, value, ha="center", va="center", fontsize=7, color="w" if dark else "k")
fig.colorbar(shown, ax=ax, label="unseen pictures")
plot.show(
    fig,
    alt="The confusion matrix without its diagonal: few pairs of classes hold most mistakes.",
)

# %% [markdown]
# Mistakes aren't spread evenly. With this net on Fashion-MNIST, tops of all kinds (T-shirt,
# pullover, coat, shirt) are mixed up with each other, above all the shirt with the other three;
# rarely with a bag, hardly ever with a boot. An accuracy in one number hides that; so will one
# number for a generator, in chapter 07.
#
# **The most confident mistakes.** How sure was the net when it was wrong? We sort its mistakes by
# the probability it gave to its answer. **Cover the lines above the pictures and name each one
# first.**

# %%
q = logits.softmax(1)
sure = q.max(1).values
mistakes = (predicted != truth).nonzero()[:, 0]
worst = mistakes[sure[mistakes].argsort(descending=True)][:12]
short = [name.split("/")[0] for name in images.classes]

fig, axes = plt.subplots(2, 6, figsize=(7.5, 3.6))
for ax in axes.flat:
    ax.set_axis_off()
for ax, index in zip(axes.flat, worst.tolist(), strict=False):
    plot.grid(test_images.images([index]), ax=ax)
    label, said = short[truth[index]], short[predicted[index]]
    ax.set_title(f"label {label}\nsaid {said}\n{sure[index]:.1%}", fontsize=7)
plot.show(
    fig,
    alt="The twelve mistakes of which the net was most sure, each with its label, what the net "
    "said and how sure it was. Several look more like what the net said than like their label.",
)

# %%
for low in (0.0, 0.9, 0.99, 0.999):
    chosen = sure >= low
    if chosen.any():  # not in the smoke profile
        right, belief = (predicted == truth)[chosen].double().mean(), sure[chosen].mean()
        print(f"sure by at least {low:5.1%}: {int(chosen.sum()):6,} pictures, ", end="")
        print(f"{right:.2%} right, it believed {belief:.2%}")

# %%
strange = torch.randn(1_000, CHANNELS, SIZE, SIZE, device=DEVICE).clamp(-1, 1)
belief, said = evaluate.logits(strange, net).softmax(1).max(1)
favourite = int(said.mode().values)
share = (said == favourite).double().mean()
print(f"noise is called “{images.classes[favourite]}” in {share:.0%} of cases; ", end="")
print(f"the net is sure of its answers by {belief.mean():.0%} on average")

# %% [markdown]
# Did you agree with the labels? Among the most confident mistakes are pictures that many people
# would name as the net did: some labels are plainly debatable, a few look wrong. So 100 % is not
# the goal: beyond some point a higher number would mean that the net learned the labellers' slips.
#
# The table compares belief and truth. Where the net believes more than it gets right, it is
# *overconfident*. And it always answers: show it noise (last line), and it will name one of its ten
# classes.

# %%
# checkpoint: rows add up to the labels' counts; mistakes by two routes; softmax by hand
assert torch.equal(confusion.sum(1), torch.bincount(truth, minlength=count))
assert int(wrong.sum()) == len(mistakes) == round((1 - accuracy) * len(test_images))
by_hand = logits.exp() / logits.exp().sum(1, keepdim=True)
torch.testing.assert_close(by_hand, q, rtol=1e-3, atol=1e-6)
assert (sure >= 1 / count - 1e-6).all()  # the largest of ten is at least a tenth

# %% [markdown]
# ## 3.12 Features: the ruler of chapter 07
#
# **Question.** To judge generated pictures we will need a *distance* between pictures that means
# something. Pixel by pixel is a bad one. Are the 128 features better?
#
# The features $f(x)$ are what the last layer decides from, so pictures of one class should lie
# together:
#
# $$d_\text{pixels}(x, y) = \lVert x - y\rVert_2, \qquad
# d_\text{features}(x, y) = \lVert f(x) - f(y)\rVert_2.$$
#
# For a few unseen pictures we look for the **nearest neighbours** among training pictures, once by
# pixels and once by features.
#
# **Predict:** how often is the nearest one of the same class, by pixels and by features?

# %%
few = test_images.images(range(min(2_000, len(test_images))))
labels_of_few = truth[: len(few)]
reference = images.images(range(min(5_000, len(images))))
reference_labels = images.labels[: len(reference)].cpu()
f = evaluate.features(few, net).values  # (N, 128)
tables = {
    "pixels": (few.flatten(1).cpu(), reference.flatten(1).cpu()),
    "features": (f, evaluate.features(reference, net).values),
}
shown = [int((labels_of_few == k).nonzero()[0]) for k in (6, 2, 5, 8)]  # first of four classes
right, nearest = {}, {}
for name, (queries, candidates) in tables.items():
    nearest[name] = torch.cdist(queries, candidates).argsort(1)[:, :5]
    right[name] = float((reference_labels[nearest[name][:, 0]] == labels_of_few).double().mean())
    print(f"label of the nearest by {name:8}: {with_error(right[name], len(f))} right")
    near = nearest[name].to(reference.device)
    found = [torch.cat([few[[i]], reference[near[i]]]) for i in shown]
    plot.show(
        plot.grid(torch.cat(found), columns=6, title=f"unseen, then its nearest by {name}"),
        alt=f"Four rows: an unseen picture, then its five nearest training pictures by {name}.",
    )

# %% [markdown]
# By pixels the nearest agree in outline and brightness. By features they agree more often in the
# kind of thing: the two lines count it, for this one net. (Which is no wonder: it was trained on
# the labels of these very training pictures. Pixels know no labels.)
#
# Now ask of the ruler what we want of one: small for changes that do not matter, large for those
# that do. We change pictures and divide by the mean distance between two different pictures, so
# that 1 is "as far as another picture".
#
# **Predict:** a shift by two pixels is hardly visible. How far is it in pixels?

# %%
def blurred(x):
    w = KERNELS["blur"].to(x.device).expand(CHANNELS, 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), value=-1), w, groups=CHANNELS)


def relative(a, b):
    """Mean distance from a to b (N, …), in mean distances between two different rows of a."""
    return float((b - a).norm(dim=1).mean() / (a - a.roll(1, 0)).norm(dim=1).mean())


versions = {
    "moved by 1 pixel": few.roll(1, -1),
    "moved by 2 pixels": few.roll(2, -1),
    "a little noise": (few + 0.1 * torch.randn_like(few)).clamp(-1, 1),
    "blurred": blurred(few),
    "mirrored": few.flip(-1),
}
distances = {}
for name, x in versions.items():
    by_pixels = relative(few.flatten(1).cpu(), x.flatten(1).cpu())
    by_features = relative(f, evaluate.features(x, net).values)
    distances[name] = by_pixels, by_features
    print(f"{name:18} pixels {by_pixels:.2f}   features {by_features:.2f}")

# %% [markdown]
# A ruler with a character. This one net, on clothes, forgives small moves; its training pictures
# were moved by one pixel. Noise is farther by features than by pixels; it never met noise. (That
# explains not all: it was not trained on mirrored pictures, either.) So a distance on features
# depends on *who was asked*: which net, trained on what.
#
# Chapter 07 measures generated pictures with the shipped judge, and always says so: this is no FID,
# a well-known number measured on the features of another, much larger net. (The judge came from
# these lines and this seed, with another number of threads: sums in another order are rounded
# differently, and thousands of steps make two nets of that.)

# %%
said = evaluate.logits(test_images, evaluate.judge(DATA)).argmax(1)
agree = float((said == predicted).double().mean())
share = (said == truth).double().mean()
print(f"the shipped judge: {share:.2%} right; the same answer as our net: {agree:.2%}")

# %%
# checkpoint: distances by hand; features lead to the logits; a picture against itself and others
queries, candidates = tables["features"]
by_hand = (candidates - queries[0]).square().sum(1).sqrt()
torch.testing.assert_close(by_hand[nearest["features"][0, 0]], by_hand.min(), rtol=1e-3, atol=1e-3)
with torch.no_grad():
    ends = net.head(f.to(DEVICE)).cpu()
torch.testing.assert_close(ends, logits[: len(f)], rtol=1e-2, atol=1e-2)
assert relative(f, f) == 0 and abs(relative(f, f.roll(1, 0)) - 1) < 1e-3
if runtime.profile() != "smoke":
    assert right["features"] > right["pixels"] and agree > 0.9
    for name in ("moved by 1 pixel", "moved by 2 pixels"):
        assert distances[name][1] < distances[name][0]
    assert distances["a little noise"][1] > distances["a little noise"][0]

# %% [markdown]
# ## Break it: shuffle the pixels
#
# Take *one* random order of the pixels, and apply it to every picture, training and test alike. To
# your eyes all is noise now. But no information is lost: the same pixel always lands in the same
# place.
#
# We train a dense net (two layers, every pixel connected to every unit) and our convolutional net,
# on the pictures as they are and shuffled, for a short time, three seeds each. (The nets differ in
# more than convolutions: depth, BatchNorm, dropout. So compare each net with *itself*.)
#
# **Predict** the four results before you run.

# %%
shuffle = torch.randperm(SIZE * SIZE, generator=torch.Generator().manual_seed(1))

def shuffled(x):
    return x.flatten(2)[:, :, shuffle.to(x.device)].reshape(x.shape)


def as_they_are(x):
    return x

# %%
parts = {"as they are": few[:8], "shuffled": shuffled(few[:8])}
alt = "Eight pictures, and the same with their pixels shuffled: to the eye, noise."
plot.show(plot.rows(parts), alt=alt)

# %%
def dense_net(seed):
    runtime.seed_everything(seed)
    hidden, pixel_count = 8 * WIDTH, CHANNELS * SIZE * SIZE
    end = nn.Linear(hidden, len(images.classes))
    return nn.Sequential(nn.Flatten(), nn.Linear(pixel_count, hidden), nn.ReLU(), end)


def short_training(net, view, seed):
    """Train a net on pictures as `view` shows them; each seed has its own batches."""
    net = net.to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, fused=True)
    for step in range(TRIAL):
        train.set_learning_rate(train.learning_rate(step, TRIAL, LR), optimizer)
        number = seed * TRIAL + step
        labels = images.labels[images.indices(number, BATCH)].to(DEVICE)
        loss = F.cross_entropy(net(view(images.batch(number, BATCH))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def share_right(net, view):
    parts = torch.arange(len(test_images)).split(500)
    with torch.no_grad():
        said = torch.cat([net(view(test_images.images(p))).argmax(1).cpu() for p in parts])
    return float((said == truth).double().mean())

# %%
scores = {}
for kind, make in (("dense", dense_net), ("convolutional", new_net)):
    for view in (as_they_are, shuffled):
        trained = [short_training(make(seed), view, seed) for seed in SEEDS]
        scores[kind, view] = [share_right(net, view) for net in trained]
        values = "  ".join(f"{share:.1%}" for share in scores[kind, view])
        print(f"{kind:13} {view.__name__:11}  {values}  right, three seeds")

# %% [markdown]
# The dense net does not care: to it a picture was a list all along. (Its two rows differ as seeds
# do. The next cell shuffles its first weights in the same way: *exactly* the same net.)
#
# The convolutional net gets worse, with every seed. It bet that neighbours belong together and that
# places are alike; after the shuffle neither is true. It still learns, since its dense end can use
# what the maps keep. (If it still beats the dense net: they differ in more.)
#
# An architecture is a belief about the data. Where the belief is right it can save data and time.
# Where it is wrong nothing complains; it is just worse.

# %%
# checkpoint: the dense net with its weights in the same order as the pixels: the same answers
plain, reordered = dense_net(0), dense_net(0)
columns = (torch.arange(CHANNELS)[:, None] * SIZE * SIZE + shuffle).flatten()
reordered[1].weight.data = plain[1].weight.data[:, columns]
x = few[:16].cpu()
torch.testing.assert_close(reordered(shuffled(x)), plain(x), rtol=1e-4, atol=1e-5)
assert not torch.allclose(plain(shuffled(x)), plain(x), rtol=1e-2, atol=1e-2)  # without it: no
if runtime.profile() != "smoke":
    for seed in SEEDS:  # seed by seed, on the same batches
        assert scores["convolutional", shuffled][seed] < scores["convolutional", as_they_are][seed]
    assert abs(np.mean(scores["dense", shuffled]) - np.mean(scores["dense", as_they_are])) < 0.02

# %% [markdown]
# ## Exercises
#
# Five in [the exercises](../exercises/03_convolutions.ipynb), each with a check:
#
# 1. `receptive_field`: the walk through the layers, with *dilation* (gaps between the taps).
# 2. `conv2d`: several channels, stride and padding, with `unfold`.
# 3. `transposed_conv2d`: painting by hand, with the weights as PyTorch stores them.
# 4. `conv_backward`: both gradients, with stride.
# 5. `share_right`, a repair: a training goes wrong because somebody measures.

# %% [markdown]
# ## Recap
#
# - A convolution lays one small kernel on every place, multiplies and adds: a matrix whose rows
#   share few weights. Local, cheap, equivariant. If it is 1×1, it is a linear layer at each pixel.
# - Backwards, the kernel's gradient is a correlation of input and output gradient. The input's is
#   the transposed convolution, $A^\top g$. It paints; resizing first paints evenly with any
#   weights.
# - $m = \lfloor (n + 2p - k)/s \rfloor + 1$; fields grow by $(k-1)$ jumps per layer, and the middle
#   counts most.
# - A layer with ReLU multiplies the mean square by $n v/2$: start with $v = 2/n$, or have
#   BatchNorm. Our very deep stack also learned faster with $h + f(h)$.
# - A small net tells ten classes apart, is sure of some mistakes, and leaves a ruler: its features.

# %% [markdown]
# ## References
#
# - LeCun, Bottou, Bengio, Haffner 1998, *Gradient-based learning applied to document recognition*,
#   [Proc. IEEE 86(11)](https://doi.org/10.1109/5.726791): convolutions, pooling, a dense end, the
#   shuffling argument for them. We differ: ReLU, max pooling, BatchNorm, dropout, AdamW.
# - Dumoulin, Visin 2016, *A guide to convolution arithmetic for deep learning*,
#   [arXiv:1603.07285](https://arxiv.org/abs/1603.07285): sizes, and the transposed matrix. We check
#   by counting.
# - Odena, Dumoulin, Olah 2016, *Deconvolution and checkerboard artifacts*,
#   [Distill](https://distill.pub/2016/deconv-checkerboard/): uneven overlap and both cures. We add
#   that random weights are uneven with either kernel.
# - Luo, Li, Urtasun, Zemel 2016, *Understanding the effective receptive field …*,
#   [arXiv:1701.04128](https://arxiv.org/abs/1701.04128): the bell and its $\sqrt n$. They also
#   watch it grow in training.
# - Lin, Chen, Yan 2014, *Network in network*, [arXiv:1312.4400](https://arxiv.org/abs/1312.4400):
#   1×1 convolutions.

# %% [markdown]
# - He, Zhang, Ren, Sun 2015, *Delving deep into rectifiers*,
#   [arXiv:1502.01852](https://arxiv.org/abs/1502.01852): the variance and ReLU's half.
# - He, Zhang, Ren, Sun 2016, *Identity mappings in deep residual networks*,
#   [arXiv:1603.05027](https://arxiv.org/abs/1603.05027): the term $I$, and ReLU first. They use
#   BatchNorm and blocks of two or three layers; we one layer and $1/\sqrt L$.
# - Radford, Metz, Chintala 2016, *DCGAN*, [arXiv:1511.06434](https://arxiv.org/abs/1511.06434):
#   0.02 and no fully connected hidden layers. The reason given for 0.02 is ours.
# - Ioffe, Szegedy 2015, *Batch normalization*,
#   [arXiv:1502.03167](https://arxiv.org/abs/1502.03167); Srivastava et al. 2014, *Dropout*, [JMLR
#   15](https://jmlr.org/papers/v15/srivastava14a.html). We rescale dropout in training, they did it
#   in use.
# - Xiao, Rasul, Vollgraf 2017, *Fashion-MNIST*,
#   [arXiv:1708.07747](https://arxiv.org/abs/1708.07747): the pictures and labels.
