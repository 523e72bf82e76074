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
# # 9 · Exercises: the latent space
#
# Five functions to write, for [chapter 09](../chapters/09_latent_space.ipynb). Fill the empty
# answers and run the cell under each: it says ✓, or what is not right yet. How to work, and how to
# read what the checks say, is in the [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/09_latent_space.ipynb)
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

from gencourse import data, plot
from gencourse.checks import check

plot.style()

# %% [markdown]
# ## 9.1 · Repair: a direction in pure noise
#
# *warm-up · 15 minutes · repair · `held_out_accuracy`*
#
# Does a code know an attribute? Take the direction $d = M_1 - M_0$ between the mean codes of both
# classes, put the border half-way, $c = d\cdot(M_0 + M_1)/2$, and count how many codes lie on the
# right side ($d\cdot z > c$ where the label is 1). The program below does that. To see whether it
# can be trusted, it gets codes that know *nothing*: random latents with random labels.

# %%
def broken_accuracy(codes, labels):
    m0, m1 = codes[labels == 0].mean(dim=0), codes[labels == 1].mean(dim=0)
    d, c = m1 - m0, (m1 - m0) @ (m0 + m1) / 2
    guesses = codes @ d > c
    return (guesses == (labels == 1)).float().mean().item()


def knows_nothing(n, Z=64):
    """n random codes (n, Z), and n labels 0 or 1 by coin flips."""
    return torch.randn(n, Z), torch.randint(0, 2, (n,))

# %%
torch.manual_seed(0)
counts = [20, 50, 100, 200, 500, 1_000, 5_000]
measured = [[broken_accuracy(*knows_nothing(n)) for _ in range(20)] for n in counts]


def draw_accuracies(measured):
    fig, ax = plt.subplots(figsize=(5, 3))
    values = torch.tensor(measured)
    ax.errorbar(counts, values.mean(1), values.std(1), color=plot.FAKE, marker="o", capsize=3)
    ax.axhline(0.5, color="0.5", linestyle=":")
    ax.set(xscale="log", xlabel="codes that know nothing", ylabel="accuracy", ylim=(0.3, 1.05))
    return fig


plot.show(draw_accuracies(measured), alt="Accuracy of the program on coin-flip labels: about one "
          "for 20 codes, falling slowly towards one half.")  # fmt: skip

# %% [markdown]
# The labels are coin flips, so every point should lie on the dotted line, give or take the bars.
# With 20 codes the program is right nearly always; with thousands it comes near the truth. The
# figure says that something is *learned* from the labels that are then guessed. It doesn't say how
# large the error is for real codes, where it hides behind a true effect.
#
# Write the honest version: learn whatever is learned from the **first ⌊N/2⌋ rows**, return the
# accuracy on the **others**. `codes`: (N, Z); `labels`: (N,) of 0 and 1, both in each half. Return
# one number. Predict: what will its bars look like for 20 codes?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The chapter keeps two pools, `for_means` and `for_tests`. Which names in the program above belong
# to which?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Two things are learned: $d$ *and* $c$. Split codes and labels first, compute the means with one
# part, and the guesses with the other.
#
# </details>

# %%
def held_out_accuracy(codes, labels):
    """Accuracy on rows N//2 … of a direction and border from the rows before; one number."""
    # BEGIN SOLUTION
    half = len(codes) // 2
    seen, known = codes[:half], labels[:half]
    m0, m1 = seen[known == 0].mean(dim=0), seen[known == 1].mean(dim=0)
    guesses = (codes[half:] - (m0 + m1) / 2) @ (m1 - m0) > 0
    return (guesses == (labels[half:] == 1)).double().mean().item()
    # END SOLUTION


# %%
check("held_out_accuracy", held_out_accuracy)
torch.manual_seed(0)
honest = [[held_out_accuracy(*knows_nothing(n)) for _ in range(20)] for n in counts]
plot.show(draw_accuracies(honest), alt="The honest accuracy lies on one half for every number of "
          "codes; its bars are long for few codes and short for many.")  # fmt: skip

