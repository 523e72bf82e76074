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
# # 4 · Exercises: the first GAN
#
# Five functions to write, for [chapter 04](../chapters/04_first_gan.ipynb): both losses, what label
# smoothing does to the best judge, what a generator without a judge learns, one step of the loop,
# and a loop to repair. How to work, and how to read what the checks say, is in the [page for
# learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/04_first_gan.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from gencourse import data, plot
from gencourse.checks import check

# %%
plot.style()
images = data.load("digits", device="cpu")
print(images)

# %% [markdown]
# ## 4.1 · Both losses from one softplus
#
# *warm-up · 15 minutes · `gan_losses`*
#
# Most GANs of this course train on these two numbers. With logits $a$ and $D = \sigma(a)$, and
# with *one-sided label smoothing*, which asks of $D$ to be only $t$-sure of real pictures:
#
# $$L_D = -\mathbb E_p\big[t\log D + (1 - t)\log(1 - D)\big] - \mathbb E_q[\log(1 - D)],
# \qquad L_G = -\mathbb E_q[\log D].$$
#
# `real_logits`: (N,), `fake_logits`: (M,), N and M may differ; `target` $t$, where 1.0 means no
# smoothing. Return the pair ($L_D$, $L_G$), scalars in nats, differentiable in both, exact for
# logits of ±200. **Predict:** $L_D$ for $t = 0.9$ when $D$ says ½ to everything?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# $-\log\sigma(a) = \mathrm{softplus}(-a)$. What is $-\log(1 - \sigma(a))$?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# It is $\mathrm{softplus}(a)$. So real pictures cost $t\,\mathrm{softplus}(-a) + (1 - t)\,
# \mathrm{softplus}(a)$ each, generated ones $\mathrm{softplus}(a)$, and $G$'s loss has no $t$.
#
# </details>

# %%
def gan_losses(real_logits, fake_logits, target):
    """L_D with a target for real pictures, and L_G: logits (N,), (M,) → two scalars [nats]."""
    # BEGIN SOLUTION
    real = target * F.softplus(-real_logits) + (1 - target) * F.softplus(real_logits)
    d_loss = real.mean() + F.softplus(fake_logits).mean()
    return d_loss, F.softplus(-fake_logits).mean()
    # END SOLUTION


# %%
check("gan_losses", gan_losses)

for logit in (0.0, 2.2, 10.0):
    sure = torch.tensor([logit])
    d_losses = [gan_losses(sure, -sure, target)[0].item() for target in (1.0, 0.9)]
    print(f"right with logit ±{logit:4}: L_D {d_losses[0]:.3f}, smoothed {d_losses[1]:.3f} nats")

# %% [markdown]
# ## 4.2 · What smoothing does to the best judge
#
# *core · 20 minutes · `smoothed_optimum`*
#
# Some code smooths one side, some both. With targets $\alpha$ for real and $\beta$ for generated
# pictures, $D$ minimises
#
# $$-\mathbb E_p\big[\alpha\log D + (1 - \alpha)\log(1 - D)\big]
# - \mathbb E_q\big[\beta\log D + (1 - \beta)\log(1 - D)\big].$$
#
# Derive the best $D$, point by point, as chapter 02 did for $\alpha = 1$, $\beta = 0$. `p`, `q`:
# densities at the same points, two tensors (…), never both 0, though far out both may be as small
# as 1e-30; `real_target` $\alpha$, `fake_target` $\beta$: numbers. Return $D^*$, (…).

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# At one $x$ the integrand is $-\big[a\log y + b\log(1 - y)\big]$ with $y = D(x)$. What are $a$ and
# $b$ now? Both contain $p$ and $q$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $a = \alpha p + \beta q$ and $b = (1 - \alpha)p + (1 - \beta)q$. As before $y = a/(a + b)$, and
# the sum is simple.
#
# </details>

# %%
def smoothed_optimum(p, q, real_target, fake_target):
    """The best D for smoothed targets, from densities p, q (…) → (…) [probability]."""
    # BEGIN SOLUTION
    return (real_target * p + fake_target * q) / (p + q)
    # END SOLUTION


