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
# # 1 · Exercises: KL divergence
#
# Five functions to write, for [chapter 01](../chapters/01_kl_divergence.ipynb). Fill the empty
# answers and run the cell under each: it says ✓, or what is not right yet. How to work, and how to
# read what the checks say, is in the [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/01_kl_divergence.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from gencourse import plot
from gencourse.checks import check

plot.style()

# %% [markdown]
# ## 1.1 · The price of a wrong belief
#
# *warm-up · 10 minutes · `kl`*
#
# Every objective of this course is a divergence in disguise, and most of them are this one.
#
# $$\mathrm{KL}(p\,\|\,q) = \sum_k p_k \log\frac{p_k}{q_k}\quad\text{[nats]}$$
#
# `p`, `q`: tensors (…, K) of probabilities, one distribution along the last dimension. Return (…).
# Two conventions: where $p_k = 0$ the term is 0, whatever $q_k$ is; where $q_k = 0 < p_k$ it is
# infinite, however small $p_k$ is: only 0 is 0. K may be in the thousands. A network will learn $q$
# through this function, so its gradient in `q` must be finite wherever the value is. It is
# $-p_k/q_k$; with a constant added to all $k$ it counts as the same, since $q$ always sums to 1.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# $0\log 0$ is `nan` for a computer. Which numbers could you put into the logarithm at those places,
# so that multiplying by $p_k = 0$ gives 0?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `torch.where(p > 0, …, 0)` cures the value and not the gradient: the side that is not chosen is
# differentiated too, and $0\cdot\infty$ is `nan`. Replace the *argument* of the logarithm instead:
# `torch.where(p > 0, p, 1).log()`, and the same for `q` where `p` is 0.
#
# </details>

# %%
def kl(p, q):
    """KL(p‖q) of probabilities p, q (…, K) → (…) [nats]."""
    # BEGIN SOLUTION
    possible = p > 0
    log_p = torch.where(possible, p, 1).log()
    log_q = torch.where(possible, q, 1).log()
    return (p * (log_p - log_q)).sum(dim=-1)
    # END SOLUTION


# %%
check("kl", kl)

# %% [markdown]
# ## 1.2 · A distance with a ceiling
#
# *warm-up · 10 minutes · `js`*
#
# The game of a GAN is a JS divergence, and its ceiling is why generators get stuck. With the
# mixture $m = \tfrac12(p + q)$:
#
# $$\mathrm{JS}(p, q) = \tfrac12\mathrm{KL}(p\,\|\,m) + \tfrac12\mathrm{KL}(q\,\|\,m)$$
#
# `p`, `q`: (…, K); return (…). It must hold for two distributions that have nothing in common.
# Before you run it: what is their JS, and why can the logarithms never see a zero that matters?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Use your own `kl`. Whoever wants to be independent of it: write the two sums out.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Where $p_k > 0$, $m_k \ge p_k / 2 > 0$: the KL terms to $m$ are never infinite.
#
# </details>

# %%
def js(p, q):
    """JS(p, q) of probabilities p, q (…, K) → (…) [nats], between 0 and log 2."""
    # BEGIN SOLUTION
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2
    # END SOLUTION


# %%
check("js", js)

# %% [markdown]
# ## 1.3 · Two clouds in many dimensions
#
# *core · 20 minutes · `kl_diagonal_gaussians`*
#
# A VAE compares two Gaussians in every step of its training. Let $p = \mathcal N(\mu_p,
# \operatorname{diag}\sigma_p^2)$ and $q$ likewise, in $Z$ dimensions. Chapter 01 has the case
# $Z = 1$; derive the general one: the density of independent coordinates is a product.
#
# `mu_p`, `logvar_p`, `mu_q`, `logvar_q`: (B, Z) each, with `logvar` $= \log\sigma^2$. Return (B,),
# differentiable in all four. When both clouds are the same, the result must be 0: check that on
# paper first.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# $\log\prod_i = \sum_i\log$, and the expectation of a sum is the sum of expectations: the KL adds
# up over the dimensions, one-dimensional term by term.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# In one dimension $\log\frac{\sigma_q}{\sigma_p} + \frac{\sigma_p^2 + (\mu_p - \mu_q)^2}
# {2\sigma_q^2} - \frac12$. Write $\log\sigma$ as `logvar / 2`, and $\sigma^2$ as `logvar.exp()`.
#
# </details>

