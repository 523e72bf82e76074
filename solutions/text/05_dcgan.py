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
# # 5 · Exercises: DCGAN
#
# Five functions to write, for [chapter 05](../chapters/05_dcgan.ipynb): the small parts on which a
# DCGAN stands or falls. Fill the empty answers and run the cell under each: it says ✓, or what is
# not right yet. How to work is in the [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/05_dcgan.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
from contextlib import contextmanager

import matplotlib.pyplot as plt
import torch
from torch import nn

from gencourse import data, plot
from gencourse.checks import check

plot.style()

# %% [markdown]
# ## 5.1 · From 5 pixels to 40
#
# *warm-up · 10 minutes · `transposed_size`*
#
# Whoever designs a generator adds up sides before anything runs. Chapter 05 has the side after
# *one* transposed convolution of kernel $k$, stride $s$ and padding $p$. Here there are several
# layers, and each has a fourth number, the **output padding** $o$: that many rows and columns more,
# at one end only.
#
# `n`: a whole number; `layers`: a list of `(k, s, p, o)`, first layer first. Return the side after
# the last one, a whole number; without layers that is `n`. Work it out: don't run a net.

# %% [markdown]
# Before you run it: why does anybody need $o$? Into which side does a *convolution* with $k = 3$,
# $s = 2$, $p = 1$ turn 9 pixels, and into which 10?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Draw it for 3 pixels, $k = 4$, $s = 2$: the first pixel paints places 0 to 3, the second 2 to 5.
# Where does the last one end? Then cut $p$ places off each end.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The last of $n$ pixels begins at $(n - 1)\,s$ and paints $k$ places from there. Both padding cuts
# make the side smaller, $o$ makes it larger, and the result is the next layer's $n$.
#
# </details>

# %%
def transposed_size(n, layers):
    """Side [pixels] after transposed convolutions (k, s, p, o), for n pixels at the start."""
    # BEGIN SOLUTION
    for k, s, p, o in layers:
        n = (n - 1) * s - 2 * p + k + o
    return n
    # END SOLUTION


# %%
check("transposed_size", transposed_size)
for layers in ([(4, 2, 1, 0)] * 3, [(3, 2, 1, 1)] * 3, [(3, 2, 1, 0)] * 3):
    net = nn.Sequential(*[nn.ConvTranspose2d(1, 1, k, s, p, o) for k, s, p, o in layers])
    real = net(torch.zeros(1, 1, 5, 5)).shape[-1]
    print(f"from 5 pixels by {layers}: {transposed_size(5, layers)}, PyTorch says {real}")

# %% [markdown]
# ## 5.2 · A small start
#
# *core · 20 minutes · `dcgan_init`*
#
# `net.apply(f)` calls `f` with every module inside a net, and with the net itself. Write the `f`
# that gives a net DCGAN's first weights, for *anybody's* net:
#
# - weights of convolutions, transposed convolutions and linear layers: normal, mean 0, standard
#   deviation 0.02;
# - BatchNorm's scale, its `weight`: normal, mean **1**, standard deviation 0.02 (1d and 2d);
# - all their biases: 0. Running statistics and every other kind of layer: left alone.
#
# `module`: any `nn.Module`. It is changed in place; what you return doesn't matter.
#
# Before you run it: what would a scale around 0 do to a picture on its way through the net?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `isinstance(module, nn.Conv2d)`. A layer may have no bias (`bias=False`), a BatchNorm may have
# neither scale nor shift (`affine=False`): their attribute is then `None`.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `nn.init.normal_(tensor, mean, std)` and `nn.init.zeros_(tensor)` write into a weight without
# recording a gradient. Two branches are enough: layers with weights around 0, and BatchNorm.
#
# </details>

# %%
def dcgan_init(module):
    """Give a convolution, linear layer or BatchNorm its first weights, in place."""
    # BEGIN SOLUTION
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    # END SOLUTION


# %%
check("dcgan_init", dcgan_init)