# %% [markdown]
# Below the check are the *logits* of three best judges. The generator climbs them. **Predict:**
# where only generated points are (far left), which of them still have a slope?

# %%
check("smoothed_optimum", smoothed_optimum)

x = torch.linspace(-6, 6, 241, dtype=torch.float64)
p, q = torch.exp(-0.5 * (x - 2) ** 2), torch.exp(-0.5 * (x + 2) ** 2)
fig, ax = plt.subplots()
ax.fill_between(x, -6 + 3 * p, -6, color=plot.REAL, alpha=0.25, label="p, real (scaled)")
ax.fill_between(x, -6 + 3 * q, -6, color=plot.FAKE, alpha=0.25, label="q, generated (scaled)")
for targets, look in (((1.0, 0.0), "-"), ((0.9, 0.0), "--"), ((0.9, 0.1), ":")):
    logits = smoothed_optimum(p, q, *targets).logit()
    ax.plot(x, logits, look, color=plot.THIRD, label=f"α = {targets[0]}, β = {targets[1]}")
ax.set(xlabel="x", ylabel="logit of the best D", ylim=(-6, 8))
ax.legend(fontsize=8, loc="upper left")
plot.show(ax, alt="Without smoothing a straight line; with α = 0.9 it is flat at the right, where "
          "data are; with β = 0.1 it is flat at the left too, where the generated points are.")

# %% [markdown]
# ## 4.3 · The best constant picture
#
# *core · 15 minutes · `best_constant`*
#
# A generator trained against random real pictures learns one constant $c$, whatever its noise.
# Which one depends on the loss. With pictures $x_n$ and pixels $k$, minimise
#
# - `"squared"`: $\sum_k \frac1N\sum_n (c_k - x_{nk})^2$,
# - `"absolute"`: $\sum_k \frac1N\sum_n |c_k - x_{nk}|$ (N is odd here),
# - `"largest"`: $\sum_k \max_n |c_k - x_{nk}|$.
#
# `pictures`: (N, C, H, W); `loss`: one of the three names. Return the best $c$, (C, H, W), exactly.
# **Predict** for digits: will any of the three be readable?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The pixels don't disturb each other, so solve it for N numbers on a line. For the second: move $c$
# a little; how many distances grow, and how many shrink?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Mean; median; half-way between the smallest and the largest. `amax`, `amin`, `median` and `mean`
# take `dim=0`; `median` returns a pair.
#
# </details>

# %%
def best_constant(pictures, loss):
    """The best constant picture for a loss: pictures (N, C, H, W) → (C, H, W)."""
    # BEGIN SOLUTION
    if loss == "squared":
        return pictures.mean(dim=0)
    if loss == "absolute":
        return pictures.median(dim=0).values
    return (pictures.amax(dim=0) + pictures.amin(dim=0)) / 2
    # END SOLUTION


# %%
check("best_constant", best_constant)

names = ("squared", "absolute", "largest")
constants = [best_constant(images.images(range(1_499)), name) for name in names]
fig, axes = plt.subplots(1, 4, figsize=(6, 1.8))
plot.grid(images.images([0]), ax=axes[0], title="a real one")
for ax, name, constant in zip(axes[1:], names, constants, strict=True):
    plot.grid(constant[None], ax=ax, title=name)
plot.show(fig, alt="A real zero; the average digit, a blur; the median, as shapeless with harder "
          "edges; and for the largest even grey, dark at the sides.")

# %% [markdown]
# ## 4.4 · One step of the loop
#
# *stretch · 30 minutes · `gan_step`*
#
# Both turns of a GAN's training step, on one batch. First $D$ takes a step down $L_D$ (without
# smoothing); then $G$ takes one down $L_G$, through the $D$ that has just learned, with the *same*
# noise. Nothing may be left over from one turn, or from one step, to the next.
#
# `G`: `z` (B, Z) → pictures; `D`: pictures → logits (B,); `g_opt`, `d_opt`: an optimizer of each
# one's weights; `x_real`: (B, …). The weights change in place. Return the pair ($L_D$, $L_G$), each
# as it was before its own step: two numbers, or tensors *without their graphs*, so that whoever
# keeps the losses of a long training doesn't keep its graphs in memory. The check compares all
# weights after several steps.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write down for each of the two `backward()` calls which weights' `.grad` it fills, and for each
# `zero_grad()` which it empties. `x_fake.detach()` is the same picture without its history.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Each turn is: loss, own `zero_grad()`, `backward()`, own `step()`. In $D$'s turn use
# `D(x_fake.detach())`; in $G$'s call `D(x_fake)` anew, after `d_opt.step()`.
#
# </details>

