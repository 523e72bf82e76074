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
# # 6 · Exercises: mode collapse
#
# Five functions to write, for [chapter 06](../chapters/06_mode_collapse.ipynb): the count that
# finds a collapse, and the tools that hold a critic's slope. Fill the empty answers and run the
# cell under each: it says ✓, or what is not right yet. How to work is in the
# [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/06_mode_collapse.ipynb)
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

from gencourse import plot
from gencourse.checks import check

plot.style()

# %%
def ring(n, modes=8, spread=0.05):
    """n samples (n, 2) of a ring of modes, and the modes' centres (modes, 2)."""
    angle = 2 * torch.pi * torch.arange(modes) / modes
    centres = torch.stack([angle.cos(), angle.sin()], dim=1)
    return centres[torch.randint(modes, (n,))] + spread * torch.randn(n, 2), centres


def make_generator(z_dim=8, width=64):
    """A generator (B, Z) → (B, 2)."""
    return nn.Sequential(nn.Linear(z_dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                         nn.Linear(width, 2))


def make_critic(width=64):
    """A critic (B, 2) → (B,)."""
    return nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(0.2), nn.Linear(width, width),
                         nn.LeakyReLU(0.2), nn.Linear(width, 1), nn.Flatten(0))

# %% [markdown]
# ## 6.1 · Count what is there
#
# *warm-up · 15 minutes · `count_modes`*
#
# No loss and no single sample shows a collapse: one has to count. Chapter 06 has two numbers for
# it; a third says how *evenly* the modes are visited.
#
# A sample is **on** its nearest centre if that is at most `radius` away, else on no mode. A mode is
# **covered** if `least` samples or more are on it. With $s_k$ the share of mode $k$ among the
# samples on a mode,
#
# $$\mathrm{KL}(s\,\|\,\text{uniform}) = \sum_k s_k\log\frac{s_k}{1/K}\quad\text{[nats]}.$$
#
# `x`: (N, D), `centres`: (K, D). Return three numbers: modes covered, share of *all* samples that
# are on a mode, and the KL, which is `nan` if no sample is on one.

# %% [markdown]
# What is the largest KL there can be, and for which generator?
#
# <details><summary>Hint 1</summary>
#
# `torch.cdist(x, centres)` is (N, K). `.min(dim=1)` gives distances *and* which centre it was;
# `torch.bincount(…, minlength=K)` counts.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Keep only the samples with a small distance, then count. In the KL a mode without a sample adds
# $0\log 0 = 0$: see `torch.special.xlogy`.
#
# </details>

# %%
def count_modes(x, centres, radius, least):
    """Of samples x (N, D) and centres (K, D): modes covered, share on a mode, KL [nats]."""
    # BEGIN SOLUTION
    distance, nearest = torch.cdist(x, centres).min(dim=1)
    on = distance <= radius
    hits = torch.bincount(nearest[on], minlength=len(centres))
    share = hits / hits.sum()
    kl = torch.special.xlogy(share, share * len(centres)).sum()
    return (hits >= least).sum().item(), on.float().mean().item(), kl.item()
    # END SOLUTION


# %%
check("count_modes", count_modes)
torch.manual_seed(0)
x_real, centres = ring(2_000)
crowded = torch.cat([x_real[:100], centres[0] + 0.05 * torch.randn(1_900, 2)])
clouds = {"real": x_real, "mostly one mode": crowded, "wide Gaussian": torch.randn(2_000, 2)}
for name, x in clouds.items():
    covered, on, kl = count_modes(x, centres, 0.15, 10)
    print(f"{name:16} {covered} of 8 modes, {on:4.0%} on a mode, KL to uniform {kl:.2f} nats")

