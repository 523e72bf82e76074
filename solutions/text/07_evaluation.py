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
# # 7 · Exercises: evaluation
#
# Five rulers to build, for [chapter 07](../chapters/07_evaluation.ipynb), and one of them to mend.
# Fill the empty answers and run the cell under each: it says ✓, or what is not right yet. How to
# work is in the [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/07_evaluation.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import matplotlib.pyplot as plt
import torch

from gencourse import data, plot
from gencourse.checks import check

plot.style()

# %% [markdown]
# ## 7.1 · Catch the copier
#
# *warm-up · 15 minutes · `copied_share`*
#
# A model copies a training picture with probability $\varepsilon$ and draws an honest one
# otherwise. On average its pictures look fine, so look at the *smallest* distances to the training
# set. Let $t$ be a distance below which all copies lie, but only a few honest pictures. Then
#
# $$F_\text{generated}(t) = \varepsilon\cdot 1 + (1 - \varepsilon)\,F_\text{honest}(t),$$
#
# with $F(t)$ the share of distances that are at most $t$. Solve for $\varepsilon$.
#
# `to_training`: (N,), of each generated picture to its nearest training picture; `honest`: (M,),
# the same for real pictures that were not trained on; `level`: $t$ is the `level`-quantile of
# `honest`, as `quantile` finds it. Return the estimate, a number.

# %% [markdown]
# Take both shares as *counted*. For an honest model, can the estimate be negative, and should it?
#
# <details><summary>Hint 1</summary>
#
# The mean of a comparison is a share: `(honest <= t).double().mean()`. And `honest.quantile(level)`
# is $t$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Bring the terms with $\varepsilon$ to one side: $F_g - F_h = \varepsilon\,(1 - F_h)$.
#
# </details>

# %%
def copied_share(to_training, honest, level):
    """Estimated share of copies, from distances to the training set (N,) and (M,) → number."""
    # BEGIN SOLUTION
    threshold = honest.quantile(level)
    generated = (to_training <= threshold).double().mean()
    by_chance = (honest <= threshold).double().mean()
    return ((generated - by_chance) / (1 - by_chance)).item()
    # END SOLUTION


# %%
check("copied_share", copied_share)
torch.manual_seed(0)
images = data.load("digits")
x = images.images(range(len(images))).flatten(1).cpu()
for epsilon in (0.0, 0.05, 0.2):
    found = []
    for _ in range(20):  # each time other pictures are trained on, held out, "generated"
        training, unseen, fake = x[torch.randperm(len(x))].split([700, 400, 400])
        copies = round(epsilon * len(fake))
        fake = torch.cat([training[:copies], fake[copies:]])
        near = [torch.cdist(part, training).min(dim=1).values for part in (fake, unseen)]
        found.append(copied_share(*near, 0.05))
    found = torch.tensor(found)
    print(f"ε = {epsilon:4.0%}: estimated {found.mean():5.1%} ± {found.std():.1%} in one trial")

# %% [markdown]
# ## 7.2 · The Fréchet distance of two clouds
#
# *core · 25 minutes · `frechet`*
#
# Means and covariances are known, however they were found; what remains is
#
# $$d^2 = \lVert\mu_x - \mu_y\rVert^2 + \mathrm{tr}\,\Sigma_x + \mathrm{tr}\,\Sigma_y
# - 2\,\mathrm{tr}\big(\Sigma_x^{1/2}\Sigma_y\Sigma_x^{1/2}\big)^{1/2}.$$
#
# `mu_x`, `mu_y`: (D,); `cov_x`, `cov_y`: (D, D), symmetric, all float64. Return a number. The
# covariances may be singular: with fewer pictures than features, or features that never change,
# they are.
#
# Before you run it: two clouds with the same mean and the same variance in every coordinate. Can
# their distance be more than 0?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Chapter 07 has the root of a symmetric matrix. But do you need the *matrix* in the last term, or
# only its trace? A trace is the sum of the eigenvalues.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `torch.linalg.eigvalsh` gives the eigenvalues of a symmetric matrix, such as $\Sigma_x^{1/2}
# \Sigma_y\Sigma_x^{1/2}$. Those that should be 0 come out as something like $-10^{-16}$: clamp
# before you take roots, both times.
#
# </details>

# %%
def frechet(mu_x, cov_x, mu_y, cov_y):
    """Squared Fréchet distance of Gaussians with means (D,) and covariances (D, D) → number."""
    # BEGIN SOLUTION
    values, vectors = torch.linalg.eigh(cov_x)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    shift = (mu_x - mu_y).square().sum()
    return (shift + cov_x.trace() + cov_y.trace() - 2 * overlap).item()
    # END SOLUTION