# %% [markdown]
# ## 9.2 · Along the great circle
#
# *core · 20 minutes · `slerp`*
#
# The chapter's six lines fail where a film may well begin: on two equal latents. With directions
# $\hat a$, $\hat b$ and the angle ω between them,
#
# $$\text{slerp}(a, b; t) = \left[(1-t)\lVert a\rVert + t\lVert b\rVert\right]
# \left[\frac{\sin((1-t)\,\omega)}{\sin\omega}\,\hat a +
# \frac{\sin(t\,\omega)}{\sin\omega}\,\hat b\right].$$
#
# `a`, `b`: (…, Z), pairs of latents that are neither 0 nor opposite to each other, but may be
# parallel or equal, single ones or some of a batch; `t`: a number from 0 to 1. Return (…, Z).
# Before you write: what do both fractions become as ω → 0?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# $\sin x \approx x$: the weights become $1 - t$ and $t$. Decide pair by pair. And rounding can make
# a cosine 1.0000001, whose `acos` is nan.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `torch.where(omega < 1e-6, 1 - t, torch.sin((1 - t) * omega) / torch.sin(omega))`, and the same
# for t, with norms and sums that keep the last dimension (`keepdim=True`). The nan on the side that
# isn't chosen does no harm as long as nobody wants a gradient; 1.1 has the cure for that.
#
# </details>

# %%
def slerp(a, b, t):
    """From a (t = 0) to b (t = 1) along the great circle; a, b and the result (…, Z)."""
    # BEGIN SOLUTION
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / length_a, b / length_b
    omega = torch.acos((u * v).sum(dim=-1, keepdim=True).clamp(-1, 1))
    parallel = omega < 1e-6
    sine = torch.where(parallel, 1.0, torch.sin(omega))
    from_a = torch.where(parallel, 1 - t, torch.sin((1 - t) * omega) / sine)
    from_b = torch.where(parallel, t, torch.sin(t * omega) / sine)
    return ((1 - t) * length_a + t * length_b) * (from_a * u + from_b * v)
    # END SOLUTION


# %%
check("slerp", slerp)
angle = math.radians(150)
a, b = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(angle), math.sin(angle)])
way = torch.linspace(0, 1, 41)
paths = {"lerp": [(1 - t) * a + t * b for t in way], "slerp": [slerp(a, b, t) for t in way]}
fig, ax = plt.subplots(figsize=(5, 3))
for (label, points), colour in zip(paths.items(), (plot.FAKE, plot.THIRD), strict=True):
    ax.plot(way, [math.degrees(math.atan2(y, x)) for x, y in points], color=colour, label=label)
ax.set(xlabel="t", ylabel="turned by [degrees]")
ax.legend()
plot.show(fig, alt="How far the direction has turned, against t, for ends 150 degrees apart: slerp "
          "is a straight line, lerp turns slowly, fast in the middle, then slowly.")  # fmt: skip

# %% [markdown]
# ## 9.3 · One step of a search
#
# *core · 20 minutes · `inversion_step`*
#
# Asking a GAN for one given picture is a training in which only z moves (9.7). For each picture,
#
# $$\ell(z) = \lVert G(z) - x\rVert^2 + \lambda\left(\lVert z\rVert - \sqrt Z\right)^2, \qquad
# z \leftarrow z - \eta\,\nabla_z\,\ell(z).$$
#
# `generator`: a module, (B, Z) → (B, C, H, W); `z`: (B, Z), none of them 0; `x`: (B, C, H, W); `lr`
# (η) and `penalty` (λ): numbers. Return the new z, (B, Z), detached: on no graph. The squared
# norm is a sum over pixels; every picture makes its own step, as if it were alone. Nothing else may
# change: not `z` itself, not the weights, not the gradients that lie in the weights (somebody may
# be in the middle of a training).

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# If you differentiate the *sum* of all pictures' losses, row i of the gradient is that of picture i
# alone. What would a mean do?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `z = z.detach().clone().requires_grad_()`, then `torch.autograd.grad(loss, z)`: unlike
# `backward()` it leaves nothing in the weights.
#
# </details>

# %%
def inversion_step(generator, z, x, lr, penalty):
    """One step of gradient descent on z (B, Z) towards pictures x (B, C, H, W) → new z (B, Z)."""
    # BEGIN SOLUTION
    z = z.detach().clone().requires_grad_()
    error = (generator(z) - x).square().sum()
    shell = (z.norm(dim=1) - math.sqrt(z.shape[1])).square().sum()
    (gradient,) = torch.autograd.grad(error + penalty * shell, z)
    return (z - lr * gradient).detach()
    # END SOLUTION

