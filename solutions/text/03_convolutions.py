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
# # 3 · Exercises: convolutions
#
# Five functions to write, for [chapter 03](../chapters/03_convolutions.ipynb): what a unit sees, a
# convolution of several channels, its way back, both gradients, and a measurement to repair. How to
# work, and how to read what the checks say, is in the [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/03_convolutions.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from gencourse import data, plot
from gencourse.checks import check

plot.style()

# %%
images, unseen = data.load("digits", device="cpu"), data.load("digits", split="test", device="cpu")
print(images)

# %%
picture = images.images([0])  # (1, 1, 16, 16) in [-1, 1]
edges = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8  # what gets brighter to the right


# %%
def show_maps(maps, alt):
    """Maps (H, W) side by side, each with its name; grey is zero."""
    fig, axes = plt.subplots(1, len(maps), figsize=(1.5 * len(maps), 1.9))
    for ax, (name, x) in zip(axes, maps.items(), strict=True):
        limit = float(x.abs().max().clamp(min=1e-9))
        ax.imshow(x, vmin=-limit, vmax=limit)
        ax.set_title(name, fontsize=9)
        ax.set_axis_off()
    plot.show(fig, alt=alt)


# %% [markdown]
# ## 3.1 · Seeing far with few weights
#
# *warm-up · 10 minutes · `receptive_field`*
#
# Before a net can know a shoe from a boot, one unit must see all of it. A **dilated** convolution
# looks farther for free: its $k$ taps are $d$ units apart, with gaps between them ($d = 1$ is the
# ordinary one). Extend the chapter's walk through the layers, with field $r$ and jump $j$.
#
# `layers`: a list of (kernel, stride, dilation). Return the pair (side of the field, jump), both in
# pixels of the input; without any layer that is (1, 1). **Predict:** how far do three taps see with
# $d = 4$?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Draw three taps with $d = 2$ on squared paper: how many squares from the first to the last?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The taps span $(k - 1)\,d$ units, and each unit is $j$ pixels from the next. The jump changes
# afterwards, by the stride alone.
#
# </details>

# %%
def receptive_field(layers):
    """Side of the field and jump of layers (kernel, stride, dilation) → (int, int) [pixels]."""
    # BEGIN SOLUTION
    field, jump = 1, 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * jump
        jump *= stride
    return field, jump
    # END SOLUTION


# %%
check("receptive_field", receptive_field)

for name, dilations in (("ordinary", [1] * 5), ("dilated", [1, 2, 4, 8, 16])):
    field, _ = receptive_field([(3, 1, d) for d in dilations])
    stack = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=d, dilation=d) for d in dilations])
    for layer in stack:
        nn.init.ones_(layer.weight)
    x = torch.randn(1, 1, 99, 99, requires_grad=True)
    stack(x)[0, 0, 49, 49].backward()
    rows = x.grad[0, 0].sum(1).nonzero()
    seen = int(rows.max() - rows.min()) + 1
    print(f"five 3×3 layers, {name:8}: field {field}, measured by the gradient {seen}")

# %% [markdown]
# ## 3.2 · A convolution of several channels
#
# *core · 25 minutes · `conv2d`*
#
# The chapter slid one kernel over one picture. A layer has a kernel for each pair of channels:
#
# $$y[b, o, i, j] = \sum_{c, u, v} w[o, c, u, v]\;x[b, c, s\,i + u, s\,j + v].$$
#
# `x`: (B, C, H, W); `w`: (O, C, K, L), kernels may be oblong; `stride` $s$; `padding` $p$: before
# all else, $p$ rows and columns of zeros on each side. Return (B, O, H′, W′), differentiable in
# both. The point is to write it without `F.conv2d`, and without a loop over pixels.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `F.pad(x, (p, p, p, p))` pads rows and columns. `x.unfold(2, K, s)` cuts dimension 2 into windows
# of length K and puts them into a new *last* dimension. Do it for dimension 3 as well, and print
# the shape.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# After two `unfold`s the shape is (B, C, H′, W′, K, L). The formula is then one `torch.einsum`: sum
# over the letters of C, K and L.
#
# </details>

# %%
def conv2d(x, w, stride, padding):
    """Cross-correlation: x (B, C, H, W), w (O, C, K, L) → (B, O, H′, W′)."""
    # BEGIN SOLUTION
    x = F.pad(x, (padding,) * 4)
    windows = x.unfold(2, w.shape[2], stride).unfold(3, w.shape[3], stride)
    return torch.einsum("bchvkl,ockl->bohv", windows, w)
    # END SOLUTION


# %%
check("conv2d", conv2d)