# %% [markdown]
# ## 6.2 · Hold the slope
#
# *core · 25 minutes · `gradient_penalty`*
#
# A Wasserstein critic must not be steeper than 1. The penalty asks for slope 1 at points between
# real and generated samples:
#
# $$\frac1B\sum_i\big(\lVert\nabla C(\hat x_i)\rVert_2 - 1\big)^2, \qquad
# \hat x_i = \varepsilon_i x_i + (1 - \varepsilon_i)\,\tilde x_i$$
#
# `critic`: a function (B, …) → (B,) that treats each sample by itself; `x_real`, `x_fake`: (B, …)
# of one shape, points or pictures; `epsilon`: (B,), one number per sample, drawn outside. Return a
# scalar, *differentiable in the critic's weights*: the check looks at their gradients. `x_fake` may
# come straight from a generator, and nothing of the penalty may reach that: $\hat x$ is a place
# and no more. The norm runs over all dimensions of one sample.

# %% [markdown]
# Before you run it: for the linear critic $C(x) = w^\top x$, what is the penalty? Does it depend on
# the samples?
#
# <details><summary>Hint 1</summary>
#
# The gradient in $\hat x$ is itself a function of the weights, and `backward()` will go through it
# a second time. What does `torch.autograd.grad` throw away unless told to keep it?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `epsilon.view(-1, *[1] * (x_real.dim() - 1))` has a shape that broadcasts along the batch. Then
# `torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)`, for an `x_hat` that requires
# a gradient, and `.flatten(1).norm(dim=1)`.
#
# </details>