# %%
def gan_step(G, D, g_opt, d_opt, x_real, z):
    """One step of D, then one of G, on real pictures (B, …) and noise (B, Z) → (L_D, L_G)."""
    # BEGIN SOLUTION
    x_fake = G(z)

    d_loss = F.softplus(-D(x_real)).mean() + F.softplus(D(x_fake.detach())).mean()
    d_opt.zero_grad()  # also empties what G's last turn left in D
    d_loss.backward()
    d_opt.step()

    g_loss = F.softplus(-D(x_fake)).mean()  # the new D's opinion
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    return d_loss.detach(), g_loss.detach()
    # END SOLUTION


# %% [markdown]
# Below the check your step trains the two nets of the next cell on digits, for a few seconds.

# %%
def make_pair(z_dim=32, width=128):
    torch.manual_seed(0)
    G = [nn.Linear(z_dim, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 256)]
    D = [nn.Flatten(), nn.Linear(256, width), nn.LeakyReLU(0.2), nn.Linear(width, 1), nn.Flatten(0)]
    return nn.Sequential(*G, nn.Tanh(), nn.Unflatten(1, (1, 16, 16))), nn.Sequential(*D)


# %%
check("gan_step", gan_step)

G, D = make_pair()
g_opt, d_opt = (torch.optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.999)) for net in (G, D))
noise, film = torch.randn(8, 32), []
for step in range(1, 401):
    d_loss, g_loss = gan_step(G, D, g_opt, d_opt, images.batch(step, 64), torch.randn(64, 32))
    if step in (1, 60, 400):
        film.append(G.eval()(noise).detach())
        G.train()
print(f"after {step} steps: L_D = {d_loss:.2f}, L_G = {g_loss:.2f} nats")
ax = plot.grid(torch.cat(film), columns=8, title="the same noise after 1, 60 and 400 steps")
plot.show(ax, alt="Three rows of the same noise: grey, blots, and first shapes of digits.")

# %% [markdown]
# ## 4.5 · Repair: a judge that is worse than a coin
#
# *core · 20 minutes · repair · `train_pair`*
#
# This loop trains a pair of nets on points in the plane. It detaches, it zeroes, and the generated
# points do arrive. Yet something is wrong with its losses.

# %%
def broken_training(G, D, x_real, z, rate):
    """Train on batches x_real (T, B, 2), z (T, B, Z); returns the lists of L_D and of L_G."""
    whole = nn.Sequential(G, D)  # noise → logit
    g_opt = torch.optim.SGD(whole.parameters(), lr=rate)
    d_opt = torch.optim.SGD(D.parameters(), lr=rate)
    d_losses, g_losses = [], []
    for x, noise in zip(x_real, z, strict=True):
        g_opt.zero_grad()  # a clean start for all weights
        d_loss = F.softplus(-D(x)).mean() + F.softplus(D(G(noise).detach())).mean()
        d_loss.backward()
        d_opt.step()

        g_loss = F.softplus(-whole(noise)).mean()
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        d_losses.append(d_loss.item())
        g_losses.append(g_loss.item())
    return d_losses, g_losses


# %%
def points_in_the_plane(train, steps=500):
    """A training on points around (4, 0): both losses, and 300 generated points."""
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    D = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    x_real, z = 0.5 * torch.randn(steps, 64, 2), torch.randn(steps, 64, 2)
    d_losses, g_losses = train(G, D, x_real + torch.tensor([4.0, 0.0]), z, 0.1)
    return d_losses, g_losses, G(torch.randn(300, 2)).detach()