both = torch.stack([edges, edges.T])[:, None]  # (2, 1, 3, 3)
across, down = conv2d(picture, both, 1, 1)[0]
small = conv2d(picture, both, 2, 1)[0, 0]
maps = {"x": picture[0, 0], "left to right": across, "top to bottom": down, "stride 2": small}
show_maps(maps, "A digit, its two maps of edges, and one of them at half the size.")

# %% [markdown]
# ## 3.3 · The way back: painting
#
# *core · 25 minutes · `transposed_conv2d`*
#
# Every convolutional generator grows its pictures with this. Each input pixel lays down its kernel,
# scaled, $s$ pixels from the next; overlaps add up; at last the outer $p$ rows and columns are cut
# off each side.
#
# $$x[b, o, m, n] = \sum_{c, i, j} y[b, c, i, j]\;w[c, o, m - s\,i, n - s\,j]$$
#
# `y`: (B, C, H, W); `w`: (C, O, K, L), *input* channels first, as PyTorch stores it. Return
# (B, O, (H − 1)·s + K − 2p, (W − 1)·s + L − 2p), differentiable in both. Without
# `F.conv_transpose2d`; loops over pixels are fine.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Start from zeros of the size without cropping. For each $(i, j)$: what does the vector
# `y[:, :, i, j]` (B, C) paint with `w` (C, O, K, L)? A stamp (B, O, K, L).
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `stamp = torch.einsum("bc,cokl->bokl", y[:, :, i, j], w)`, added with `+=` to the window that
# begins at $(s\,i, s\,j)$. Crop with slices that also work for $p = 0$.
#
# </details>

# %%
def transposed_conv2d(y, w, stride, padding):
    """Transposed convolution: y (B, C, H, W), w (C, O, K, L) → (B, O, H′, W′)."""
    # BEGIN SOLUTION
    (B, _, H, W), (_, outputs, K, L) = y.shape, w.shape
    x = y.new_zeros(B, outputs, (H - 1) * stride + K, (W - 1) * stride + L)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("bc,cokl->bokl", y[:, :, i, j], w)
            x[:, :, i * stride : i * stride + K, j * stride : j * stride + L] += stamp
    return x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding]
    # END SOLUTION


# %% [markdown]
# Below the check three kernels of ones paint an even map. **Predict** which of them leaves a
# chequerboard: 3×3, 4×4 or 5×5, all with stride 2?

# %%
check("transposed_conv2d", transposed_conv2d)

even = torch.ones(1, 1, 6, 6)
sheets = {}
for k in (3, 4, 5):
    sheets[f"{k} × {k}"] = transposed_conv2d(even, torch.ones(1, 1, k, k), 2, 1)[0, 0]
show_maps(sheets, "Painted by 3×3 and 5×5 kernels a chequerboard; by 4×4 even, but for the rim.")
for name, x in sheets.items():
    print(f"{name}: values inside {sorted({int(v) for v in x[4:8, 4:8].flatten()})}")

# %% [markdown]
# ## 3.4 · Both gradients, with stride
#
# *stretch · 35 minutes · `conv_backward`*
#
# The chapter derived them for one kernel and stride 1. Now $y$ is as in 3.2, without padding, and
# the layers above send $g = \partial L/\partial y$. Derive $\partial L/\partial x$ and $\partial
# L/\partial w$ from the formula: each is a sum over all places where that number was used.
#
# `x`: (B, C, H, W); `w`: (O, C, K, L); `g`: (B, O, H′, W′); `stride`. Return the pair (gradient of
# `x`, gradient of `w`), shaped as they are. Not every row of `x` need lie under a window.
# No autograd; a loop over the K·L taps or over the places is fine.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Fix one place $(i, j)$. Its window `x[:, :, s*i : s*i + K, s*j : s*j + L]` was multiplied by `w`,
# and the result is answered by `g[:, :, i, j]` (B, O). What does this place add to each gradient?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# To the window of $x$'s gradient: `einsum("bo,ockl->bckl", g[:, :, i, j], w)`. To $w$'s gradient:
# `einsum("bo,bckl->ockl", g[:, :, i, j], window)`, which sums over the batch.
#
# </details>

# %%
def conv_backward(x, w, g, stride):
    """Gradients of x (B, C, H, W) and w (O, C, K, L), given that of y (B, O, H′, W′)."""
    # BEGIN SOLUTION
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
    K, L = w.shape[2:]
    for i in range(g.shape[2]):
        for j in range(g.shape[3]):
            rows, columns = slice(i * stride, i * stride + K), slice(j * stride, j * stride + L)
            above = g[:, :, i, j]  # (B, O)
            grad_x[:, :, rows, columns] += torch.einsum("bo,ockl->bckl", above, w)
            grad_w += torch.einsum("bo,bckl->ockl", above, x[:, :, rows, columns])
    return grad_x, grad_w
    # END SOLUTION