# %%
def gradient_penalty(critic, x_real, x_fake, epsilon):
    """Mean of (‖∇C(x̂)‖ − 1)² for samples (B, …) and their ε (B,) → scalar."""
    # BEGIN SOLUTION
    epsilon = epsilon.view(-1, *[1] * (x_real.dim() - 1))
    between = (epsilon * x_real + (1 - epsilon) * x_fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
    # END SOLUTION


# %%
check("gradient_penalty", gradient_penalty)
torch.manual_seed(0)
C, w = make_critic(), torch.tensor([3.0, 4.0])
print("linear critic with ‖w‖ = 5:", gradient_penalty(lambda x: x @ w, *torch.randn(2, 9, 2),
                                                      torch.rand(9)).item())
optimizer = torch.optim.Adam(C.parameters(), 1e-3)
for step in range(201):  # nothing but the penalty: watch its effect, not only its value
    value = gradient_penalty(C, *torch.randn(2, 64, 2), torch.rand(64))
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    if step % 100 == 0:
        x = torch.randn(500, 2).requires_grad_()
        steep = torch.autograd.grad(C(x).sum(), x)[0].norm(dim=1).mean()
        print(f"step {step:3d}: penalty {value.item():.3f}, mean slope {steep:.2f}")

# %% [markdown]
# ## 6.3 · How much can a layer stretch?
#
# *core · 20 minutes · `spectral_norm_of`*
#
# Spectral normalisation divides a weight by its largest singular value $\sigma$, found by power
# iteration. One round is
#
# $$v \leftarrow \frac{W^\top u}{\lVert W^\top u\rVert},\qquad
# u \leftarrow \frac{W v}{\lVert W v\rVert},\qquad\text{and at the end } \sigma = u^\top W v.$$
#
# `W`: (out, in), or a convolution's weight (out, in, k, k), which counts as a matrix with `out`
# rows; `u`: (out,), the start; `rounds`: at least 1. Return `(sigma, u)`: a scalar and the new `u`,
# from which the next training step goes on. For a `W` of zeros both are 0.

# %% [markdown]
# σ is to be differentiable in `W`, with `u` and `v` taken as constants, as Miyato et al. do. Before
# you run it: what is $\partial\sigma/\partial W$ then?
#
# <details><summary>Hint 1</summary>
#
# `W.flatten(1)` makes a matrix of any weight. Products with vectors are enough: no $W^\top W$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The loop goes under `torch.no_grad()`, with `nn.functional.normalize(…, dim=0)`, which leaves a
# vector of zeros as it is. Outside of it, one line computes σ.
#
# </details>

# %%
def spectral_norm_of(W, u, rounds):
    """Largest singular value of W (out, …) by power iteration from u (out,) → (σ, new u)."""
    # BEGIN SOLUTION
    matrix = W.flatten(1)
    with torch.no_grad():
        for _ in range(rounds):
            v = nn.functional.normalize(matrix.T @ u, dim=0)
            u = nn.functional.normalize(matrix @ v, dim=0)
    return u @ matrix @ v, u
    # END SOLUTION


# %%
check("spectral_norm_of", spectral_norm_of)
torch.manual_seed(0)
fig, ax = plt.subplots(figsize=(5.4, 2.6))
for n_in, colour in ((8, "C4"), (64, plot.THIRD), (512, plot.FOURTH)):
    W, u = torch.randn(64, n_in), torch.randn(64)
    exact = torch.linalg.svdvals(W)[0]
    found = [spectral_norm_of(W, u, rounds)[0] / exact for rounds in range(1, 31)]
    ax.plot(range(1, 31), found, color=colour, label=f"64 × {n_in}")
ax.axhline(1, color="0.5", linestyle=":")
ax.set(xlabel="rounds", ylabel="σ found / σ of the SVD")
ax.legend(title="random W")
plot.show(fig, alt="Power iteration's σ against the rounds for three sizes: always below the SVD's "
          "σ, and closer to it with every round.")

# %% [markdown]
# ## 6.4 · A round of the Wasserstein game
#
# *stretch · 35 minutes · `wgan_round`*
#
# The critic first learns for several steps, then G moves once. In each of its steps the critic
# minimises
#
# $$\mathbb E[C(G(z))] - \mathbb E[C(x)] + \text{penalty},$$
#
# with real samples and noise of that step. Then G minimises $-\mathbb E[C(G(z))]$ with the last
# noise.
#
# `G`: (B, Z) → (B, 2), `C`: (B, 2) → (B,); `g_opt`, `c_opt`: their optimizers; `x_reals`: a list of
# K batches; `zs`: a list of K + 1 noises; `penalty`: a function `(C, x_real, x_fake)` → scalar, its
# weight included. Nothing is returned: the check looks at both nets' weights.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write the critic's step first and compare it with D's step of chapter 05: which two losses change,
# which lines stay? Whose gradients must be zero before each `backward`?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `for x_real, z in zip(x_reals, zs[:-1], strict=True):` with `x_fake = G(z).detach()`. After the
# loop one step of G with `zs[-1]`. No sigmoid, no softplus: plain means.
#
# </details>

# %%
def wgan_round(G, C, g_opt, c_opt, x_reals, zs, penalty):
    """One step of the critic C per batch of x_reals, then one step of G; in place."""
    # BEGIN SOLUTION
    for x_real, z in zip(x_reals, zs[:-1], strict=True):
        x_fake = G(z).detach()
        c_loss = C(x_fake).mean() - C(x_real).mean() + penalty(C, x_real, x_fake)
        c_opt.zero_grad()
        c_loss.backward()
        c_opt.step()
    g_loss = -C(G(zs[-1])).mean()
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    # END SOLUTION


# %% [markdown]
# For the game under the check, here is a penalty of another kind than that of 6.2: it needs no
# gradient in $x$. It compares the critic at pairs of a real and a generated sample, and punishes
# where the difference of the values exceeds the distance.

# %%
def pair_penalty(C, x_real, x_fake):
    way = (x_real - x_fake).norm(dim=1)
    return 10 * ((C(x_real) - C(x_fake)).abs() / way - 1).clamp(min=0).square().mean()

# %%
check("wgan_round", wgan_round)
torch.manual_seed(0)
G, C = make_generator(), make_critic()
g_opt, c_opt = (torch.optim.Adam(n.parameters(), 1e-3, betas=(0.5, 0.999)) for n in (G, C))
fig, axes = plt.subplots(1, 3, figsize=(7, 2.5))
still, film = torch.randn(400, 8), iter(axes)
for r in range(301):
    if r in (0, 50, 300):
        ax = next(film)
        ax.scatter(*ring(400)[0].T, s=2, color=plot.REAL, alpha=0.4)
        ax.scatter(*G(still).detach().T, s=3, color=plot.FAKE)
        ax.set(title=f"round {r}", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
    x_reals = [ring(64)[0] for _ in range(5)]
    wgan_round(G, C, g_opt, c_opt, x_reals, list(torch.randn(6, 64, 8)), pair_penalty)
plot.show(fig, alt="Orange samples start in one place, spread over the whole ring of eight blue "
          "modes, and begin to gather on them.")

# %% [markdown]
# ## 6.5 · Repair: a clip that clips nothing
#
# *core · 15 minutes · repair · `clipped_step`*
#
# A colleague trains the critic of a Wasserstein GAN with clipped weights, as in the first paper. To
# test it, real samples stay around the origin and the others are moved away, more and more. A
# critic should give a score $\mathbb E[C(x)] - \mathbb E[C(\tilde x)]$ that grows in proportion:
# that is the whole point of $W_1$.

# %%
def broken_clipped_step(critic, optimizer, x_real, x_fake, clip):
    score = torch.sigmoid(critic(x_real)).mean() - torch.sigmoid(critic(x_fake)).mean()
    optimizer.zero_grad()
    (-score).backward()
    optimizer.step()
    for weight in critic.parameters():
        weight.data.clamp(-clip, clip)
    return score.item()


# %%
def scores_of(step, ways, clip=0.1):
    """Train a fresh critic for each way; the last scores, and the largest weight of all."""
    scores, largest = [], 0
    for way in ways:
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
        optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
        for _ in range(100):
            x_real, x_fake = torch.randn(2, 64, 2)
            score = step(critic, optimizer, x_real, x_fake + torch.tensor([way, 0.0]), clip)
        scores.append(score)
        largest = max(largest, *(w.abs().max().item() for w in critic.parameters()))
    print(f"clip {clip}, largest weight of all critics {largest:.2f}")
    return scores


# %%
def show_scores(step, alt):
    ways = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    fig, ax = plt.subplots(figsize=(5, 2.6))
    ax.plot(ways, scores_of(step, ways), "o-", color=plot.THIRD)
    ax.set(xlabel="distance between real and generated", ylabel="critic's score", ylim=(0, None))
    plot.show(fig, alt=alt)


show_scores(broken_clipped_step, "The broken critic's score rises at first, then stays at 1.")

# %% [markdown]
# The score stops at a value that no distance can lift, and samples that are far away hardly push
# at all: the flat place of chapter 06 is back. That is one fault, and the figure shows it. The line
# above the figure shows that there is another. It can't be seen in the score, as long as the first
# one is there.
#
# Write the mended step. `critic`: a net (B, 2) → (B,); `optimizer`: of its weights; `x_real`,
# `x_fake`: (B, 2); `clip`: $c > 0$. Afterwards **all** parameters, biases too, lie in $[-c, c]$.
# Return the score from before the step, as a number, without its graph.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which function has the range of this curve? And in PyTorch, what does the last letter of `add_`,
# `mul_` or `zero_` say?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Plain means instead of sigmoids. `w.clamp(…)` returns a new tensor and leaves `w` alone. After the
# step, under `torch.no_grad()`: `w.clamp_(-clip, clip)`. (Clipping *gradients* is something else.)
#
# </details>

# %%
def clipped_step(critic, optimizer, x_real, x_fake, clip):
    """One step of a critic whose parameters then lie in [−clip, clip]; returns its score."""
    # BEGIN SOLUTION
    score = critic(x_real).mean() - critic(x_fake).mean()
    optimizer.zero_grad()
    (-score).backward()
    optimizer.step()
    with torch.no_grad():
        for weight in critic.parameters():
            weight.clamp_(-clip, clip)
    return score.item()
    # END SOLUTION


# %%
check("clipped_step", clipped_step)
show_scores(clipped_step, "The mended critic's score grows in a straight line with the distance.")

# %% [markdown]
# ## What you have now
#
# A count that no collapse escapes, and three ways to hold a critic's slope, each tested by its
# *effect*: on the gradients, on the weights, on the score. Next:
# [chapter 07](../chapters/07_evaluation.ipynb), where the counting becomes measuring.