# %%
check("frechet", frechet)
torch.manual_seed(0)
fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
for ax, lean in zip(axes, (0.0, 0.6, 0.95), strict=True):
    clouds = [torch.randn(400, 2).double() @ torch.linalg.cholesky(
        torch.tensor([[1, s], [s, 1]], dtype=torch.float64)).T for s in (lean, -lean)]
    for x, colour in zip(clouds, (plot.REAL, plot.FAKE), strict=True):
        ax.scatter(*x.T, s=3, color=colour, alpha=0.6)
    (x, y) = clouds
    value = frechet(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))
    ax.set(title=f"distance {value:.2f}", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
plot.show(fig, alt="Three pairs of clouds with equal variances. The more they lean to opposite "
          "sides, the larger the distance.")

# %% [markdown]
# ## 7.3 · Features that don't fit into memory
#
# *core · 25 minutes · `FeatureStream`*
#
# A million pictures with 2,048 features each are 8 GB, and nobody has to keep them: a Fréchet
# distance needs a mean and a covariance only. Write a class that sees the features batch by batch:
#
# - `add(batch)`: (B, D), float32 or float64, $B \ge 1$, of any size each time. The loader uses the
#   same memory again for the next one;
# - `result()`: `(n, mean, covariance)` of all rows so far: a whole number, (D,) and (D, D), in
#   float64, the covariance divided by $n - 1$. It may be asked for on the way, once $n \ge 2$, and
#   what it returned must stay.
#
# What it holds must stay small, however many batches come. Several streams may be in use at once.

# %% [markdown]
# Features may lie far from 0: at 10,000 with a standard deviation of 1, say.
#
# Before you run it: how many digits does float32 have, and how many are left of $10{,}000.5^2 -
# 10{,}000^2$?
#
# <details><summary>Hint 1</summary>
#
# $\sum_i (x_i - \mu)(x_i - \mu)^\top = \sum_i x_i x_i^\top - n\mu\mu^\top$. Which sums do you have
# to carry along? D is known only when the first batch comes; `0 + tensor` is a tensor.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# First line of `add`: `batch = batch.double()`. Then `n`, `total` (D,) and `products` (D, D), to
# which each batch adds `batch.sum(0)` and `batch.T @ batch`.
#
# </details>

# %%
class FeatureStream:
    """Mean and covariance of features that come in batches."""

    def __init__(self):
        # BEGIN SOLUTION
        self.n, self.total, self.products = 0, 0, 0
        # END SOLUTION

    def add(self, batch):
        """Take in features (B, D)."""
        # BEGIN SOLUTION
        batch = batch.double()
        self.n = self.n + len(batch)
        self.total = self.total + batch.sum(dim=0)
        self.products = self.products + batch.T @ batch
        # END SOLUTION

    def result(self):
        """n, mean (D,) and covariance (D, D) of all features so far, float64."""
        # BEGIN SOLUTION
        mean = self.total / self.n
        scatter = self.products - self.n * mean[:, None] * mean
        return self.n, mean, scatter / (self.n - 1)
        # END SOLUTION


# %%
check("FeatureStream", FeatureStream)
x = images.images(range(1_000)).flatten(1).cpu()
stream = FeatureStream()
for batch in x.split(64):
    stream.add(batch)
n, mean, covariance = stream.result()
error = (covariance - torch.cov(x.double().T)).abs().max()
print(f"{n:,} pictures in batches of 64; largest difference from one pass {error:.1e}")

# %% [markdown]
# ## 7.4 · Repair: a distance between equals
#
# *core · 20 minutes · repair · `kernel_distance`*
#
# KID compares averages of the kernel $k(a, b) = (a^\top b / D + 1)^3$: within each set over pairs
# of *different* samples, and across the sets over all pairs,
#
# $$\frac1{N(N-1)}\sum_{i\ne j} k(x_i, x_j) + \frac1{M(M-1)}\sum_{i\ne j} k(y_i, y_j)
# - \frac2{NM}\sum_{i,j} k(x_i, y_j).$$
#
# The program below should do that. It is given two sets of *one* source, 1,000 times for each size,
# and the mean of the results is drawn with its standard error.

# %%
def broken_kernel_distance(x, y):
    def kernel(a, b):
        return (a @ b.T + 1) ** 3

    return (kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()).item()


# %%
def symptoms(distance, alt):
    torch.manual_seed(0)
    sizes, means, errors = (5, 10, 20, 50, 100), [], []
    for n in sizes:
        values = torch.tensor([distance(*torch.randn(2, n, 4)) for _ in range(1_000)])
        means.append(values.mean())
        errors.append(values.std() / len(values) ** 0.5)
    fig, ax = plt.subplots(figsize=(5, 2.6))
    ax.errorbar(sizes, means, errors, fmt="o-", color=plot.REAL, capsize=3)
    ax.axhline(0, color="0.5", linewidth=1)
    ax.set(xlabel="samples in each set", ylabel="mean distance, ± 1 error")
    plot.show(fig, alt=alt)


symptoms(broken_kernel_distance, "The mean distance of equal sources is far above 0 for few "
         "samples, and falls towards 0 as their number grows.")

# %% [markdown]
# Both sets have one source, so the mean should be 0 at every size, within its error. It is not, and
# it falls as $1/n$ does: something is added that there is $n$ times of, among $n^2$. That fault the
# figure shows. There is a second one, which no figure with a single $D$ can show. Try this: give
# both sets every feature twice. Nothing new is known about the pictures, and $a^\top b / D$ doesn't
# change. Does the distance?
#
# Write the mended function. `x`: (N, D), `y`: (M, D); return a number.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What is $k(x_i, x_i)$ on average, compared with $k(x_i, x_j)$? And how many terms are left in the
# sum when these are gone?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `(k.sum() - k.diagonal().sum()) / (n * (n - 1))` within a set; across the sets the plain mean.
# `a.shape[1]` is D.
#
# </details>

# %%
def kernel_distance(x, y):
    """Unbiased MMD² of features x (N, D) and y (M, D) with the cubic kernel → number."""
    # BEGIN SOLUTION
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return (within(x) + within(y) - 2 * kernel(x, y).mean()).item()
    # END SOLUTION


# %%
check("kernel_distance", kernel_distance)
symptoms(kernel_distance, "The mended distance of equal sources scatters around 0 at every size.")
x, y = torch.randn(50, 4), 0.5 + torch.randn(50, 4)
for times in (1, 2, 4):
    both = x.repeat(1, times), y.repeat(1, times)
    print(f"every feature {times}×: broken {broken_kernel_distance(*both):7.1f}, "
          f"mended {kernel_distance(*both):.3f}")

# %% [markdown]
# ## 7.5 · One stray picture
#
# *stretch · 25 minutes · `density_coverage`*
#
# Precision asks whether a generated sample lies in *any* real ball, so one stray real picture with
# a huge ball vouches for everything near it.
# [Naeem et al. (2020)](https://arxiv.org/abs/2002.09797) count *how many* balls hold it, and drop
# the balls around generated samples. With $r_i$ the distance of $x_i$ to its $k$-th
# nearest *other* real sample,
#
# $$\text{density} = \frac1{kM}\sum_{j=1}^{M}\sum_{i=1}^{N}
# \mathbb 1\big[\lVert\tilde x_j - x_i\rVert \le r_i\big],\qquad
# \text{coverage} = \frac1N\sum_{i=1}^{N} \mathbb 1\big[\text{some } \tilde x_j
# \text{ has } \lVert\tilde x_j - x_i\rVert \le r_i\big].$$
#
# `real`: (N, D), $N > k$, where two samples may be equal; `fake`: (M, D). Return both, as two
# numbers.

# %% [markdown]
# Before you run it: can the density be more than 1? What is it, roughly, for a perfect model?
#
# <details><summary>Hint 1</summary>
#
# `torch.cdist(real, real)` has the distance 0 of each sample to itself in it. The `k`-th nearest
# *other* one is therefore at place …?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A table `inside = torch.cdist(fake, real) <= radius` is (M, N). One number is its sum, over $kM$.
# The other is a share of its *columns*: `.any(dim=0)`.
#
# </details>

# %%
def density_coverage(real, fake, k):
    """Density and coverage of generated (M, D) in the k-balls of real samples (N, D)."""
    # BEGIN SOLUTION
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    inside = torch.cdist(fake, real) <= radius
    density = inside.double().sum() / (k * len(fake))
    return density.item(), inside.any(dim=0).double().mean().item()
    # END SOLUTION


# %%
check("density_coverage", density_coverage)
torch.manual_seed(0)
real = torch.randn(200, 2)
with_stray = torch.cat([real, torch.tensor([[6.0, 0.0]])])
beside = torch.tensor([5.0, 0.0]) + 0.5 * torch.randn(200, 2)
models = {"perfect": torch.randn(200, 2), "collapsed": 0.2 * torch.randn(200, 2),
          "blurred": 2 * torch.randn(200, 2), "beside": beside}
print("              density, coverage     with one stray real sample at (6, 0)")
for name, fake in models.items():
    pairs = [density_coverage(r, fake, 3) for r in (real, with_stray)]
    print(f"{name:12}" + "".join(f"{d:11.2f}, {c:4.2f}     " for d, c in pairs))

# %% [markdown]
# In the last row stands a model of which every sample is wrong, next to the stray one: its
# *precision* would be near 1 there. Its density is at most $1/k$ from one ball, however many
# samples lie in it.

# %% [markdown]
# ## What you have now
#
# A detector of copies, a Fréchet distance for any number of pictures, a distance without bias, and
# two numbers that one stray picture can't spoil. Next:
# [chapter 08](../chapters/08_vae.ipynb), where a model has a likelihood again, or almost.