# %% [markdown]
# To try it: a generator that needs no training, the average digit plus 24 principal patterns, each
# as strong as one standard deviation of the data. It is asked for test digits, and for the same
# digits turned by 90°. Predict which errors are larger.

# %%
digits, test = data.load("digits"), data.load("digits", split="test")
rows = digits.images(torch.arange(len(digits))).cpu().flatten(1)
_, spread, patterns = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
machine = nn.Linear(24, 256)
machine.weight.data = patterns[:24].T * spread[:24] / math.sqrt(len(rows))
machine.bias.data = rows.mean(dim=0)
G = nn.Sequential(machine, nn.Unflatten(1, (1, 16, 16)))
upright = test.images(torch.arange(10)).cpu()
targets = {"upright": upright, "turned": upright.rot90(dims=(2, 3))}

# %%
check("inversion_step", inversion_step)
torch.manual_seed(0)
sheet = []
for label, x in targets.items():
    z = torch.randn(10, 24)
    for _ in range(400):
        z = inversion_step(G, z, x, lr=0.01, penalty=1.0)
    error = (G(z) - x).square().mean()
    sheet += [x, G(z).detach()]
    print(f"{label:8} squared error {error:.3f} per pixel, ‖z‖ {z.norm(dim=1).mean():.1f}")
ax = plot.grid(torch.cat(sheet), columns=10, title="asked for, found; and the same turned")
plot.show(ax, alt="Ten digits; below what was found, nearly the same; the same digits lying "
          "on their sides; and what was found for those, grey blurs.")  # fmt: skip

# %% [markdown]
# ## 9.4 · A direction without its bystanders
#
# *core · 25 minutes · `pure_direction`*
#
# A direction from labels inherits every correlation of the data (9.5): "bolder" is also "more ink".
# If the bystanders have labels too, take them out. Let $d_k = M_1 - M_0$ be the difference of means
# of attribute k. Wanted is $d_0$ minus its part in the span of $d_1, \dots, d_{K-1}$: what is left
# stands at right angles to all of them.
#
# `codes`: (N, Z), float; `labels`: (N, K) of 0 and 1, one column per attribute, both occur in each.
# Return (Z,), not scaled. K may be 1: then nothing is to be taken out. And somebody may have
# labelled one bystander twice.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# One bystander: $d_0 - \frac{d_0\cdot d_1}{d_1\cdot d_1}\,d_1$. For several, doing that for each is
# wrong unless they are at right angles to *each other*. What is the point of their span that is
# nearest to $d_0$?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Nearest means least squares. With the bystanders as the rows of `others`, their best weights are
# `d0 @ torch.linalg.pinv(others)`; the pseudo-inverse doesn't mind rows that are the same.
#
# </details>

# %%
def pure_direction(codes, labels):
    """Direction (Z,) of attribute 0 in codes (N, Z), without those of the other columns (N, K)."""
    # BEGIN SOLUTION
    y = labels.to(codes.dtype)
    means_1 = y.T @ codes / y.sum(dim=0)[:, None]
    means_0 = (1 - y).T @ codes / (1 - y).sum(dim=0)[:, None]
    d, *others = means_1 - means_0
    if not others:
        return d
    others = torch.stack(others)
    return d - d @ torch.linalg.pinv(others) @ others
    # END SOLUTION

# %% [markdown]
# To try it: three attributes of the digits, measured in pixels and called "high" above the median:
# how many pixels are nearly all ink, the ink in total, and the share of it in the upper half. Codes
# are the 24 principal components. Predict: if the pure direction of "bold" is at right angles to
# that of ink, does it leave the ink alone?

# %%
x01 = (rows.view(-1, 16, 16) + 1) / 2
bold = (x01 > 0.8).float().sum(dim=(1, 2))  # pixels that are nearly all ink
ink = x01.sum(dim=(1, 2))
upper = x01[:, :8].sum(dim=(1, 2)) / ink
high = torch.stack([(v > v.median()).long() for v in (bold, ink, upper)], dim=1)
codes = (rows - rows.mean(dim=0)) @ patterns[:24].T