# %%
def kl_diagonal_gaussians(mu_p, logvar_p, mu_q, logvar_q):
    """KL(N(μ_p, σ_p²) ‖ N(μ_q, σ_q²)) of means and log-variances (B, Z) → (B,) [nats]."""
    # BEGIN SOLUTION
    squares = (logvar_p.exp() + (mu_p - mu_q).square()) / logvar_q.exp()
    return 0.5 * (logvar_q - logvar_p + squares - 1).sum(dim=1)
    # END SOLUTION


# %%
check("kl_diagonal_gaussians", kl_diagonal_gaussians)

# %% [markdown]
# ## 1.4 · Repair: a loss that is too good
#
# *core · 15 minutes · repair · `kl_from_logits`*
#
# A colleague trains a classifier to imitate another. `p_logits` are the teacher's, `q_logits` the
# pupil's, both (B, K); the loss should be KL(p‖q) in nats, averaged over the batch. It runs, it
# falls, and two things are odd: with more classes it is smaller from the start, and a pupil who is
# sure of one class only, where the teacher hesitates between two, is hardly blamed. Yours should
# also be exact for logits of ±1000.

# %%
def broken_kl(p_logits, q_logits):
    difference = F.kl_div(p_logits.log_softmax(-1), q_logits.softmax(-1), reduction="none")
    return difference.mean()


classes = [2, 5, 10, 20, 50]
torch.manual_seed(0)
losses = [broken_kl(torch.randn(1_000, k), torch.randn(1_000, k)).item() for k in classes]
fig, ax = plt.subplots(figsize=(5, 3))
ax.plot(classes, losses, "o-", color=plot.FAKE)
ax.set(xlabel="classes", ylabel="broken loss [?]", ylim=(0, None))
plot.show(fig, alt="The broken loss of random logits falls as the number of classes grows.")

# %% [markdown]
# With more classes, random teachers and pupils do not disagree less, and yet the curve falls. The
# picture shows one of the two faults; it can't show the other. For that, take one teacher and one
# pupil whose KL you can work out by hand, in both orders.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What does `.mean()` divide by? And what should it divide by, if KL is a *sum* over classes and
# only the batch is averaged?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `F.kl_div(input, target)` takes $\log q$ first and $p$ second, and gives
# $\mathrm{KL}(\text{target}\,\|\,\text{input})$: the opposite of the order on paper.
# `log_target=True` lets you give $\log p$, which is exact for logits of ±1000.
#
# </details>

# %%
def kl_from_logits(p_logits, q_logits):
    """Mean over the batch of KL(p‖q), from logits (B, K) → scalar [nats]."""
    # BEGIN SOLUTION
    log_p, log_q = p_logits.log_softmax(dim=-1), q_logits.log_softmax(dim=-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    # END SOLUTION


# %%
check("kl_from_logits", kl_from_logits)

# %% [markdown]
# ## 1.5 · Moving sand
#
# *stretch · 30 minutes · `wasserstein1`*
#
# Where two distributions don't overlap, KL is infinite and JS is flat; $W_1$ still says how far. In
# one dimension it is the area between the two distribution functions, $F_x$ of the samples `x` and
# $F_y$ of `y`:
#
# $$W_1 = \int |F_x(t) - F_y(t)|\,dt$$
#
# `x`: (N,), `y`: (M,) samples, in any order; N and M may differ. Each point of `x` weighs $1/N$,
# each of `y` $1/M$. Return a scalar, in the samples' unit.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# For $N = M$: sort both, and the $i$-th smallest moves to the $i$-th smallest. Write that first;
# the check will tell you what is missing.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $F_x$ and $F_y$ are steps, flat between neighbours in the sorted list of *all* samples. On each
# such interval $F_x$ is the share of `x` at or left of it: `torch.searchsorted(sorted_x, left,
# right=True) / N`. The area is a sum of rectangles.
#
# </details>

# %%
def wasserstein1(x, y):
    """W₁ between samples x (N,) and y (M,) → scalar [the samples' unit]."""
    # BEGIN SOLUTION
    x, y = x.sort().values, y.sort().values
    steps = torch.cat([x, y]).sort().values
    left = steps[:-1].contiguous()
    below_x = torch.searchsorted(x, left, right=True) / len(x)
    below_y = torch.searchsorted(y, left, right=True) / len(y)
    return ((below_x - below_y).abs() * steps.diff()).sum()
    # END SOLUTION


# %%
check("wasserstein1", wasserstein1)

# %% [markdown]
# ## What you have now
#
# The measures that the rest of the course is about, written by you and tested on the inputs where
# such code usually breaks: zeros, one point, a batch of one, extreme logits. Next:
# [chapter 02](../chapters/02_minimax.ipynb), where a network learns to measure JS.
