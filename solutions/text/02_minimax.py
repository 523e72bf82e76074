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
# # 2 · Exercises: the minimax game
#
# Five functions to write, for [chapter 02](../chapters/02_minimax.ipynb): the best judge, what any
# judge's score is worth, what pushes the forger, a loss to repair, and a step that does not spiral
# out. How to work, and how to read what the checks say, is in the [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/02_minimax.ipynb)
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
from torch.nn import functional as F

from gencourse import plot
from gencourse.checks import check

plot.style()

# %% [markdown]
# ## 2.1 · The best judge, also where nobody is
#
# *warm-up · 10 minutes · `optimal_discriminator`*
#
# A classifier that knows both densities is the yardstick for every trained one.
#
# $$D^*(x) = \frac{p(x)}{p(x) + q(x)}$$
#
# `p`, `q`: densities at the same points, two tensors of one shape (…). Return $D^*$, of that shape.
# Where both are exactly 0 any answer is as good as any other; by convention it is ½ here. Densities
# far out are *tiny* without being 0: down to $10^{-40}$ in 32 bits, and to $10^{-300}$ in 64. There
# the formula must still hold. Before you run it: how sure is $D^*$ where $p = 10^{-300}$ and
# $q = 3\cdot10^{-300}$?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which of the popular cures for 0/0 (a small ε, `clamp`, `nan_to_num`, `torch.where`) leave
# $10^{-300}$ alone? And what is an ε of $10^{-100}$ in 32 bits?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Where the sum is 0, put 1 under the fraction bar, `torch.where(total > 0, total, 1)`; then choose
# between the fraction and ½ in the same way.
#
# </details>

# %%
def optimal_discriminator(p, q):
    """D* from densities p (real) and q (generated), both (…) → (…) [probability]."""
    # BEGIN SOLUTION
    total = p + q
    fraction = p / torch.where(total > 0, total, 1)
    return torch.where(total > 0, fraction, 0.5)
    # END SOLUTION


# %%
check("optimal_discriminator", optimal_discriminator)

x = torch.linspace(-26, 26, 801, dtype=torch.float64)
p, q = (torch.exp(-0.5 * ((x - m) / s) ** 2) / s for m, s in ((1.0, 1.0), (-1.0, 1.1)))
fig, ax = plt.subplots()
ax.plot(x, p / p.max(), color=plot.REAL, label="p, real (scaled)")
ax.plot(x, q / q.max(), color=plot.FAKE, label="q, generated (scaled)")
ax.plot(x, optimal_discriminator(p, q), color=plot.THIRD, label="D*")
ax.set(xlabel="x", ylabel="D*(x) [probability]")
ax.legend()
plot.show(ax, alt="D* rises from 0 to 1 between the two bells, and returns to 0 far right.")

# %% [markdown]
# ## 2.2 · What a judge's score is worth
#
# *core · 15 minutes · `js_bound`*
#
# Nobody has $D^*$ for pictures. But *every* judge gives a lower bound on how far off the forgery
# is:
#
# $$\mathrm{JS}(p, q) \;\ge\; \tfrac12\big(V(D, G) + \log 4\big),\qquad
# V = \mathbb E_p[\log D(x)] + \mathbb E_q[\log(1 - D(\tilde x))].$$
#
# `real_logits`: (N,), `fake_logits`: (M,), with $D = \sigma(\text{logit})$; N and M may differ.
# Return the bound, a scalar in nats, differentiable in both. It must be right for logits of ±1000;
# a negative bound stays negative. **Predict:** the bound for logits that are all 0?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# In 32 bits $\sigma(200)$ is exactly 1, and $\log(1 - 1)$ is lost. What is $1 - \sigma(l)$ as a
# sigmoid?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $1 - \sigma(l) = \sigma(-l)$, and `F.logsigmoid` computes $\log\sigma$ in one step, without ever
# rounding $\sigma$. Take each mean over its own batch.
#
# </details>

# %%
def js_bound(real_logits, fake_logits):
    """Lower bound on JS(p, q) from a judge's logits (N,) and (M,) → scalar [nats]."""
    # BEGIN SOLUTION
    value = F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean()
    return (value + math.log(4)) / 2
    # END SOLUTION


# %% [markdown]
# The lines below the check let judges $D_a(x) = \sigma(ax)$ of many steepnesses $a$ look at
# $p = \mathcal N(1, 1)$ and $q = \mathcal N(-1, 1)$, whose best judge is the one with $a = 2$. The
# highest bound is the tightest. A judge may also be so sure of itself that it proves nothing.

# %%
check("js_bound", js_bound)