# %% [markdown]
# A gradient is good for descent. Below the check, a hidden kernel is found from what it made of
# noise with stride 2: your gradient of $w$, 30 steps, no autograd anywhere.

# %%
check("conv_backward", conv_backward)

x = torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))
target = F.conv2d(x, edges[None, None], stride=2)
found = torch.zeros(1, 1, 3, 3)
film = {"start": found[0, 0].clone()}
for step in range(1, 31):
    g = 2 * (F.conv2d(x, found, stride=2) - target) / target.numel()
    found = found - 0.2 * conv_backward(x, found, g, 2)[1]
    if step in (1, 5, 30):
        film[f"step {step}"] = found[0, 0].clone()
show_maps({**film, "hidden": edges}, "A kernel at four moments, ever more like the hidden one.")

# %% [markdown]
# ## 3.5 · Repair: a thermometer that cools the tea
#
# *core · 15 minutes · repair · `share_right`*
#
# Somebody measures, every now and then, how many unseen digits a net gets right. Measuring should
# not change what is measured. So two trainings from one seed, one that measures and one that never
# does, must have the same losses, to the last digit. Here are the net and its training:

# %%
def make_net():
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 4 * 4, 10))  # → (B, 10) logits


# %%
def losses_of_training(measure, every, steps=60):
    """The loss at every step of a short training that measures every so many steps."""
    torch.manual_seed(0)
    net, history = make_net(), []
    for step in range(steps):
        if step and step % every == 0:
            measure(net, unseen.images(range(len(unseen))), unseen.labels, 100)
        rows = images.indices(step, 64)
        loss = F.cross_entropy(net(images.images(rows)), images.labels[rows])
        net.zero_grad()
        loss.backward()
        with torch.no_grad():  # plain gradient descent
            for weight in net.parameters():
                weight -= 0.05 * weight.grad
        history.append(loss.item())
    return history


# %% [markdown]
# And here is how the share of right answers is measured. In eval mode, without gradients, in parts
# that fit into memory, counting before dividing: much is done well.

# %%
def broken_share_right(net, x, labels, batch_size):
    net.eval()
    right = 0
    with torch.no_grad():
        for part, truth in zip(x.split(batch_size), labels.split(batch_size), strict=True):
            right += (net(part).argmax(1) == truth).sum().item()
    return right / len(x)


# %%
def draw_losses(measure, alt):
    fig, ax = plt.subplots()
    for every, look, label in ((100, "k", "never measured"), (20, plot.FOURTH, "every 20 steps")):
        ax.plot(losses_of_training(measure, every), color=look, label=label)
    for step in (20, 40):
        ax.axvline(step, color="0.8", linewidth=1, zorder=0)
    ax.set(xlabel="step", ylabel="training loss [nats]", ylim=(0, None))
    ax.legend()
    plot.show(ax, alt=alt)


# %%
draw_losses(broken_share_right, "Two equal loss curves, until the first measurement at step 20.")

# %% [markdown]
# Up to the first grey line the curves are one; there they part, and the measured net's loss jumps.
# So the act of measuring leaves something behind in the net. The curves don't say what. A net holds
# more than its weights: list what else `make_net()` carries along, and which of that the function
# touches.
#
# Write `share_right`: `net` gives logits (B, K), `x` is (N, …), `labels` (N,) whole numbers. Return
# the share of right answers as a number; the last batch may be smaller. The net must leave as it
# came: some come in training mode, some in eval mode.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Print `net.training` before and after a measurement. What does BatchNorm do differently then?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Remember the mode before you change it; `net.train(mode)` sets either one. Taking `net.eval()` out
# is no cure: then BatchNorm's running averages learn from the test.
#
# </details>

# %%
def share_right(net, x, labels, batch_size):
    """Share of x (N, …) that the net classifies as labels (N,) say → number in [0, 1]."""
    # BEGIN SOLUTION
    mode, right = net.training, 0
    net.eval()
    with torch.no_grad():
        for part, truth in zip(x.split(batch_size), labels.split(batch_size), strict=True):
            right += (net(part).argmax(1) == truth).sum().item()
    net.train(mode)
    return right / len(x)
    # END SOLUTION


# %%
check("share_right", share_right)

draw_losses(share_right, "Now the two loss curves are one: measuring changes nothing.")

# %% [markdown]
# ## What you have now
#
# A convolution with all its parts, its way back, its gradients, and a measurement that leaves the
# net alone. Next: [chapter 04](../chapters/04_first_gan.ipynb), where two networks train each
# other.