# %% [markdown]
# ## 5.3 · The average that samples are drawn from
#
# *core · 15 minutes · `ema_update`*
#
# Players of this game circle; their average stands still. After each training step the averaged
# net $\bar\theta$ moves a little towards the trained one:
#
# $$\bar\theta \leftarrow \lambda\,\bar\theta + (1-\lambda)\,\theta$$
#
# `average`, `source`: two nets of the same kind; `decay`: $\lambda$, between 0 and 1. The update is
# in place, nothing is returned, and `source` must not change. All floating-point numbers of a net
# are averaged: its weights **and** BatchNorm's running mean and variance. (BatchNorm also counts
# its batches, in a whole number: do with that what you like.)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `net.parameters()` lists what an optimizer may change. Running statistics are *buffers*: see
# `net.buffers()`, or `net.state_dict()`, which has both.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The tensors in `state_dict()` are the net's own memory: writing *into* them changes the net.
# `a.lerp_(b, w)` is `a + w (b − a)` in place. Which $w$ makes that the formula? And what has to
# switch autograd off meanwhile?
#
# </details>

# %%
def ema_update(average, source, decay):
    """Move a net's averages, weights and running statistics, towards the source's, in place."""
    # BEGIN SOLUTION
    new = source.state_dict()
    with torch.no_grad():
        for name, value in average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(new[name], 1 - decay)
    # END SOLUTION


# %%
check("ema_update", ema_update)
trained, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
nn.init.zeros_(average.weight)
path, smooth = [], []
for step in range(400):  # a weight that swings, as the players of chapter 02 do
    nn.init.constant_(trained.weight, 1 + torch.tensor(step / 10).sin().item())
    ema_update(average, trained, 0.99)
    path.append(trained.weight.item())
    smooth.append(average.weight.item())
fig, ax = plt.subplots(figsize=(5.4, 2.6))
ax.plot(path, color="0.7", label="trained weight")
ax.plot(smooth, color=plot.FAKE, label="its average")
ax.set(xlabel="step", ylabel="weight", ylim=(-0.1, 2.7))
ax.legend(loc="upper right", ncols=2)
plot.show(fig, alt="A weight that swings between 0 and 2; its average moves towards 1 and stays.")

# %% [markdown]
# ## 5.4 · Frozen, and always thawed again
#
# *stretch · 25 minutes · `freeze`*
#
# In G's step D needs no gradients of its own. Chapter 05 writes `D.requires_grad_(False)` before
# and `(True)` after. Two things can go wrong: an error or Ctrl-C in between, and a D of which some
# weights were frozen *on purpose*. A **context manager** has a place for the cleaning up:
#
# ```python
# with freeze(D):
#     losses.generator_loss(D(x_fake)).backward()
# ```
#
# `net`: any module. Inside the block none of its weights gets a gradient, and gradients still flow
# *through* it to its input. After the block every weight has the `requires_grad` that it had
# before, whatever happened inside, and an error inside is not hidden. Blocks may be nested.

# %% [markdown]
# With `@contextmanager`, what stands before the `yield` is done on the way in, what stands after it
# on the way out. An error inside the block comes up *at the `yield`*. A small example, and how it
# fails:

# %%
@contextmanager
def polite():
    print("good morning")
    yield
    print("good night")


try:
    with polite():
        raise ValueError
except ValueError:
    print("… and nobody said good night")

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which Python statement runs its second part in any case: after an error, after Ctrl-C, after a
# `return`? And what do you need to know after the block that is forgotten once it is overwritten?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# First a list of all flags, `[p.requires_grad for p in net.parameters()]`; then `try: yield`, and
# in the `finally` each weight gets back its own. `torch.no_grad()` is no help: it cuts the path to
# the input as well.
#
# </details>