torch.manual_seed(0)
real, fake = 1 + torch.randn(20_000), -1 + torch.randn(20_000)
slopes = torch.linspace(-1, 8, 91)
bounds = torch.stack([js_bound(a * real, a * fake) for a in slopes])
print(f"tightest at a = {slopes[bounds.argmax()]:.1f}: JS ≥ {bounds.max():.3f} nats")
fig, ax = plt.subplots()
ax.plot(slopes, bounds, color=plot.THIRD)
ax.axhline(0, color="0.6", linewidth=1)
ax.set(xlabel="steepness a of the judge", ylabel="bound on JS [nats]", ylim=(-0.4, 0.5))
plot.show(ax, alt="The bound rises to its maximum near a = 2 and falls below 0 for steep judges.")

# %% [markdown]
# ## 2.3 · What pushes the forger
#
# *warm-up · 10 minutes · `generator_gradient`*
#
# A generator learns only through the derivative of its loss in the judge's logits. Write it without
# autograd:
#
# $$L_\text{sat} = \frac1B\sum_i\log(1 - D_i),\qquad L_\text{non-sat} = -\frac1B\sum_i\log D_i,
# \qquad D_i = \sigma(l_i).$$
#
# `logits`: (B,) of generated samples; `saturating`: True or False. Return the derivatives
# $\partial L/\partial l_i$, (B,). Every digit counts: at $l = 40$ the size of the second is not 0
# but about $4\cdot10^{-18}/B$. **Predict** the sign of both.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write both losses with $\mathrm{softplus}(t) = \log(1 + e^t)$, whose derivative is $\sigma(t)$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $\log(1 - D) = -\mathrm{softplus}(l)$ and $-\log D = \mathrm{softplus}(-l)$. Don't forget the
# inner derivative of the second, nor $1/B$; and write $\sigma(-l)$ where you would write
# $1 - \sigma(l)$.
#
# </details>

# %%
def generator_gradient(logits, saturating):
    """∂L/∂logits of the generator's loss, a mean over the batch: logits (B,) → (B,)."""
    # BEGIN SOLUTION
    strength = torch.sigmoid(logits) if saturating else torch.sigmoid(-logits)
    return -strength / len(logits)
    # END SOLUTION


# %%
check("generator_gradient", generator_gradient)

logits = torch.linspace(-12, 12, 241)
fig, ax = plt.subplots()
for saturating, color in ((True, "k"), (False, plot.FOURTH)):
    push = -generator_gradient(logits, saturating) * len(logits)
    ax.semilogy(logits, push, color=color, label="log(1−D)" if saturating else "−log D")
ax.set(xlabel="logit of a generated sample", ylabel="push on the logit")
ax.legend()
plot.show(ax, alt="Two mirrored curves: one dies out to the left, the other to the right.")

# %% [markdown]
# ## 2.4 · Repair: both losses go to zero
#
# *core · 15 minutes · repair · `judge_loss`*
#
# This loss is found in many a notebook. The comment says what its author had in mind. The forger
# has one parameter, $\tilde x = \mu + z$, and should reach data around 3. Here is the game, and a
# curve for each loss.

# %%
def broken_judge_loss(real_logits, fake_logits):
    # log D(x) for the real ones plus log D(G(z)) for the generated ones, to be maximised
    return -(F.logsigmoid(real_logits).mean() + F.logsigmoid(fake_logits).mean())


# %%
def play(loss, steps=400):
    """The forger's place and both losses, at every step of a game with this loss for the judge."""
    torch.manual_seed(0)
    mu = torch.tensor(-1.0, requires_grad=True)
    layers = torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1), torch.nn.Flatten(0)
    D = torch.nn.Sequential(*layers)  # (B, 1) → (B,) logits
    g_opt = torch.optim.Adam([mu], lr=0.02, betas=(0.0, 0.999))
    d_opt = torch.optim.Adam(D.parameters(), lr=0.02, betas=(0.0, 0.999))
    history = {"mu": [], "d_loss": [], "g_loss": []}
    for _ in range(steps):
        x_real, x_fake = 3 + torch.randn(128, 1), mu + torch.randn(128, 1)
        d_loss = loss(D(x_real), D(x_fake.detach()))
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        g_loss = F.softplus(-D(x_fake)).mean()
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        for key, value in zip(history, (mu, d_loss, g_loss), strict=True):
            history[key].append(value.item())
    return history