# %%
def draw_training(train, alt):
    d_losses, g_losses, x_fake = points_in_the_plane(train)
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3), width_ratios=[1.6, 1])
    left.plot(d_losses, color=plot.THIRD, label="L_D")
    left.plot(g_losses, color=plot.FAKE, label="L_G")
    left.axhline(2 * math.log(2), color=plot.THIRD, linestyle=":", label="2 log 2")
    left.axhline(math.log(2), color=plot.FAKE, linestyle=":", label="log 2")
    left.set(xlabel="step", ylabel="loss [nats]", ylim=(0, 2))
    left.legend(ncols=2)
    x_real = 0.5 * torch.randn(300, 2) + torch.tensor([4.0, 0.0])
    right.scatter(*x_real.T, s=5, color=plot.REAL, label="real")
    right.scatter(*x_fake.T, s=5, color=plot.FAKE, label="generated")
    right.set(xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
    right.legend(fontsize=8)
    plot.show(fig, alt=alt)
    last = [sum(v[-50:]) / 50 for v in (d_losses, g_losses)]
    print(f"mean of the last 50 steps: L_D = {last[0]:.3f}, L_G = {last[1]:.3f} nats")


# %%
draw_training(broken_training, "L_D settles above 2 log 2 and L_G below log 2, both on the wrong "
              "side of their dotted lines; the generated points lie inside the real ones.")

# %% [markdown]
# A judge that says ½ to everything pays $2\log2$. This one pays *more*, for good. A judge that only
# follows its own loss would not put up with that: a shift of its last bias would help. So somebody
# else moves $D$, and always towards "real".

# %% [markdown]
# The points don't show it: they arrive, though in a narrower cloud. Nor do the curves show who it
# is. But count the pushes on a logit: if $D$ were pulled up once by real points, down once and *up
# once more* by generated ones, then for $q = p$ it would rest where $2(1 - D) = D$. What would both
# losses be there? Compare with the printed numbers; they lie beside yours, since each loss is read
# at another moment of the tug, and come nearer with a smaller rate.

# %% [markdown]
# Write the mended training, `train_pair`, with the same arguments and the same SGD (no momentum).
# In each turn exactly one net may move, on the gradient of its own loss of this turn alone. Return
# the two lists of losses, as numbers: a loss with its graph would keep every step in memory.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which weights does each optimizer hold? The program above has a comment that is true only because
# of the bug.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `g_opt` holds the weights of `whole`, which are $D$'s too. Once it holds only $G$'s, its
# `zero_grad()` no longer empties $D$'s gradients: `d_opt` must do that, right before $D$'s
# `backward()`.
#
# </details>

# %%
def train_pair(G, D, x_real, z, rate):
    """Train G and D on batches x_real (T, B, …), z (T, B, Z) → lists of L_D and of L_G."""
    # BEGIN SOLUTION
    g_opt = torch.optim.SGD(G.parameters(), lr=rate)
    d_opt = torch.optim.SGD(D.parameters(), lr=rate)
    d_losses, g_losses = [], []
    for x, noise in zip(x_real, z, strict=True):
        x_fake = G(noise)
        d_loss = F.softplus(-D(x)).mean() + F.softplus(D(x_fake.detach())).mean()
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()

        g_loss = F.softplus(-D(x_fake)).mean()
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        d_losses.append(d_loss.item())
        g_losses.append(g_loss.item())
    return d_losses, g_losses
    # END SOLUTION


# %%
check("train_pair", train_pair)

draw_training(train_pair, "Both losses come to rest on their dotted lines; the generated points "
              "are spread wider among the real ones.")
print(f"with D = 2/3 everywhere: L_D = {math.log(3) + math.log(3 / 2):.3f}, "
      f"L_G = {math.log(3 / 2):.3f} nats")

# %% [markdown]
# ## What you have now
#
# A training step that is right to the last weight, and an eye for losses that are on the wrong side
# of their lines. Next: [chapter 05](../chapters/05_dcgan.ipynb), where the same step trains
# convolutions.