# %%
@contextmanager
def freeze(net):
    """Freeze a net's weights within a `with` block; afterwards each is as it was."""
    # BEGIN SOLUTION
    flags = [parameter.requires_grad for parameter in net.parameters()]
    net.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in zip(net.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
    # END SOLUTION


# %%
check("freeze", freeze)

# %% [markdown]
# ## 5.5 · Repair: the look that changed everything
#
# *core · 15 minutes · repair · `look_at`*
#
# A colleague trains a small GAN on digits and looks at 64 samples every 50 steps, always from the
# same noise, in eval mode, as one should. Nothing crashes and both losses look ordinary. But it
# makes a difference to the *training* whether somebody looks, and that should not be.

# %%
def broken_look(G, z):
    """Samples of G (N, …) for the noise z (N, Z), in eval mode."""
    G.eval()
    with torch.no_grad():
        return G(z)


# %%
images = data.load("digits")
softplus = nn.functional.softplus


def small_pair():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(16, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 256),
                      nn.Tanh(), nn.Unflatten(1, (1, 16, 16)))
    D = nn.Sequential(nn.Flatten(), nn.Linear(256, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1),
                      nn.Flatten(0))
    return G, D


# %%
def train(look, steps=300, every=50):
    """Train a small GAN. Returns, for each step, the spread of what BatchNorm hands on."""
    G, D = small_pair()
    g_opt, d_opt = (torch.optim.Adam(n.parameters(), 2e-3, betas=(0.5, 0.999)) for n in (G, D))
    z_still, spreads = torch.randn(64, 16), []
    normalised = []
    G[1].register_forward_hook(lambda m, x, y: normalised.append((y - m.bias) / m.weight))
    for step in range(steps):
        x_real, x_fake = images.batch(step, 64).cpu(), G(torch.randn(64, 16))
        spreads.append(normalised[-1].std(dim=0, correction=0).mean().item())
        d_loss = (softplus(-D(x_real)) + softplus(D(x_fake.detach()))).mean()
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        g_loss = softplus(-D(x_fake)).mean()
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        if (step + 1) % every == 0:
            look(G, z_still)
    print(f"after {steps} steps: D's loss {d_loss:.2f}, G's loss {g_loss:.2f} nats")
    return spreads


# %%
fig, ax = plt.subplots(figsize=(5.4, 2.6))
ax.plot(train(broken_look), color=plot.FAKE)
ax.axvline(50, color="0.5", linestyle=":")
ax.set(xlabel="step", ylabel="spread behind BatchNorm", ylim=(0.5, 1.1))
plot.show(fig, alt="The standard deviation of what BatchNorm hands on in training: 1 up to the "
          "first look at step 50, then drifting away from 1.")

# %% [markdown]
# While it trains, BatchNorm brings each batch to mean 0 and standard deviation 1: that is its job.
# Up to the first look (dotted) the curve does nothing else. After it the job is no longer done. The
# figure says *when* it happens. It doesn't say that the pictures are bad: with one BatchNorm they
# may look much the same, and with ten of them they won't.
#
# Write the mended look. `G`: any net; `z`: its input. Return G's samples in eval mode, without
# gradients. Afterwards training goes on as if nobody had looked. Somebody may also look at a net
# that is in eval mode already, and stays there.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which line of `train` would have to set G back? It isn't there, and it should not have to be: who
# changes something for a moment puts it back.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `G.training` is `True` or `False`; `G.train(mode)` sets it. Looking in training mode is no way
# out: samples would depend on each other, and the look would move the running statistics.
#
# </details>

# %%
def look_at(G, z):
    """Samples of G for z, in eval mode; G is left in the mode it was in."""
    # BEGIN SOLUTION
    before = G.training
    G.eval()
    with torch.no_grad():
        x = G(z)
    G.train(before)
    return x
    # END SOLUTION


# %%
check("look_at", look_at)
fig, ax = plt.subplots(figsize=(5.4, 2.6))
ax.plot(train(look_at), color=plot.FAKE)
ax.set(xlabel="step", ylabel="spread behind BatchNorm", ylim=(0.5, 1.1))
plot.show(fig, alt="With the mended look the spread behind BatchNorm stays at 1.")

# %% [markdown]
# ## What you have now
#
# The parts around a DCGAN that nobody sees in its pictures: sides that fit, a start that trains, an
# average with its statistics, and two ways to touch a net for a moment and leave no trace. Next:
# [chapter 06](../chapters/06_mode_collapse.ipynb), where good pictures are not enough.