# %%
def draw(history, alt):
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8))
    left.plot(history["d_loss"], color=plot.THIRD, label="judge")
    left.plot(history["g_loss"], color=plot.FAKE, label="forger")
    left.set(xlabel="step", ylabel="loss [nats]", ylim=(-0.1, 2.5))
    left.legend()
    right.axhline(3, color=plot.REAL, label="data")
    right.plot(history["mu"], color=plot.FAKE, label="forger's μ")
    right.set(xlabel="step", ylabel="x", ylim=(-1.5, 4.2))
    right.legend()
    plot.show(fig, alt=alt)


# %%
broken_run = play(broken_judge_loss)
draw(broken_run, "Both losses fall to zero at once; μ moves a little and stops far from the data.")

# %% [markdown]
# Two losses at zero: in any other training a success. But two *opponents* can't both win, and the
# forger stands nearly where it started. So the two no longer want opposite things. The curves don't
# tell which loss is wrong. Ask instead: what should each loss say of a judge that calls everything
# real?
#
# Write the judge's loss. `real_logits`: (N,), `fake_logits`: (M,), N and M may differ. Return
# $-V$, a scalar in nats that is *minimised*, exact for logits of ±1000.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Put large positive logits everywhere into the broken loss, then into $-V$. Which one gets small?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# For generated samples the judge is paid $\log(1 - D) = \log\sigma(-l)$. With
# `F.softplus(t)` $= -\log\sigma(-t)$ both terms are one call each.
#
# </details>

# %%
def judge_loss(real_logits, fake_logits):
    """−V(D, G) from the judge's logits (N,) and (M,) → scalar [nats]."""
    # BEGIN SOLUTION
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    # END SOLUTION


# %%
check("judge_loss", judge_loss)

draw(play(judge_loss), "The losses settle near log 4 and log 2, and μ reaches the data.")
print(f"a judge that says ½: {2 * math.log(2):.3f} nats, its forger: {math.log(2):.3f} nats")

# %% [markdown]
# ## 2.5 · A step that does not spiral out
#
# *stretch · 25 minutes · `extragradient_step`*
#
# In the chapter both players had one number each. Networks have many, so take
#
# $$\min_x\max_y\;V(x, y) = x^\top A\,y$$
#
# with `x`: (N,), `y`: (M,), `A`: (N, M), and a rate `eta`. First find both players' derivatives.
# Then write one extragradient step: a *trial* step of both players at once, from $(x, y)$ to
# $(\hat x, \hat y)$; then the real step, from the *old* point, with the forces found at
# $(\hat x, \hat y)$. Return the new `x` and `y`, and leave the inputs as they are.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# $\partial V/\partial x = Ay$ has shape (N,), and $\partial V/\partial y = A^\top x$ shape (M,).
# One player goes down, the other up.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $\hat x = x - \eta Ay$ and $\hat y = y + \eta A^\top x$; then $x' = x - \eta A\hat y$. The line
# for $y'$ uses $\hat x$, neither $x$ nor $x'$.
#
# </details>

# %%
def extragradient_step(x, y, A, eta):
    """One extragradient step of min over x, max over y of xᵀAy: (N,), (M,), (N, M) → (N,), (M,)."""
    # BEGIN SOLUTION
    x_ahead = x - eta * A @ y
    y_ahead = y + eta * A.T @ x
    return x - eta * A @ y_ahead, y + eta * A.T @ x_ahead
    # END SOLUTION


# %% [markdown]
# How large may the rate be? For $xy$ the limit was $\eta = 1$. A matrix is several such games at
# once, one for each of its singular values. **Predict** the limit from the singular values of $A$,
# then look at the figure: it walks 100 steps at many rates. A dashed line marks the limit.

# %%
check("extragradient_step", extragradient_step)

A = torch.tensor([[1.0, 0.5], [-0.4, 0.8]], dtype=torch.float64)
limit = 1 / torch.linalg.matrix_norm(A, 2).item()
rates, ends = [0.02 * limit * i for i in range(1, 54)], []
for eta in rates:
    x, y = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for _ in range(100):
        x, y = extragradient_step(x, y, A, eta)
    ends.append(torch.cat([x, y]).norm().item())
fig, ax = plt.subplots()
ax.semilogy(rates, ends, color=plot.FOURTH)
ax.axvline(limit, color="k", linestyle="--", linewidth=1, label="1 / largest singular value")
ax.set(xlabel="rate η", ylabel="distance to (0, 0) after 100 steps")
ax.legend(loc="lower left")
plot.show(ax, alt="The distance falls with the rate, turns, and shoots up at the dashed line.")

# %% [markdown]
# ## What you have now
#
# A judge that is right in the tails, a bound from any judge, the gradients of the forger's two
# losses, a judge's loss with the right signs, and a step that ends where the game is solved. Next:
# [chapter 03](../chapters/03_convolutions.ipynb), the windows through which networks look at
# pictures.