# %%
check("pure_direction", pure_direction)
for label, columns in [("plain", [0]), ("pure", [0, 1, 2])]:
    d = pure_direction(codes, high[:, columns])
    others = [pure_direction(codes, high[:, [k]]) for k in (1, 2)]
    cosines = [torch.cosine_similarity(d, o, dim=0).item() for o in others]
    more = (d @ patterns[:24]).sum() / 2 / ink.std()  # /2: from pixels in [-1, 1] to [0, 1]
    print(f"{label:6} cosine with ink {cosines[0]:+.2f}, with the upper half {cosines[1]:+.2f};"
          f" one step adds {more:+.2f} standard deviations of ink")  # fmt: skip

# %% [markdown]
# The cosines are 0, as ordered, and nearly all of the ink is gone from the direction. Not all of
# it: being at right angles to the *difference of means* is a statement about this space and its
# scales, not about the picture. (In the picture, ink is a sum of pixels, and that vector is another
# one.) Whether a direction is pure must be measured where it matters, after decoding.

# %% [markdown]
# ## 9.5 · Does each factor have a latent of its own?
#
# *stretch · 40 minutes · `mutual_information_gap`*
#
# A code is called disentangled when single latents mean single things. With known factors (9.6):
# for each factor v, the gap between the latent that knows most about it and the second, as a share
# of the factor's entropy H(v),
#
# $$\text{MIG} = \frac1K\sum_v\frac{I(z_{(1)}; v) - I(z_{(2)}; v)}{H(v)}, \qquad
# I(z; v) = \sum_{z, v} p(z, v)\log\frac{p(z, v)}{p(z)\,p(v)}.$$
#
# `codes`: (N, Z), Z ≥ 2, no two values of a latent equal; `factors`: (N, K), whole numbers from 0.
# Each latent is cut into 20 equally filled bins: the value of rank r (0 is the smallest) has bin
# ⌊20·r/N⌋. All probabilities are shares of the N rows. A factor with one value everywhere is left
# out of the mean; at least one varies. Return one number.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `values.argsort().argsort()` gives ranks. One table of counts, bins × values, holds everything:
# p(z, v), and by summing p(z) and p(v). Where a cell is empty, nothing is added.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $I(z; v) = H(z) + H(v) - H(z, v)$: three entropies of counts. `bins * (v.max() + 1) + v` gives
# each pair a number of its own, and `bincount` counts them. Then `topk(2)`.
#
# </details>

# %%
def mutual_information_gap(codes, factors):
    """MIG of latents (N, Z) and whole-number factors (N, K): one number in [0, 1]."""
    # BEGIN SOLUTION
    def entropy(numbers):
        p = numbers.bincount().double() / len(numbers)
        p = p[p > 0]
        return -(p * p.log()).sum()

    bins = codes.argsort(dim=0).argsort(dim=0) * 20 // len(codes)
    gaps = []
    for v in factors.T:
        if (v == v[0]).all():
            continue
        known = [entropy(z) + entropy(v) - entropy(z * (v.max() + 1) + v) for z in bins.T]
        best, second = torch.stack(known).topk(2).values
        gaps.append((best - second) / entropy(v))
    return torch.stack(gaps).mean().item()
    # END SOLUTION

# %% [markdown]
# Three codes for the same four factors. Each of them determines every factor (but for a little
# noise). Predict their MIGs.

# %%
torch.manual_seed(0)
factors = torch.randint(0, 4, (5_000, 4))
single = factors + 0.01 * torch.randn(5_000, 4)  # one latent for each factor
turn = torch.linalg.qr(torch.randn(4, 4)).Q
twice = torch.cat([single, factors + 0.01 * torch.randn(5_000, 4)], dim=1)

# %%
check("mutual_information_gap", mutual_information_gap)
for label, z in [("one latent each", single), ("rotated", single @ turn), ("two each", twice)]:
    print(f"{label:16} MIG {mutual_information_gap(z, factors):.3f}")

# %% [markdown]
# ## What you have now
#
# The tools of chapter 09 in versions that survive equal ends, several bystanders and factors that
# never vary, and a habit: whatever is learned from labels is tested on others. Next: [chapter
# 10](../chapters/10_gan_vs_vae.ipynb) compares the two families.
