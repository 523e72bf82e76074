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
# # 8 · The variational autoencoder
#
# A network that squeezes each picture into a few numbers, and a second one that draws pictures from
# such numbers, trained together by one bound on the likelihood.

# %% [markdown]
# **After this chapter you can** derive the ELBO and say what each term does · write and train a
# variational autoencoder (VAE) from nothing · recognise a broken one by its numbers and pictures.
#
# **You need** chapters [01](01_kl_divergence.ipynb) (KL divergence) and
# [04](04_first_gan.ipynb) (a training loop).
#
# <!-- stamp -->
# *Run time: 19 min, peak memory 2.0 GB, `cpu` profile on `cifar10 (JPEG copies)`, `fashion_mnist`
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/08_vae.ipynb)
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
import torch.nn.functional as F
from torch import nn

from gencourse import data, divergences, losses, nets, plot, runtime, train, widgets
from gencourse.run import Run

runtime.seed_everything(0)
plot.style()
device = runtime.device()
print(runtime.describe())

# %%
name = runtime.budget(smoke="digits", cpu="fashion_mnist", gpu="fashion_mnist")
images, held_out = data.load(name), data.load(name, split="test")
channels, size, _ = images.shape
D = math.prod(images.shape)  # numbers in one picture
print(f"{images}, and {len(held_out):,} held out; {D} numbers per picture")

# %%
z_dim = 24  # more than the pictures need: 8.7 counts how many get used
lr, batch_size = 1e-3, 64  # Adam's usual rate; small batches, since steps are what counts on a CPU
steps = runtime.budget(smoke=30, cpu=6_500, gpu=30_000)  # the VAE trained to the end
map_steps = runtime.budget(smoke=20, cpu=1_200, gpu=5_000)  # nets with only two latent numbers
short = runtime.budget(smoke=20, cpu=400, gpu=1_500)  # experiments, all with this equal budget
narrow = 16  # their width: a quarter of the work
seeds = runtime.budget(smoke=1, cpu=3, gpu=3)  # and how often, where a verdict is at stake

# %% [markdown]
# ## Where we are going
#
# We want a machine that turns random numbers into pictures. The simplest one is *linear*: average
# picture plus 24 fixed patterns, each weighted by a draw from N(0, 1). Its best patterns are the
# principal components of the data; they need no training at all.
#
# **Predict:** what will sums of randomly weighted patterns look like?

# %%
some = torch.randperm(len(images))[:8_000]
rows = images.images(some).flatten(1).cpu()
average = rows.mean(dim=0)
_, spread, directions = torch.pca_lowrank(rows, q=z_dim)
patterns = directions * spread / math.sqrt(len(rows))  # (D, Z): one standard deviation of each
linear_samples = (average + torch.randn(64, z_dim) @ patterns.T).unflatten(1, images.shape)

fig, axes = plt.subplots(2, 1, figsize=(4.2, 1.6))
plot.grid(images.images(some[:8]), ax=axes[0])
axes[0].set_title("real pictures", color=plot.REAL, fontsize=9)
plot.grid(linear_samples[:8], ax=axes[1])
axes[1].set_title("random numbers through the best linear machine", color=plot.FAKE, fontsize=9)
plot.show(
    fig,
    alt="Eight real pictures above eight grey, smeared superpositions in which outlines of "
    "several things overlap.",
    jpeg=True,
)

# %% [markdown]
# ## 8.1 An autoencoder's codes can't be sampled
#
# Ghosts: each draw of the linear machine is a bit of everything. A nonlinear machine can bend:
# *this* region of the latent space becomes trousers, *that* one shoes. 8.7 comes back to compare.
#
# **Question.** An *autoencoder* has two halves. The encoder maps a picture x to a short *code* z;
# the decoder maps z back to a picture. Both are trained so that the picture survives. Is the
# decoder, alone, already a generator?
#
# **Predict:** we train one with two-dimensional codes. If you put random points into the decoder,
# will you get clothes?

# %%
def make_encoder(size, channels, width=32):
    """Picture (B, C, size, size) → features (B, 8·width): halve the side, then dense."""
    side, doublings = nets.pyramid(size)  # 28 → 14 → 7: two halvings
    layers, c = [], channels
    for i in range(doublings):
        layers += [nn.Conv2d(c, width * 2**i, 4, stride=2, padding=1), nn.ReLU()]
        c = width * 2**i
    dense = [nn.Flatten(), nn.Linear(c * side * side, 8 * width), nn.ReLU()]
    return nn.Sequential(*layers, *dense)


def make_decoder(size, channels, z_dim, width=32):
    """Code (B, Z) → logits of a picture (B, C, size, size)."""
    side, doublings = nets.pyramid(size)
    c = width * 2 ** (doublings - 1)
    layers = [nn.Linear(z_dim, 8 * width), nn.ReLU()]
    layers += [nn.Linear(8 * width, c * side * side), nn.ReLU(), nn.Unflatten(1, (c, side, side))]
    for i in reversed(range(doublings)):
        out = width * 2 ** max(i - 1, 0)
        layers += [nn.ConvTranspose2d(c, out, 4, stride=2, padding=1), nn.ReLU()]
        c = out
    return nn.Sequential(*layers, nn.Conv2d(c, channels, 3, padding=1))

# %% [markdown]
# The decoder walks the encoder's way back: dense, then strided *transposed* convolutions that
# double the side. It ends in *logits*: the sigmoid of a logit is a grey value between 0 (black) and
# 1 (white). The loss compares each pixel with its sigmoid by binary cross-entropy, summed over the
# picture. (8.5 says what that means for grey pixels.)

# %%
to_code = nn.Linear(8 * narrow, 2)
encode = nn.Sequential(make_encoder(size, channels, narrow), to_code).to(device)
decode = make_decoder(size, channels, 2, narrow).to(device)
optimizer = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=lr)

# %%
with Run() as run:
    for step in run.steps(map_steps):
        x = images.batch(step, batch_size)
        loss = losses.bernoulli_nll(decode(encode(x)), (x + 1) / 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)

# %%
@torch.no_grad()
def collect(function, pictures, n=5_000):
    """function(x) of the first n pictures, computed in chunks and joined on the CPU."""
    places = torch.arange(min(n, len(pictures)))
    return torch.cat([function(pictures.images(i)).cpu() for i in places.split(500)])


# the codes of pictures that it never saw, and ten points thrown into the box around them
codes = collect(encode, held_out, n=1_500)
labels = held_out.labels[: len(codes)].cpu()
low, high = codes.min(dim=0).values, codes.max(dim=0).values
thrown = low + (high - low) * torch.rand(10, 2)


def scatter(ax, codes, labels, classes):
    """Codes (N, 2) as dots, one colour per class."""
    for k, label in enumerate(classes):
        ax.scatter(*codes[labels == k].T, s=2, alpha=0.5, color=plt.cm.tab10(k % 10), label=label)
    ax.set(xlabel="z₁", ylabel="z₂")
    ax.legend(fontsize=6, markerscale=4, ncol=5, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def pictures_of(decode, z):
    """The mean pictures of latents z, in [-1, 1]."""
    with torch.no_grad():
        return 2 * torch.sigmoid(decode(z.to(device))) - 1

# %%
fig, axes = plt.subplot_mosaic("ab;ac", figsize=(6.8, 3.6), width_ratios=[1.2, 1])
scatter(axes["a"], codes, labels, held_out.classes)
disc = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "linewidth": 0.5}
for k, point in enumerate(thrown):
    axes["a"].text(*point.tolist(), str(k), size=7, ha="center", va="center", bbox=disc)
plot.grid(pictures_of(decode, thrown), columns=5, ax=axes["b"])
axes["b"].set_title("points 0–9, decoded", color=plot.FAKE, fontsize=9)
plot.grid(pictures_of(decode, torch.randn(10, 2)), columns=5, ax=axes["c"])
axes["c"].set_title("ten draws from N(0, I), decoded", color=plot.FAKE, fontsize=9)
plot.show(
    fig,
    alt="Left: codes as uneven coloured arms with empty space between; ten numbered points, some "
    "of them in the empty space. Right: their pictures, some faint or black, and those of ten "
    "draws from N(0, I), which are of few kinds.",
    jpeg=True,
)

# %% [markdown]
# **What the figure says.** The codes fill the plane unevenly: dense arms, empty wedges, a scale
# that nobody chose. In an empty part the decoder was never trained: it draws a faint blend of
# neighbours, or next to nothing. Draws from N(0, I), the obvious choice, fall into one small spot
# of this map, so they show few kinds of things. In 24 dimensions nearly all of the box is empty;
# 8.13 draws from such an autoencoder.
#
# Two wishes follow. Codes should fill a region that we know, such as that of N(0, I), without
# holes. And neighbouring points should decode to similar pictures. The VAE gets both from one
# principle: maximum likelihood.

# %%
# checkpoint: cells without a code, counted; n evenly spread codes would leave (1 − 1/M)ⁿ of them
M = 20 * 20
cells = ((codes - low) / (high - low) * 20).long().clamp(max=19)
empty = 1 - len(cells.unique(dim=0)) / M
even = (1 - 1 / M) ** len(codes)
print(f"{len(codes):,} codes: {empty:.0%} of the cells are empty; evenly spread: {even:.1%}")
assert empty > even

# %% [markdown]
# ## 8.2 The ELBO, term by term
#
# First a *model* of pictures, in two steps: draw z from the prior $p(z) = \mathcal N(0, I)$, then x
# from $p_\theta(x|z)$, given by a decoder with weights θ. Its density is an integral over all
# latents:
#
# $$p_\theta(x) = \int p_\theta(x|z)\, p(z)\, dz .$$
#
# Chapter 01: minimising $\mathrm{KL}(p_\text{data}\,\|\,p_\theta)$ is maximising the mean of
# $\log p_\theta(x)$ over the data. So that is what we want.
#
# (A clash of letters: elsewhere in this course q is the model's density. Around VAEs everybody
# writes $p_\theta$ for the model and q for the encoder's distribution, and here so do we.)

# %% [markdown]
# **Question 1.** Why not estimate the integral by the average of $p_\theta(x|z)$ over draws from
# the prior?
#
# <details><summary>Think first, then open</summary>
#
# For one given picture nearly every z is a bad explanation, with $p_\theta(x|z)$ close to 0. The
# integral lives on the few z that fit, and random draws hardly ever hit them. 8.3 counts how many
# draws that costs.
#
# </details>
#
# So we need to know, for each x, which z to look at: the *posterior* $p_\theta(z|x)$. Let an
# encoder give a distribution $q(z|x)$ that should resemble it.

# %% [markdown]
# **Question 2.** We can draw from q(z|x). Write down the KL that is an expectation under q. Why
# can't it be computed?
#
# <details><summary>Think first, then open</summary>
#
# $$\mathrm{KL}(q(z|x)\,\|\,p_\theta(z|x)) = E_q[\log q(z|x) - \log p_\theta(z|x)]$$
#
# The posterior contains $p_\theta(x)$, the very integral we can't do.
#
# </details>
#
# **Question 3.** Replace the posterior by Bayes' rule,
# $p_\theta(z|x) = p_\theta(x|z)\,p(z)/p_\theta(x)$. Which part doesn't depend on z?
#
# <details><summary>Think first, then open</summary>
#
# $$\mathrm{KL}(q\,\|\,p_\theta(z|x)) = E_q[\log q(z|x) - \log p(z) - \log p_\theta(x|z)] +
# \log p_\theta(x)$$
#
# $\log p_\theta(x)$ has no z in it, so the mean under q leaves it as it is. Its sign: the
# posterior has $-\log p_\theta(x)$ in its logarithm, and that logarithm is subtracted. So, plus.
#
# </details>

# %% [markdown]
# **Question 4.** The first two terms in the expectation are a KL too. Name it, and solve for
# $\log p_\theta(x)$.
#
# <details><summary>Think first, then open</summary>
#
# They are $\mathrm{KL}(q(z|x)\,\|\,p(z))$: how far the encoder's answer is from the prior.
#
# </details>
#
# So, with nothing approximated and for *any* q:
#
# $$\log p_\theta(x)
# = \underbrace{E_q[\log p_\theta(x|z)] - \mathrm{KL}(q(z|x)\,\|\,p(z))}_\text{ELBO} +
# \underbrace{\mathrm{KL}(q(z|x)\,\|\,p_\theta(z|x))}_{\text{gap}\ \ge\ 0}$$
#
# The gap is never negative, so the rest is a lower bound on the evidence $\log p_\theta(x)$: the
# **e**vidence **l**ower **bo**und. And it needs only what we can compute.

# %% [markdown]
# Read it term by term, with the sign turned so that it is a loss, in nats per picture:
#
# $$-\text{ELBO} = \underbrace{-E_q[\log p_\theta(x|z)]}_\text{reconstruction term} +
# \underbrace{\mathrm{KL}(q(z|x)\,\|\,p(z))}_\text{KL term}$$
#
# - **Reconstruction term**: draw z from q(z|x) and ask how surprised the decoder is by x.
# - **KL term**, the price of the code: how far the codes of x are from the prior. Without it
#   codes may lie anywhere, as in 8.1; with it, they are pushed to where N(0, I) will later draw.
#
# $\log p_\theta(x)$ doesn't contain q. So a better encoder leaves it as it is, and only makes the
# gap smaller. An identity can be checked exactly: take a latent with only four values, so that the
# integral is a sum, and any q at all.

# %%
prior = torch.tensor([0.4, 0.3, 0.2, 0.1])  # p(z)
likelihood = torch.tensor([0.02, 0.30, 0.10, 0.60])  # p(x|z) of one fixed x
evidence = (likelihood * prior).sum()  # p(x)
posterior = likelihood * prior / evidence  # p(z|x), by Bayes
for q in (torch.tensor([0.25, 0.25, 0.25, 0.25]), torch.tensor([0.1, 0.5, 0.1, 0.3]), posterior):
    elbo = (q * likelihood.log()).sum() - divergences.kl(q, prior)
    gap = divergences.kl(q, posterior)
    print(f"ELBO {elbo:.4f} + gap {gap:.4f} = {elbo + gap:.4f}   log p(x) = {evidence.log():.4f}")

# %%
# checkpoint: the last q was the posterior, where the bound is tight
torch.testing.assert_close(elbo, evidence.log())
torch.testing.assert_close(gap, torch.tensor(0.0), atol=1e-6, rtol=0)

# %% [markdown]
# ## 8.3 A model whose likelihood is known
#
# **Question.** Does the identity hold for continuous z, and how tight is the bound? Take a *linear*
# decoder with Gaussian noise: x = Wz + b + noise of standard deviation s. Then everything is
# Gaussian and known in closed form:
#
# $$p(x) = \mathcal N(b,\ WW^\top + s^2 I), \qquad p(z|x) = \mathcal N(m, \Sigma),$$
# $$\Sigma = (I + W^\top W / s^2)^{-1}, \qquad m = \Sigma W^\top (x - b)/s^2 .$$
#
# **Predict:** if q moves from the prior to the true posterior, how does the ELBO move?

# %%
from torch.distributions import MultivariateNormal, kl_divergence

torch.manual_seed(3)
W, b, s = torch.randn(5, 2).double(), torch.randn(5).double(), 0.5
eye = torch.eye(2).double()
evidence = MultivariateNormal(b, W @ W.T + s**2 * torch.eye(5))
point = evidence.sample()  # one x
log_p = evidence.log_prob(point)  # what we are after [nats]

# %%
Sigma = torch.linalg.inv(eye + W.T @ W / s**2)
m = Sigma @ W.T @ (point - b) / s**2
prior, posterior = MultivariateNormal(0 * m, eye), MultivariateNormal(m, Sigma)

# %% [markdown]
# For $q = \mathcal N(\mu, S)$ the reconstruction has a closed form as well. The squared error
# splits into that of the mean and a part from the spread of z:
#
# $$E_q[\log p(x|z)] = -\frac{5}{2}\log(2\pi s^2) -
# \frac{\|x - b - W\mu\|^2 + \mathrm{tr}(W^\top W S)}{2 s^2} .$$

# %%
def elbo_of(q):
    """The ELBO of the linear model at x, in closed form [nats]."""
    error = (point - b - W @ q.mean).square().sum() + torch.trace(W.T @ W @ q.covariance_matrix)
    reconstruction = -2.5 * math.log(2 * math.pi * s**2) - error / (2 * s**2)
    return reconstruction - kl_divergence(q, prior)

# %%
path = torch.linspace(0, 1, 41).double()  # 0: q is the prior, 1: q is the posterior
between = [MultivariateNormal(t * m, (1 - t) * eye + t * Sigma) for t in path]
elbos = torch.stack([elbo_of(q) for q in between])
gaps = torch.stack([kl_divergence(q, posterior) for q in between])

fig, ax = plt.subplots()
ax.axhline(log_p, color=plot.REAL, label="log p(x)")
ax.plot(path, elbos, color=plot.FAKE, label="ELBO")
ax.fill_between(path, elbos, elbos + gaps, color=plot.THIRD, alpha=0.2, label="KL(q‖posterior)")
ax.set_xlabel("q, from the prior (0) to the posterior (1)")
ax.set_ylabel("nats")
ax.legend()
plot.show(
    fig,
    alt="The ELBO climbs from far below to touch the horizontal line log p(x) at the posterior; "
    "the shaded gap always fills the space between them exactly.",
)

diagonal = MultivariateNormal(m, torch.diag(1 / torch.linalg.inv(Sigma).diagonal()))
print(f"log p(x) {log_p:.3f}   best diagonal q: ELBO {elbo_of(diagonal):.3f}")

# %% [markdown]
# The shaded area was drawn *on top of the ELBO*, with the height of the gap, and ends on the line
# everywhere: the identity. At the right end the bound touches.
#
# A VAE's encoder gives independent z₁ and z₂: S is diagonal. The true posterior usually isn't. The
# best diagonal q has the mean m and the variances $1/(\Sigma^{-1})_{jj}$; a gap remains.

# %% [markdown]
# ### Jensen's inequality, and a tighter bound
#
# A second route to log p(x), which also works for a deep decoder, is *importance weighting* (Burda
# et al. 2016). Draw K latents from q, give each a weight, and take the log of the mean weight:
#
# $$w_k = \frac{p(x|z_k)\,p(z_k)}{q(z_k|x)}, \qquad
# L_K = E\left[\log \frac{1}{K} \sum_{k=1}^{K} w_k\right] .$$
#
# The weights are right on average: $E_q[w] = \int p(x|z)\,p(z)\,dz = p(x)$. With one draw, $L_1 =
# E_q[\log w]$ is the ELBO.
#
# **Predict:** does $L_K$ rise with every further draw, or can one more draw make it worse?

# %% [markdown]
# **Jensen's inequality**: the log of a mean is at least the mean of the logs. Proof: log is
# concave, so it lies below its tangents. Take the one at $m = E[w]$:
# $\log w \le \log m + (w - m)/m$. The mean of both sides is $E[\log w] \le \log E[w]$.
#
# - **Below log p(x).** The mean of K weights has the mean p(x) too, so $L_K \le \log p(x)$. For
#   K = 1 this is the ELBO's bound again.
# - **Rising.** From K + 1 weights leave one out: K + 1 ways, each with a mean of K weights. The
#   mean of *these* is the mean of all the weights. So by Jensen $L_{K+1} \ge L_K$.

# %%
weights = likelihood.double() * torch.tensor([0.4, 0.3, 0.2, 0.1]) / 0.25  # 8.2's model, q even
rising, of_logs = [], []
for K in range(1, 9):  # exact: a sum over all 4ᴷ outcomes, equally likely
    outcomes = torch.cartesian_prod(*[weights] * K).view(-1, K)
    rising.append(outcomes.mean(dim=1).log().mean().item())
    of_logs.append(outcomes.log().mean().item())  # a slip: the mean of the logs
    print(f"K = {K}: L_K = {rising[-1]:.4f}, the mean of the logs {of_logs[-1]:.4f}")
print(f"log p(x) = {weights.mean().log():.4f} nats")

# %% [markdown]
# Each draw helps, each less than the one before. The last column is a slip that is easily made, the
# log taken before the mean: it stays at the ELBO, however many draws it gets.
#
# Back to the linear model. **Predict:** how many draws are needed if they come from the prior
# (question 1)? And from a decent q?

# %%
def weighted(q, K, repeats=200):
    """Importance-weighted estimates of log p(x) with K draws from q: (repeats,) [nats]."""
    z = q.sample((repeats, K))
    squares = (point - b - z @ W.T).square().sum(-1)
    log_likelihood = -2.5 * math.log(2 * math.pi * s**2) - squares / (2 * s**2)
    log_weight = log_likelihood + prior.log_prob(z) - q.log_prob(z)
    return log_weight.logsumexp(dim=1) - math.log(K)

# %%
counts = [1, 4, 16, 64, 256, 1024]
decent = MultivariateNormal(0.8 * m, 2 * torch.diag(Sigma.diagonal()))

fig, ax = plt.subplots()
ax.axhline(log_p, color=plot.REAL, label="log p(x), closed form")
for q, colour, label in [(decent, plot.THIRD, "a decent q"), (prior, plot.FOURTH, "the prior")]:
    estimates = torch.stack([weighted(q, K) for K in counts])
    ax.errorbar(counts, estimates.mean(1), estimates.std(1), color=colour, capsize=3, label=label)
ax.set_xscale("log")
ax.set_xlabel("draws K")
ax.set_ylabel("estimate [nats]")
ax.legend()
plot.show(
    fig,
    alt="Estimates against the number of draws: from a decent q they reach log p(x) within a few "
    "draws; from the prior they start far below with long error bars and arrive much later.",
)

for label, q in [("the prior", prior), ("the decent q", decent)]:
    distance = kl_divergence(posterior, q)
    print(f"KL(posterior‖{label}) = {distance:.2f} nats; e^KL = {distance.exp():.1f} draws")
print(f"at ten nats it would be {math.exp(10):,.0f}")

# %% [markdown]
# Each point is the mean of 200 estimates, each bar their standard deviation. The encoder is not
# just a training trick: it tells where to look. When draws come from q, one needs about
# $e^{\mathrm{KL}}$ of them, with the KL of the posterior from q (Chatterjee & Diaconis 2018). The
# cell prints that number: for so small a model even the prior gets there. At ten nats it would be
# over 20,000 draws for each picture in each step, and 8.7's VAE uses more than ten nats.

# %%
# checkpoint: the identity for every q; L_K rises to log p(x), exactly; leaving one out, in draws
torch.testing.assert_close(elbos + gaps, log_p.expand_as(elbos), atol=1e-4, rtol=0)
torch.testing.assert_close(elbos[-1], log_p, atol=1e-4, rtol=0)
assert all(a < b for a, b in zip(rising, [*rising[1:], weights.mean().log()], strict=True))
assert max(of_logs) - min(of_logs) < 1e-9  # the slip stays where it was
five = torch.rand(1_000, 5).double() ** 4  # any positive weights, five at a time
left_out = (five.sum(dim=1, keepdim=True) - five) / 4  # the five means of the other four
assert (five.mean(dim=1).log() >= left_out.log().mean(dim=1)).all()
estimates = weighted(decent, 1024)
error = estimates.std() / math.sqrt(len(estimates))
print(f"closed form {log_p:.4f}, importance-weighted {estimates.mean():.4f} ± {error:.4f}")
assert abs(estimates.mean() - log_p) < 5 * error + 0.01

# %% [markdown]
# ## 8.4 A gradient through a random draw
#
# **Question.** The loss contains an expectation over $z \sim \mathcal N(\mu, \sigma^2)$, and μ and
# σ come from the encoder. How can a gradient pass through a draw?
#
# Two answers. The **score function** needs only the density of z, since
# $\nabla q = q\,\nabla\log q$:
#
# $$\nabla_\mu E[f(z)] = \int f(z)\,\nabla_\mu q(z)\,dz
# = E\left[f(z)\, \nabla_\mu \log q(z)\right] .$$
#
# The **pathwise** one writes the draw as a function of μ, σ and outside noise,
# $z = \mu + \sigma \varepsilon$ with $\varepsilon \sim \mathcal N(0, 1)$, the *reparameterisation
# trick*:
#
# $$\nabla_\mu E[f(z)] = E\left[f'(\mu + \sigma\varepsilon)\right], \qquad
# \nabla_\sigma E[f(z)] = E\left[\varepsilon f'(\mu + \sigma\varepsilon)\right] .$$
#
# Both are right on average. **Predict:** which one is noisier? Does it depend on the dimensions of
# z, or on f?

# %% [markdown]
# A toy with known answers: $z \in R^d$ with independent $z_i \sim \mathcal N(\theta, 1)$, and the
# smooth $f(z) = \sum_i z_i^2$. Then $E[f] = d(\theta^2 + 1)$, and the gradient with respect to the
# first mean is exactly 2θ. One draw per estimate:

# %%
def two_gradients(f, theta, d, repeats):
    """`repeats` one-draw estimates of the gradient in the first mean: score function, pathwise."""
    mean = torch.full((repeats, d), theta, requires_grad=True)  # a row of its own per repeat
    z = torch.distributions.Normal(mean, 1.0).sample()  # no gradient flows through this draw
    log_q = -0.5 * (z - mean).square().sum(dim=1)  # + a constant
    (score,) = torch.autograd.grad((f(z) * log_q).sum(), mean)

    z = mean + torch.randn(repeats, d)  # the same distribution, and now z depends on the mean
    (path,) = torch.autograd.grad(f(z).sum(), mean)
    return score[:, 0], path[:, 0]


def squares(z):
    return z.square().sum(dim=1)


theta, repeats = 1.5, 20_000
dimensions = [1, 2, 4, 8, 16, 32]
ratios = []
print(f"the exact gradient is {2 * theta}; mean ± standard deviation of {repeats:,} estimates")
for d in dimensions:
    score, path = two_gradients(squares, theta, d, repeats)
    ratios.append((score.var() / path.var()).item())
    print(
        f"d = {d:2}: score function {score.mean():6.2f} ± {score.std():6.1f}"
        f"   pathwise {path.mean():.2f} ± {path.std():.2f}   variance ratio {ratios[-1]:8,.0f}"
    )

# %% [markdown]
# The pathwise estimator knows the *slope* of f along each dimension. The score function knows only
# its *value*, one number for all d dimensions: it has to find out by correlation which of them it
# came from. Both variances can be computed by hand. Pathwise: 4. Score function, with B the sum of
# the other squares, $E[B] = (d-1)(\theta^2+1)$ and $E[B^2] = E[B]^2 + (d-1)(4\theta^2 + 2)$:
#
# $$\theta^4 + 18\theta^2 + 15 + 2(\theta^2 + 3)\,E[B] + E[B^2] - 4\theta^2 .$$

# %%
def score_variance(theta, d):
    """Variance of the one-draw score-function estimate, in closed form."""
    b1 = (d - 1) * (theta**2 + 1)
    b2 = b1**2 + (d - 1) * (4 * theta**2 + 2)
    return theta**4 + 18 * theta**2 + 15 + 2 * (theta**2 + 3) * b1 + b2 - 4 * theta**2

# %% [markdown]
# **Is that always so?** The pathwise estimator trusts the slope. Take one latent and
# $f(z) = \cos(\omega z)$. If ω is large, f goes up and down many times within one σ. Its slopes are
# steep, up to ω, and say nothing about where the mean of f rises. The values stay between −1 and 1.
# With the exact gradient $g = -\omega \sin(\omega\theta)\, e^{-\omega^2/2}$ the variances are
#
# $$\text{pathwise: } \tfrac12 \omega^2 (1 - c) - g^2, \qquad
# \text{score function: } \tfrac12 (1 + c - 4\omega^2 c) - g^2, \qquad
# c = \cos(2\omega\theta)\, e^{-2\omega^2} .$$
#
# **Predict:** at about which ω do the two change places?

# %%
def cosine_variances(theta, omega):
    """Variances of the score-function and the pathwise estimate for cos(ωz), in closed form."""
    gradient = -omega * math.sin(omega * theta) * math.exp(-(omega**2) / 2)
    c = math.cos(2 * omega * theta) * math.exp(-2 * omega**2)
    score = 0.5 * (1 + c - 4 * omega**2 * c) - gradient**2
    return score, 0.5 * omega**2 * (1 - c) - gradient**2


omegas = [0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 5.0]
measured = []
for omega in omegas:
    both = two_gradients(lambda z, w=omega: torch.cos(w * z[:, 0]), theta, 1, repeats)
    measured.append([estimate.var().item() for estimate in both])
print("cos 5z: variance {:.2f} by the score function, {:.2f} pathwise".format(*measured[-1]))

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
by_hand = [score_variance(theta, d) / 4 for d in dimensions]
left.loglog(dimensions, by_hand, "k--", label="by hand")
left.loglog(dimensions, ratios, "o", color=plot.THIRD, label="measured")
left.set(xlabel="dimensions of z", ylabel="variance: score function / pathwise")
left.set_title("f(z) = Σ z²", fontsize=10)
fine_omegas = torch.logspace(-1, math.log10(5), 60).tolist()
by_hand = torch.tensor([cosine_variances(theta, w) for w in fine_omegas])
points = torch.tensor(measured)
for k, label, colour in [(0, "score function", plot.FOURTH), (1, "pathwise", plot.THIRD)]:
    right.loglog(fine_omegas, by_hand[:, k], color=colour, label=label)
    right.loglog(omegas, points[:, k], "o", color=colour)
right.set(xlabel="ω", ylabel="variance")
right.set_title("f(z) = cos ωz, one dimension", fontsize=10)
left.legend()
right.legend()
plot.show(
    fig,
    alt="Left: the ratio of variances grows with the dimensions, from about ten to thousands, on "
    "the dashed line. Right: for small ω the pathwise variance is far lower; near ω = 1 the curves "
    "cross, and at ω = 5 the pathwise variance is much the higher one.",
)

# %% [markdown]
# To average a ratio of 1,000 away takes 1,000 times as many draws. But the right panel shows no law
# of nature: where f bends little within one σ, the slope is the better guide. Where f oscillates
# within one σ, the score function has the smaller variance, and the cell above prints by how much.
# The score function can be helped (subtracting a baseline from f is the first step). It also works
# when z is discrete, where there is no slope.
#
# In a VAE f is the decoder's log-likelihood, with dozens of latents, and training itself makes
# neighbouring codes decode to similar pictures. There nearly everybody reparameterises, with one
# draw per picture.

# %%
# checkpoint: the mean is the known gradient; variances are those found by hand, for both f
for estimate in two_gradients(squares, theta, 8, repeats):
    assert abs(estimate.mean() - 2 * theta) < 5 * estimate.std() / math.sqrt(repeats)
exact = torch.tensor([score_variance(theta, d) / 4 for d in dimensions])
torch.testing.assert_close(torch.tensor(ratios), exact, rtol=0.25, atol=0)
exact = torch.tensor([cosine_variances(theta, omega) for omega in omegas])
torch.testing.assert_close(torch.tensor(measured), exact, rtol=0.15, atol=0)
assert measured[0][0] > measured[0][1] and measured[-1][0] < measured[-1][1]

# %% [markdown]
# ## 8.5 Likelihoods, sums, means and the hidden β
#
# **Question.** What is $p_\theta(x|z)$ for a picture? Two usual answers, both with independent
# pixels:
#
# - **Bernoulli**: pixel i is white with probability $\pi_i = \text{sigmoid}(\ell_i)$, with the
#   decoder's logits ℓ: $-\log p(x|z) = -\sum_i [x_i \log \pi_i + (1 - x_i)\log(1 - \pi_i)]$.
# - **Gaussian**: pixel i is $\mathcal N(m_i, \sigma^2)$ around the decoder's output m:
#   $-\log p(x|z) = \sum_i (x_i - m_i)^2 / (2\sigma^2) + D\log\sigma + \frac{D}{2}\log 2\pi$.
#
# A likelihood of independent pixels is a *product*, so its logarithm is a **sum** over pixels. Many
# programs take the mean. **Predict:** does that change more than the scale of the loss?

# %% [markdown]
# Write a and c for the factors that a program puts, on purpose or not, on the two terms:
# $a \cdot \text{reconstruction} + c \cdot \text{KL}$. Up to the scale a this is
# $\text{reconstruction} + \beta\,\text{KL}$ with $\beta = c/a$. The scale hardly matters to Adam,
# which divides it out. The β does.
#
# Below, autograd finds a and c for four ways to write the loss: it compares each term's gradient
# with that of the correct one.

# %%
torch.manual_seed(0)
x01 = torch.rand(8, D)
logits = torch.randn(8, D, requires_grad=True)
mu = torch.randn(8, z_dim, requires_grad=True)
logvar = torch.zeros(8, z_dim)

nll = losses.bernoulli_nll(logits, x01)  # sum over pixels, mean over the batch
kl = divergences.kl_to_standard_normal(mu, logvar).mean()  # sum over latents, mean over the batch

# %%
def factor(term, correct, leaf):
    """How many times the correct term's gradient this one is."""
    mine, theirs = (torch.autograd.grad(t, leaf, retain_graph=True)[0] for t in (term, correct))
    return ((mine * theirs).sum() / (theirs * theirs).sum()).item()


bce = F.binary_cross_entropy_with_logits
kl_terms = 0.5 * (mu.square() + logvar.exp() - logvar - 1)  # (B, Z)
habits = {
    "sum over pixels, sum over latents": (nll, kl),
    "mean over pixels, sum over latents": (bce(logits, x01), kl),
    "mean over pixels, mean over latents": (bce(logits, x01), kl_terms.mean()),
    "sum over pixels, mean over latents": (nll, kl_terms.mean()),
}

betas = {}
for habit, (first, second) in habits.items():
    betas[habit] = factor(second, kl, mu) / factor(first, nll, logits)
    print(f"{habit:36}  β = {betas[habit]:8.3f}")

# %% [markdown]
# Only the first is the ELBO. The second, `F.binary_cross_entropy` with its default
# `reduction="mean"` beside a summed KL, has β = D: the price of the code counts D times, and 8.11
# shows what such a VAE learns. The third has β = D/Z; the fourth, with β = 1/Z, makes codes too
# cheap. None of them says so anywhere. (`F.mse_loss` invites the same slip; its β comes next.)
#
# β is a legitimate dial (β-VAE, Higgins et al. 2017). A dial that nobody knows is set is a bug.

# %% [markdown]
# **The Gaussian's σ is the same dial.** Leave out the constants: with noise σ the loss is
# $\frac{1}{2\sigma^2}\text{SSE} + \text{KL}$, where SSE is the sum of squared errors. Multiply by
# σ²:
#
# $$\sigma^2 \left(\text{NLL}_\sigma + \text{KL}\right) = \tfrac{1}{2}\,\text{SSE} + \sigma^2\,
# \text{KL} + \text{const} = \text{NLL}_1 + \beta\,\text{KL} + \text{const}
# \quad\text{with}\quad \beta = \sigma^2 .$$
#
# So the common `mse + kl`, with a *sum* over pixels, is a Gaussian with σ² = ½. With a *mean* it is
# one with σ² = D/2, on pixels in [−1, 1]. **Predict** that σ before the cell prints it.

# %%
# checkpoint: β as derived; and σ²·∇(NLL_σ + KL) = ∇(NLL_1 + σ²·KL), in both nets' outputs
derived = [1.0, float(D), D / z_dim, 1 / z_dim]
print(f"`F.mse_loss(mean, x) + kl` believes in pixel noise of σ = {math.sqrt(D / 2):.1f}")
torch.testing.assert_close(list(betas.values()), derived, rtol=1e-4, atol=0)
mean = torch.rand(8, D, requires_grad=True)
for sigma in (0.1, 0.5, 3.0):
    with_sigma = losses.negative_elbo(losses.gaussian_nll(mean, x01, sigma), mu, logvar)
    with_beta = losses.negative_elbo(losses.gaussian_nll(mean, x01, 1.0), mu, logvar, beta=sigma**2)
    ours = torch.autograd.grad(sigma**2 * with_sigma, (mean, mu), retain_graph=True)
    beta_s = torch.autograd.grad(with_beta, (mean, mu), retain_graph=True)
    torch.testing.assert_close(ours, beta_s, rtol=1e-4, atol=1e-6)

# %% [markdown]
# **Which numbers to expect.** A Bernoulli pixel is 0 or 1, our pixels are grey. The formula still
# works, as a cross-entropy between "grey" and π, but it isn't the density of grey values (their
# normaliser is missing; Loaiza-Ganem & Cunningham 2019). One consequence: the loss can't reach 0.
# It is smallest at π = x, where each pixel still costs the entropy of its own greyness. Keep that
# floor in mind when reading a −ELBO below: what a model can win lies above it.

# %%
# checkpoint: the floor; logits that say π = x exactly reach it, and other logits don't
x01 = (held_out.images(torch.arange(min(2_000, len(held_out)))) + 1) / 2
floor = F.binary_cross_entropy(x01, x01, reduction="none").flatten(1).sum(dim=1).mean().item()
print(f"a perfect copy of a held-out picture would still cost {floor:.1f} nats")
exact = torch.logit(x01, eps=1e-6)
assert abs(losses.bernoulli_nll(exact, x01).item() - floor) < 0.01 * floor
assert losses.bernoulli_nll(exact + 0.5 * torch.randn_like(exact), x01) > floor

# %% [markdown]
# ## 8.6 The VAE, whole
#
# **Question.** How little has to change in the autoencoder of 8.1?
#
# - The encoder gets **two heads**: μ and log σ², each with weights of its own. A logarithm, so that
#   any output is a valid variance.
# - Between the halves, z is **drawn**: $z = \mu + \sigma\varepsilon$.
# - The loss gets the **KL**, in the closed form of chapter 01:
#
# $$\mathrm{KL}(\mathcal N(\mu, \sigma^2)\,\|\,\mathcal N(0, I))
# = \tfrac{1}{2}\sum_j \left(\mu_j^2 + \sigma_j^2 -
# \log\sigma_j^2 - 1\right).$$

# %%
class VAE(nn.Module):
    """Encoder (B, C, H, W) → mu, logvar (B, Z); decoder z (B, Z) → pixel logits (B, C, H, W)."""

    def __init__(self, size, channels, z_dim, width=32):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = make_encoder(size, channels, width)
        self.to_mu = nn.Linear(8 * width, z_dim)
        self.to_logvar = nn.Linear(8 * width, z_dim)  # log σ²
        self.decoder = make_decoder(size, channels, z_dim, width)

    def encode(self, x):
        features = self.encoder(x)  # (B, 8·width)
        return self.to_mu(features), self.to_logvar(features)

    def reparameterise(self, mu, logvar):
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)  # σ = exp(½ log σ²)

    def decode(self, z):
        return self.decoder(z)

    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterise(mu, logvar)), mu, logvar

    def sample(self, z):
        return 2 * torch.sigmoid(self.decode(z)) - 1  # mean pictures in [-1, 1]

# %%
# the loss, in the same signs and sums as the equations
def reconstruction_of(logits, x):
    """−log p(x|z) of each picture (B,): Bernoulli pixels, summed."""
    x01 = (x + 1) / 2  # [-1, 1] → [0, 1]
    return -(x01 * F.logsigmoid(logits) + (1 - x01) * F.logsigmoid(-logits)).flatten(1).sum(dim=1)


def kl_of(mu, logvar):
    """KL(q(z|x) ‖ N(0, I)) of each picture and latent dimension (B, Z)."""
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1)


# the package has the same net and losses: same seed, same weights, same draw
torch.manual_seed(0)
mine = VAE(size, channels, z_dim)
torch.manual_seed(0)
theirs = nets.VAE(size, channels, z_dim)
x = images.batch(0, batch_size).cpu()
torch.manual_seed(1)
logits, mu, logvar = mine(x)
torch.manual_seed(1)
torch.testing.assert_close((logits, mu, logvar), theirs(x))

nll = losses.bernoulli_nll(logits, (x + 1) / 2)
torch.testing.assert_close(reconstruction_of(logits, x).mean(), nll)
loss = (reconstruction_of(logits, x) + kl_of(mu, logvar).sum(dim=1)).mean()
torch.testing.assert_close(loss, losses.negative_elbo(nll, mu, logvar))
print(f"{sum(p.numel() for p in mine.parameters()):,} weights; before training −ELBO = {loss:.0f}")

# %% [markdown]
# Now the loop, with the reconstruction term from the package. `objective` combines the two terms;
# 8.11 and 8.13 will put others in its place. The learning rate is constant for the first half, then
# falls linearly to zero: at the end the steps should no longer jump around the minimum. `Run`
# counts, logs and checkpoints: interrupt it and it continues in the same place. The last line
# runs longest in this chapter.

# %%
def elbo_objective(nll, kl, progress):
    """nll: batch's mean; kl (B, Z); progress: 0 → 1 through the run. Returns −ELBO [nats]."""
    return nll + kl.sum(dim=1).mean()


def fit(vae, steps, objective=elbo_objective, seed=0, folder=None, progress=False):
    vae.to(device, memory_format=torch.channels_last)  # a memory layout: faster convolutions
    optimizer = torch.optim.Adam(vae.parameters(), lr=lr, fused=True)
    torch.manual_seed(seed)
    parts = {"vae": vae, "optimizer": optimizer}
    with Run(folder, batch_size=batch_size, progress=progress, **parts) as run:
        for step in run.steps(steps):
            optimizer.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - step / steps))
            x = images.batch(step, batch_size)
            logits, mu, logvar = vae(x)
            nll, kl = losses.bernoulli_nll(logits, (x + 1) / 2), kl_of(mu, logvar)
            loss = objective(nll, kl, step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            active = (kl.mean(dim=0) > 0.1).sum()  # latents above 0.1 nats, see 8.7
            run.log(loss=loss, nll=nll, kl=kl.sum(dim=1).mean(), active=active)
    return run.history


torch.manual_seed(0)
vae = VAE(size, channels, z_dim)
history = fit(vae, steps, folder=runtime.run_folder("08_vae"), progress=True)

# %%
skip = len(history["step"]) // 50  # the first steps would squash the rest of the picture
late = {key: values[skip:] for key, values in history.items()}
fig, axes = plt.subplots(1, 3, figsize=(9.6, 2.8))
for ax, keys in zip(axes, (["loss", "nll"], ["kl"], ["active"]), strict=True):
    plot.curves(late, keys, ax=ax, smooth=50, ylabel="nats per picture")
axes[2].set_ylabel("latents above 0.1 nats")
plot.show(fig, alt="Left: the loss and, a little below it, the reconstruction term fall steeply, "
          "then slowly. Middle: the KL term. Right: how many latents are active.")

# %% [markdown]
# In the first steps, which the figure leaves out, the KL shoots up from near zero: information is
# bought wherever it saves more reconstruction than it costs. From then on the reconstruction falls,
# more and more slowly. The KL need not: a nat is worth its price only while it saves more than one
# nat of reconstruction, and that changes as the decoder learns. So neither term alone says how good
# the model is; their sum does. Where the right curve falls while the KL hardly does, the
# information moves into fewer latents.

# %%
# checkpoint: the package's train_vae is this loop: same seeds, same weights after a few steps
exact = device.type == "cpu"  # a GPU adds in another order each time: nearly all, after one step
few_steps = 10 if exact else 1
torch.manual_seed(0)
mine = VAE(size, channels, z_dim, narrow)
torch.manual_seed(0)
theirs = nets.VAE(size, channels, z_dim, narrow)
fit(mine, few_steps, seed=1)
train.train_vae(
    images, theirs, steps=few_steps, seed=1, batch_size=batch_size, lr=lr,
    precision="float32", progress=False,
)
pairs = zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
close = [torch.isclose(a, b, rtol=0, atol=1e-5 if exact else 1e-4).flatten() for a, b in pairs]
assert torch.cat(close).float().mean() >= (1 if exact else 0.95)

# %% [markdown]
# ## 8.7 What it learned
#
# **Question.** How good is it, on pictures that it never saw? First the number, with what a number
# needs: how many pictures, and a standard error.

# %%
def measure(vae, n=2_500):
    """Per held-out picture: reconstruction (n,), kl (n, Z), mu (n, Z); one draw of z each."""

    def rows(x):
        logits, mu, logvar = vae(x)
        return torch.cat([reconstruction_of(logits, x)[:, None], kl_of(mu, logvar), mu], dim=1)

    torch.manual_seed(0)
    nll, kl, mu = collect(rows, held_out, n).split([1, vae.z_dim, vae.z_dim], dim=1)
    return nll[:, 0], kl, mu


def report(label, vae):
    """Print a VAE's held-out numbers in one line; return −ELBO, KL and active units."""
    nll, kl, mu = measure(vae)
    bound = nll + kl.sum(dim=1)
    active = (kl.mean(dim=0) > 0.1).sum().item()
    error = bound.std() / math.sqrt(len(bound))
    print(
        f"{label:27} −ELBO {bound.mean():9.4g} ± {error:7.2g}   reconstruction {nll.mean():7.4g}"
        f"   KL {kl.sum(1).mean():9.3g}   active {active:2} of {vae.z_dim}"
    )
    return bound.mean().item(), kl.sum(1).mean().item(), active

# %%
nll, kl, mu = measure(vae, n=10_000)
bound = nll + kl.sum(dim=1)
error = bound.std() / math.sqrt(len(bound))
print(
    f"test −ELBO {bound.mean():.2f} ± {error:.2f} nats per picture"
    f" ({len(bound):,} held-out pictures of {name}, one draw of z each)\n"
    f"reconstruction {nll.mean():.2f}, of which greyness {floor:.1f}; KL {kl.sum(1).mean():.2f}"
)

# %% [markdown]
# What that number is *not*: it is a **bound** on −log p(x), not its value; the gap of 8.2 is in it.
# It depends on the pixels' model: Bernoulli on grey values isn't a density, so a Gaussian VAE's
# number can't be compared with it. And it doesn't measure how pictures *look*.
#
# **Predict:** are reconstructions or samples better? Why?

# %% tags=["picture:08_vae.png"]
shown = held_out.images(torch.arange(8))
with torch.no_grad():
    again = vae.sample(vae.encode(shown)[0])
    dreams = vae.sample(torch.randn(16, z_dim, device=device))
fig, axes = plt.subplots(4, 1, figsize=(4.2, 3.7), height_ratios=[1, 1, 2, 1])
for ax, pictures, title, colour in [
    (axes[0], shown, "held-out pictures", plot.REAL),
    (axes[1], again, "their reconstructions", plot.FAKE),
    (axes[2], dreams, "samples: z drawn from N(0, I)", plot.FAKE),
    (axes[3], linear_samples[:8], "for comparison, the linear machine", plot.FAKE),
]:
    plot.grid(pictures, ax=ax)
    ax.set_title(title, color=colour, fontsize=9)
plot.show(
    fig,
    alt="Reconstructions keep kind and outline of each picture and lose texture. Samples: most are "
    "recognisable single things, soft at the edges, some are shapeless. The linear machine's are "
    "overlapping ghosts.",
    jpeg=True,
)

# %% [markdown]
# Reconstructions know which picture is meant: outline and brightness survive; prints, laces and
# folds don't. Most samples are single things, not the linear machine's ghosts. Some are shapeless
# or between two kinds. Where do those come from? The average of q(z|x) over all x isn't exactly
# N(0, I); a draw can land where few codes are. 8.10 looks there.
#
# Now the price of the code, dimension by dimension.

# %%
price = kl.mean(dim=0).sort(descending=True).values
active = (price > 0.1).sum().item()
fig, ax = plt.subplots(figsize=(6, 2.6))
ax.bar(range(1, z_dim + 1), price, color=plot.THIRD)
ax.set(xlabel="latent dimension, sorted", ylabel="KL [nats]")
ax.set_title(f"{active} of {z_dim} active, {price.sum():.1f} nats together", fontsize=10)
plot.show(fig, alt="Bars of KL per latent dimension in falling order: some dimensions carry a nat "
          "or more, the others next to nothing.")

# %% [markdown]
# A few tall bars, then next to nothing. Where μ = 0 and σ = 1 for every picture, the dimension
# costs nothing and says nothing. Here one is **active** above 0.1 nats. (Burda et al. ask for a
# variance of μ above 0.01.)
#
# **How much of the price is information?** Call $q(z) = E_x[q(z|x)]$, the codes of all pictures
# together, the *aggregate posterior*. Add and subtract log q(z) in the KL; average over x:
#
# $$E_x[\mathrm{KL}(q(z|x)\,\|\,p(z))]
# = \underbrace{E_x[\mathrm{KL}(q(z|x)\,\|\,q(z))]}_{I(x;\,z)} + \mathrm{KL}(q(z)\,\|\,p(z)) .$$
#
# First the *mutual information*, what z tells about x; then the misfit of all codes together.
# Neither is negative, so neither can be larger than the KL term. (The misfit is the *total
# correlation* $\mathrm{KL}(q(z)\,\|\,\prod_j q(z_j))$, how much latents depend on each other, plus
# each latent's own misfit.)

# %%
# checkpoint: on three pictures and four codes both splits are exact; z says log 3 nats at most
table = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.4, 0.4]])  # q(z|x)
prior4 = torch.full((4,), 0.25)
aggregate = table.mean(dim=0)  # q(z), three pictures, all equally likely
dear = divergences.kl(table, prior4.expand(3, 4)).mean()
joint = (table / 3).flatten()  # the pair (x, z)
apart = (aggregate.expand(3, 4) / 3).flatten()  # x and z as if independent
information, misfit = divergences.kl(joint, apart), divergences.kl(aggregate, prior4)
pair = aggregate.view(2, 2)  # read the four codes as two binary latents, z₁ and z₂
alone = pair.sum(dim=1, keepdim=True) * pair.sum(dim=0)  # q(z₁) q(z₂)
correlation = divergences.kl(aggregate, alone.flatten())
own = divergences.kl(pair.sum(1), torch.full((2,), 0.5))
own += divergences.kl(pair.sum(0), torch.full((2,), 0.5))
print(f"E[KL] {dear:.4f} = information {information:.4f} + misfit {misfit:.4f}")
print(f"misfit = total correlation {correlation:.4f} + of each latent {own:.4f} nats")
torch.testing.assert_close(dear, information + misfit)
torch.testing.assert_close(misfit, correlation + own)
conditional = torch.special.entr(table).sum(dim=1).mean()  # a second route: H(z) − H(z|x)
torch.testing.assert_close(information, torch.special.entr(aggregate).sum() - conditional)
assert information < math.log(3)

# %% [markdown]
# ### Two gaps: the family's and the encoder's
#
# One encoder answers for every picture, in one pass. That is **amortised** inference: finding q is
# paid for once, in training, and not again for each picture. For one x the bound may lose twice:
#
# $$\log p_\theta(x) - \text{ELBO}_\text{encoder} =
# \underbrace{\log p_\theta(x) - \max_{\mu,\sigma}\text{ELBO}}_\text{approximation gap} +
# \underbrace{\max_{\mu,\sigma}\text{ELBO} - \text{ELBO}_\text{encoder}}_\text{amortisation gap}$$
#
# - The **approximation gap** is the family's: no independent Gaussian equals the posterior (8.3).
# - The **amortisation gap** is the encoder's: it doesn't give the best Gaussian for this x.
#
# We can measure the second. Freeze the VAE, start at the encoder's answer, and optimise μ and log
# σ² for each picture by itself. **Predict:** which gap is larger?

# %%
def log_weights(vae, x, mu, logvar, K):
    """log p(x|z) + log p(z) − log q(z|x) of K draws per picture from N(mu, σ²): (K, B)."""
    noise = torch.randn(K, *mu.shape, device=mu.device)
    z = mu + torch.exp(0.5 * logvar) * noise  # (K, B, Z)
    log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(dim=2)  # log p(z) − log q(z|x)
    nll = reconstruction_of(vae.decode(z.flatten(0, 1)), x.repeat(K, 1, 1, 1))
    return log_ratio - nll.view(K, -1)

# %%
def best_gaussians(elbos, mu, logvar, steps, rate):
    """Gradient ascent on elbos(mu, logvar) (B,), from these values; returns the new ones."""
    mu, logvar = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
    optimizer = torch.optim.Adam([mu, logvar], lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        loss = -elbos(mu, logvar).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mu.detach(), logvar.detach()


vae.requires_grad_(False)
own_steps = runtime.budget(smoke=5, cpu=80, gpu=300)
x = held_out.images(torch.arange(runtime.budget(smoke=8, cpu=48, gpu=200)))
answer = vae.encode(x)
torch.manual_seed(0)
tuned = best_gaussians(
    lambda mu, logvar: log_weights(vae, x, mu, logvar, 4).mean(dim=0), *answer, own_steps, 0.02
)


@torch.no_grad()
def many_weights(mu, logvar, rounds=10, K=50):
    return torch.cat([log_weights(vae, x, mu, logvar, K) for _ in range(rounds)])


by_encoder, by_tuned = many_weights(*answer), many_weights(*tuned)  # (500, B)
tighter = by_tuned.logsumexp(dim=0) - math.log(len(by_tuned))  # L_500: a lower bound of log p(x)
differences = {
    "amortisation gap": by_tuned.mean(dim=0) - by_encoder.mean(dim=0),
    "approximation gap, at least": tighter - by_tuned.mean(dim=0),
}
print(f"{len(x)} held-out pictures: −ELBO {-by_encoder.mean():.1f} nats with the encoder's answer")
for label, gap in differences.items():
    error = gap.std() / math.sqrt(len(gap))
    print(f"{label:28} {gap.mean():5.2f} ± {error:.2f} nats per picture")

# %% [markdown]
# In this one net, on these pictures: a q for each picture raises the mean ELBO. So the encoder, for
# all its speed, leaves something unused. Compare the two gaps with their standard errors before you
# call one larger. Two things blur them. $L_{500}$ lies below log p(x): the second gap may be larger
# than printed. And what the short ascent still misses belongs to the first gap, but is counted in
# the second. (Cremer et al. 2018 often found the amortisation gap to be the larger one.)
#
# What the numbers don't say: what a richer family would bring. A decoder *trained* with it would
# adapt to it, as this one has adapted to independent Gaussians.

# %%
# checkpoint: on 8.3's linear model the same ascent finds the best diagonal q and its gap
def linear_elbo(mu, logvar):
    q = MultivariateNormal(mu, torch.diag_embed(logvar.exp()))
    return elbo_of(q)


start = posterior.mean + 1, torch.zeros(2).double()  # a poor answer
mean, log_variance = best_gaussians(linear_elbo, *start, 400, 0.05)
torch.testing.assert_close(mean, diagonal.mean, atol=1e-3, rtol=0)
torch.testing.assert_close(log_variance.exp().diag(), diagonal.covariance_matrix, atol=1e-3, rtol=0)
assert linear_elbo(*start) < elbo_of(diagonal) < log_p  # both gaps are there
# and in the VAE: the closed-form KL of 8.7 agrees with the sampled one; tuning helps
assert abs(by_encoder.mean() + bound[: len(x)].mean()) < 5
if runtime.profile() != "smoke":
    gap = differences["amortisation gap"]
    assert gap.mean() > 3 * gap.std() / math.sqrt(len(gap)) and tighter.mean() > by_tuned.mean()
vae.requires_grad_(True)

# %% [markdown]
# ## 8.8 Why the samples are blurry
#
# **Question.** Is the network too small, or is softness what we asked for?
#
# `vae.sample` shows $\text{sigmoid}(\ell)$, the **mean** of p(x|z). The model never said that x
# looks like its mean: it said that x is *drawn* from p(x|z), one Bernoulli pixel at a time.
#
# **Predict:** what does a real draw look like?

# %%
with torch.no_grad():
    mean = torch.sigmoid(vae.decode(torch.randn(8, z_dim, device=device)))
drawn = torch.bernoulli(mean)
both = {"mean of p(x|z)": 2 * mean - 1, "one draw from p(x|z)": 2 * drawn - 1}
plot.show(plot.rows(both), alt="Eight soft grey pictures; below, the same eight as black-and-white "
          "speckle.")

# %% [markdown]
# Speckle: given z, pixels are independent, so a draw makes no sharp stripe along the cloth unless z
# says where it runs. That is one half of the answer.
#
# The other half: whatever z doesn't say, the decoder must average. If half of the pictures that
# share a z have a white pixel where the others have a black one, the expected cross-entropy
# $-\frac{1}{2}\log\pi - \frac{1}{2}\log(1-\pi)$ is smallest at π = ½. Not a sharp guess: grey. A
# Gaussian likelihood gives the same average. A GAN's discriminator, by contrast, punishes grey.
#
# How wrong is "independent given z"? Subtract the mean from real pictures, and correlate what is
# left in neighbouring pixels.

# %%
def neighbour_correlation(residual):
    """Correlation of horizontally neighbouring pixels of (N, C, H, W)."""
    pair = torch.stack([residual[..., :-1].flatten(), residual[..., 1:].flatten()])
    return torch.corrcoef(pair)[0, 1].item()

# %%
x = held_out.images(torch.arange(200))
with torch.no_grad():
    mean = torch.sigmoid(vae(x)[0])
real = neighbour_correlation((x + 1) / 2 - mean)
model = neighbour_correlation(torch.bernoulli(mean) - mean)
print(f"left over in neighbouring pixels, correlation: real pictures {real:.2f}, model {model:.2f}")

# %%
# checkpoint: many draws average to the mean picture; in a draw, neighbours are uncorrelated
average_draw = torch.stack([torch.bernoulli(mean[:2]) for _ in range(1_000)]).mean(dim=0)
assert (average_draw - mean[:2]).abs().max() < 6 * 0.5 / math.sqrt(1_000)
assert abs(model) < 0.05 < real

# %% [markdown]
# ## 8.9 A map of a two-dimensional latent space
#
# **Question.** Does the KL repair the map of 8.1? Train a VAE with two latent dimensions, now with
# the package's `train_vae`, and draw the same picture. New against 8.1: the draw of z, the KL, and
# a learning rate that falls in the second half.
#
# To see the whole plane at once, walk along it in steps of equal probability: take u evenly in (0,
# 1) and $z = \Phi^{-1}(u)$, where Φ is the cumulative distribution function of N(0, 1). Each tile
# then stands for the same share of the samples.
#
# **Predict:** which kinds of clothes will be neighbours on the map?

# %%
torch.manual_seed(0)
flat = nets.VAE(size, channels, z_dim=2, width=narrow)
train.train_vae(images, flat, steps=map_steps, batch_size=batch_size, lr=lr, progress=False)
codes = collect(lambda x: flat.encode(x)[0], held_out, n=1_500)

tiles = 10
u = (torch.arange(tiles) + 0.5) / tiles
line = torch.special.ndtri(u)  # Φ⁻¹
lattice = torch.cartesian_prod(line.flip(0), line).flip(1)  # rows from the top: z₂ falls, z₁ grows

fig, axes = plt.subplots(1, 2, figsize=(6.8, 3.5))
scatter(axes[0], codes, labels, held_out.classes)
axes[0].set_aspect("equal")
plot.grid(pictures_of(flat.decode, lattice), columns=tiles, ax=axes[1])
axes[1].set_title("decoded, in steps of equal probability", color=plot.FAKE, fontsize=9)
plot.show(
    fig,
    alt="Left: codes of ten classes in one cloud around the origin, about six units wide. Right: a "
    "sheet of pictures that change smoothly from one kind of thing to another; some are faint.",
    jpeg=True,
)

# %% [markdown]
# The codes now crowd around the origin, at the scale of N(0, I). Things that look alike are
# neighbours; along a border one turns into the other. The fit isn't perfect: faint or mixed tiles
# stand where hardly any code lies. And two numbers can't hold everything: look for classes that
# share a place, and for details that never appear.
#
# In a live notebook, move the point. It starts at the code of the first held-out picture.

# %%
few = codes[:1_000]  # fewer dots, so that sliding stays quick
colours = plt.cm.tab10.colors
dots = [colours[k % 10] for k in labels[: len(few)].tolist()]


def at(z1, z2):
    fig, axes = plt.subplots(1, 2, figsize=(5.2, 2.6), layout="none")
    axes[0].scatter(*few.T, s=2, c=dots, alpha=0.5)
    axes[0].plot(z1, z2, "o", color="black", markersize=9, markerfacecolor="none", mew=2)
    axes[0].set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), title=f"z = ({z1:.1f}, {z2:.1f})")
    plot.grid(pictures_of(flat.decode, torch.tensor([[z1, z2]])), ax=axes[1])
    return fig


start = [round(v, 1) for v in codes[0].clamp(-3, 3).tolist()]
widgets.explore(
    at,
    "Left: the codes of the latent map with a ring at one point. Right: that point decoded.",
    z1=(-3.0, 3.0, start[0]),
    z2=(-3.0, 3.0, start[1]),
)

# %%
# checkpoint: the lattice is even in probability: Φ brings it back to u, and so does counting draws
normal = torch.distributions.Normal(0.0, 1.0)
torch.testing.assert_close(normal.cdf(line), u)
share = (normal.sample((100_000, 1)) < line).float().mean(dim=0)
torch.testing.assert_close(share, u, atol=0.01, rtol=0)

# %% [markdown]
# ## 8.10 Sampling where the codes are
#
# **Question.** Some samples of 8.7 were between two kinds. The KL pulls each q(z|x) *towards* N(0,
# I); their mixture over all x, 8.7's aggregate posterior q(z), is close to it, not equal: the
# misfit $\mathrm{KL}(q(z)\,\|\,p(z))$ is not 0. What if we draw from q(z) instead?
#
# Fit a density to codes of training pictures: a mixture of Gaussians, by scikit-learn. It takes the
# place of the prior; encoder and decoder stay.
#
# **Predict:** what gets better, and what can't?

# %%
from sklearn.mixture import GaussianMixture

torch.manual_seed(0)
drawn = collect(lambda x: vae.reparameterise(*vae.encode(x)), images, n=10_000)
mixture = GaussianMixture(20, reg_covar=1e-3, max_iter=300, random_state=0)
mixture.fit(drawn.double().numpy())
places = torch.from_numpy(mixture.sample(16)[0]).float()
places = places[torch.randperm(len(places))]  # it comes sorted by component

fig, axes = plt.subplots(2, 1, figsize=(4.2, 2.6))
for ax, z, title in [
    (axes[0], torch.randn(16, z_dim), "z from the prior N(0, I)"),
    (axes[1], places, "z from a mixture fitted to the codes"),
]:
    plot.grid(pictures_of(vae.decode, z), ax=ax)
    ax.set_title(title, color=plot.FAKE, fontsize=9)
plot.show(
    fig,
    alt="Sixteen samples from the prior and sixteen from the mixture: most are soft single things, "
    "some, above all of the prior's, are shapeless.",
    jpeg=True,
)

# %% [markdown]
# Sixteen pictures are no proof, but count the shapeless ones. Both rows are just as soft, for
# softness is the decoder's. How much better is the mixture, in nats? Put it, r(z), in the prior's
# place in the ELBO. Only one term changes:
#
# $$\text{ELBO}_r = E_q[\log p_\theta(x|z) + \log r(z) - \log q(z|x)]
# = \text{ELBO} + E_q[\log r(z) - \log p(z)] .$$
#
# If r were q(z) itself, the mean gain over all x would be $E_{q(z)}[\log q(z) - \log p(z)]$:
# exactly 8.7's misfit. Any other r gains $\mathrm{KL}(q(z)\,\|\,r(z))$ less. So the number below is
# a lower estimate of the misfit.

# %%
z = collect(lambda x: vae.reparameterise(*vae.encode(x)), held_out, n=5_000)
log_r = torch.from_numpy(mixture.score_samples(z.double().numpy()))
log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
gain = log_r - log_prior
error = gain.std() / math.sqrt(len(gain))
print(
    f"{len(z):,} held-out codes: the mixture lowers −ELBO by {gain.mean():.2f} ± {error:.2f} nats"
)

# %%
# checkpoint: the mixture's log-density by torch, from its parameters
parts = MultivariateNormal(torch.tensor(mixture.means_), torch.tensor(mixture.covariances_))
weights = torch.distributions.Categorical(torch.tensor(mixture.weights_))
by_torch = torch.distributions.MixtureSameFamily(weights, parts).log_prob(z.double())
torch.testing.assert_close(by_torch, log_r, atol=1e-4, rtol=1e-6)
if runtime.profile() != "smoke":
    assert gain.mean() > 3 * error

# %% [markdown]
# ## 8.11 Posterior collapse, provoked and cured
#
# **Question.** The KL can be made zero: let q(z|x) = N(0, I) for every x. Then z carries nothing,
# and the decoder draws the same for all pictures. When does training end there?
#
# Two ways in: a code that costs too much (β too large), and a code that nobody needs (a decoder so
# strong that it does without). Each run below has the same short budget and the narrow net. Where a
# verdict is at stake, it is repeated with three seeds.
#
# **Predict**, before each line: KL, and what the reconstructions will show.

# %%
def train_narrow(label, objective=elbo_objective, kind=VAE, seed=0):
    """A narrow VAE of this kind, trained with the short budget, and its held-out numbers."""
    torch.manual_seed(seed)
    model = kind(size, channels, z_dim, narrow)
    fit(model, short, objective, seed=seed)
    return model, report(label, model)

# %%
def repeated(label, objective=elbo_objective, kind=VAE):
    """The first seed's net, and every seed's −ELBO, KL and active units: (seeds, 3)."""
    runs = [train_narrow(f"{label}, seed {s}", objective, kind, s) for s in range(seeds)]
    return runs[0][0], torch.tensor([numbers for _, numbers in runs])

# %%
def hidden_beta(nll, kl, progress):
    return nll / D + kl.sum(dim=1).mean()  # "mean over pixels": β = D, see 8.5


fine, fine_numbers = repeated("β = 1")
# and a program with reduction="mean", no more; its loss falls, and nothing crashes
costly, costly_numbers = train_narrow("mean over pixels, β = D", hidden_beta)

# %%
def compare(models, count=8):
    """Each model's reconstructions and samples, for the same pictures and the same draws."""
    shown = held_out.images(torch.arange(count))
    noise = torch.randn(count, z_dim, generator=torch.Generator().manual_seed(1)).to(device)
    again, dreams = {"held-out pictures": shown}, {}
    with torch.no_grad():
        for title, model in models.items():  # a net that overflowed gives nan: drawn as grey
            again[title] = model.sample(model.encode(shown)[0]).nan_to_num()
            dreams[title] = model.sample(noise).nan_to_num()
    heights = [len(again), len(dreams)]
    fig, axes = plt.subplots(2, 1, figsize=(6, 0.8 * sum(heights)), height_ratios=heights)
    for ax, part, title in zip(axes, (again, dreams), ("reconstructions", "samples"), strict=True):
        plot.rows(part, columns=count, ax=ax)
        ax.set_title(title, color=plot.FAKE, fontsize=9)
    return fig


plot.show(
    compare({"β = 1": fine, "β = D": costly}),
    alt="With β = 1 each reconstruction resembles its picture, and samples differ; with β = D all "
    "reconstructions and all samples are the same grey blur, the average picture.",
)

# %% [markdown]
# One average picture for all. **The cure** is to weigh the terms right: sum over the pixels. Two
# more are in use.
#
# - **KL annealing** (Bowman et al. 2016): β climbs from 0 to 1 early in training, so that codes
#   become useful before they cost.
# - **Free bits** (Kingma et al. 2016): the first λ nats of each dimension are free. With
#   $\overline{\mathrm{KL}}_j$, the batch's mean in dimension j, the loss has
#   $\sum_j \max(\lambda, \overline{\mathrm{KL}}_j)$: below λ nothing pushes it down.
#
# **Predict:** does the *start* matter? β = D for two fifths of the run and 1 for the rest, or β
# from 0 to 1 in its first half: both end with the same objective.

# %%
def annealed(nll, kl, progress):
    beta = min(1.0, 2 * progress)  # 0 → 1 in the first half, then the ELBO
    return nll + beta * kl.sum(dim=1).mean()


def dear_start(nll, kl, progress):
    beta = D if progress < 0.4 else 1
    return nll + beta * kl.sum(dim=1).mean()


def free_bits(nll, kl, progress, free=0.5):
    return nll + kl.mean(dim=0).clamp(min=free).sum()


gentle, gentle_numbers = repeated("β annealed", annealed)
difference = gentle_numbers[:, 0] - fine_numbers[:, 0]
print("annealed minus β = 1, −ELBO [nats], seed by seed:", difference.numpy().round(1))
_, late_numbers = train_narrow("β = D at first, then 1", dear_start)

# %% [markdown]
# In this one run the dear start costs: the codes come back, but late. Two reasons are possible.
# Only three fifths of the steps were left. And where q is the prior for every x, the decoder has
# learned to ignore z, so z gets hardly any gradient. Whether the *gentle* start gains or costs: the
# printed differences say it, seed by seed. If their signs differ, these runs can't tell.
#
# Now the strong decoder. For each pixel it also sees true pixels nearby, in the rows above and to
# the left in its own row, by a convolution with a masked kernel:
# $p(x|z) = \prod_i p(x_i | x_{<i}, z)$ is a proper likelihood, and often the neighbours say most of
# what there is to say.

# %%
class PeekingVAE(VAE):
    """Its decoder also sees the true pixels before the one it predicts, in reading order."""

    def __init__(self, size, channels, z_dim, width=32, reach=3):
        super().__init__(size, channels, z_dim, width)
        k = 2 * reach + 1
        self.look = nn.Conv2d(channels, 32, k, padding=reach)
        self.mix = nn.Sequential(nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU())
        self.tell = nn.Conv2d(32, channels, 1)
        mask = torch.ones(k, k)
        mask[reach, reach:] = 0  # the pixel itself and those to its right
        mask[reach + 1 :] = 0  # the rows below
        self.register_buffer("mask", mask)

    def peek(self, x):
        seen = F.conv2d(x, self.look.weight * self.mask, self.look.bias, padding=self.look.padding)
        return self.tell(self.mix(seen))

    def forward(self, x):
        logits, mu, logvar = super().forward(x)
        return logits + self.peek(x), mu, logvar


peek, peek_numbers = repeated("strong decoder", kind=PeekingVAE)
_, slow_numbers = repeated("strong, annealed", annealed, PeekingVAE)
_, free_numbers = repeated("strong, free bits", free_bits, PeekingVAE)

# %%
groups = {
    "plain, β = 1": fine_numbers,
    "plain, annealed": gentle_numbers,
    "plain, β = D": torch.tensor([costly_numbers]),
    "strong, β = 1": peek_numbers,
    "strong, annealed": slow_numbers,
    "strong, free bits": free_numbers,
}
fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
for row, numbers in enumerate(groups.values()):
    for ax, values in zip(axes, numbers.T, strict=False):  # −ELBO, KL
        ax.plot(values, [row] * len(values), "o", color=plot.THIRD, alpha=0.6, markersize=7)
axes[0].set_yticks(range(len(groups)), groups)
axes[0].invert_yaxis()
axes[0].set_xlabel("−ELBO [nats], lower is better")
axes[1].set_xlabel("KL [nats]")
plot.show(
    fig,
    alt="One dot per seed. Left, −ELBO: strong decoders lie far below plain ones, with free bits a "
    "little above without. Right, KL: plain decoders at a dozen nats or so, β = D at zero; strong "
    "decoders near zero, with free bits far above it.",
)

# %% [markdown]
# **What is seen**, with every seed here. Beside the strong decoder the codes die although β = 1.
# Its −ELBO is *lower* than the plain VAE's: the bound itself doesn't mind. Annealing brings little
# back: look at its KL. Free bits bring it back, and the −ELBO gets worse: a used code is
# a choice of ours, paid in nats.
#
# **What is not seen:** that it must be so. All runs are short, on one data set; a longer run may
# find some use for z. Collapse by β is a mistake, to be mended. Collapse by a strong
# decoder may be the likelihood's own answer. If you need z for something else, say so in the loss.

# %%
# checkpoint: the peek sees only earlier pixels (by autograd), and the collapse is a collapse
pixels = torch.zeros(1, *images.shape, device=device, requires_grad=True)
row, column = size // 2, size // 2
(seen,) = torch.autograd.grad(peek.peek(pixels)[0, :, row, column].sum(), pixels)
later = seen[0].flatten(1)[:, row * size + column :]
# (not exactly 0 on a GPU: some of its convolutions are computed by a Fourier transform)
assert later.abs().max() <= (0 if device.type == "cpu" else 1e-3) * seen.abs().max()
assert seen.abs().max() > 0
if runtime.profile() != "smoke":
    assert costly_numbers[1] < 0.1 and costly_numbers[2] == 0  # KL [nats], active units
    assert late_numbers[0] > max(fine_numbers[:, 0].max(), gentle_numbers[:, 0].max())
    assert peek_numbers[:, 0].max() < fine_numbers[:, 0].min()  # −ELBO, every seed
    assert peek_numbers[:, 1].max() < 0.3 * fine_numbers[:, 1].min()  # KL
    assert slow_numbers[:, 1].max() < 0.3 * fine_numbers[:, 1].min()
    assert free_numbers[:, 1].min() > 3 * peek_numbers[:, 1].max()
    assert free_numbers[:, 0].min() > peek_numbers[:, 0].max()

# %% [markdown]
# ## 8.12 In colour, with a density
#
# **Question.** Grey values are no coin tosses, and colours even less. What changes if the
# likelihood is a real density, and the pictures are photographs?
#
# CIFAR-10 has photographs of 32×32 pixels in three channels. The decoder gives a mean picture m(z),
# and $p(x|z) = \mathcal N(m(z), \sigma^2 I)$, with *one* σ for all numbers. 8.5 showed that σ² is a
# β. We don't choose it: σ is one more weight. With S, the mean squared error per number, the loss
# contains $\frac{D}{2\sigma^2} S + D \log\sigma$; its derivative in σ is 0 at $\sigma^2 = S$.
#
# **Predict:** does σ rise or fall in training? Where does it end?

# %%
photo_name = runtime.budget(smoke="shapes", cpu="cifar10", gpu="cifar10")
photos, photos_held_out = data.load(photo_name), data.load(photo_name, split="test")
dims = math.prod(photos.shape)  # numbers in one picture
photo_z = 128  # photographs differ in more ways than clothes do
photo_steps = runtime.budget(smoke=20, cpu=2_200, gpu=30_000)  # some minutes on a CPU
print(f"{photos}: {dims:,} numbers per picture")

# %%
def gaussian_reconstruction(logits, x, log_sigma):
    """−log N(x; m, σ²I) of each picture (B,): the only thing that changes in 8.6's loop."""
    mean = 2 * torch.sigmoid(logits) - 1  # the mean picture m, in [-1, 1] as x is
    squares = (x - mean).square().flatten(1).sum(dim=1)
    return squares / (2 * torch.exp(2 * log_sigma)) + dims * (log_sigma + math.log(2 * math.pi) / 2)

# %%
torch.manual_seed(0)
colour = nets.VAE(photos.shape[1], photos.shape[0], photo_z, likelihood="gaussian")
colour_history = train.train_vae(
    photos, colour, steps=photo_steps, batch_size=batch_size, lr=lr,
    out=runtime.run_folder("08_colour"),
)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 2.8))
plot.curves(colour_history, ["sigma"], ax=axes[0], ylabel="σ, of numbers in [−1, 1]")
plot.curves(colour_history, ["kl"], ax=axes[1], smooth=50, ylabel="nats per picture")
plot.show(
    fig,
    alt="Left: σ falls from 0.37 at the start to a fraction of it, fast and then slowly. Right: "
    "the KL term rises over the same steps to many times the KL of the grey VAE.",
)

# %% [markdown]
# First the errors are larger than σ, and σ rises for some steps. Then they shrink, and σ
# follows. So $\beta = \sigma^2$ falls too: codes get cheaper just when the decoder can use them. A
# learned σ is a β chosen by the data. (It falls; 8.11's annealed β rises.) But a decoder with
# large errors keeps a large σ: it *believes* that photographs are so noisy.
#
# **In which unit do others report?** *Bits per dimension.* A file holds whole values v from 0 to
# 255: a model needs a probability of v, not a density at a point. **Dequantisation** adds uniform
# noise u from [0, 1) and takes the density of v + u. By Jensen that costs a little:
#
# $$\log P(v) = \log \int_0^1 p(v + u)\,du \ \ge\ E_u[\log p(v + u)] .$$

# %% [markdown]
# Our x lies in [−1, 1]: $x = (v + u)/128 - 1$. A density per unit of x is 128 times one per unit of
# v, in each dimension. So the change of variables adds log 128 to each dimension's nats:
#
# $$\text{bits per dimension} = \frac{1}{\log 2}\left(\frac{-\text{ELBO}}{D} + \log 128\right) .$$
#
# We train on the values without u, since the noise is far smaller than σ. The number is measured
# with u. **Predict:** how many bits does a model need that knows nothing, for which all 256 values
# are equally likely? And is our VAE better than the linear machine with as many latents?

# %%
def bits(nats):
    """Nats per picture of a density on [-1, 1]ᴰ → bits per dimension of 8-bit values."""
    return (nats / dims + math.log(128)) / math.log(2)


def dequantised(x):
    values = ((x + 1) * 127.5).round()  # the file's 0, 1, …, 255
    return (values + torch.rand_like(x)) / 128 - 1


@torch.no_grad()
def colour_terms(x):
    """−log p(x|z) of dequantised pictures and their KL, one draw of z each: (B, 2) [nats]."""
    logits, mu, logvar = colour(x)
    nll = gaussian_reconstruction(logits, dequantised(x), colour.log_sigma)
    return torch.stack([nll, kl_of(mu, logvar).sum(dim=1)], dim=1)

# %%
torch.manual_seed(0)
some = torch.randperm(len(photos))[:8_000]
rows = photos.images(some).flatten(1).cpu()
photo_average = rows.mean(dim=0)
_, spread, directions = torch.pca_lowrank(rows, q=photo_z)
variances = spread.square() / len(rows)
rest = (rows.var(dim=0).sum() - variances.sum()) / (dims - photo_z)  # noise in all the others
photo_patterns = directions * (variances - rest).clamp(min=0).sqrt()  # (D, Z)
linear = torch.distributions.LowRankMultivariateNormal(
    photo_average, photo_patterns, rest.clamp(min=1e-6).expand(dims)
)

terms = collect(colour_terms, photos_held_out, n=2_000)
x = photos_held_out.images(torch.arange(len(terms))).cpu()
noisy = dequantised(x)
vae_bits, linear_bits = bits(terms.sum(dim=1)), bits(-linear.log_prob(noisy.flatten(1)))
for label, values in {"VAE, at most": vae_bits, "linear machine": linear_bits}.items():
    error = values.std() / math.sqrt(len(values))
    print(f"{label:15} {values.mean():.3f} ± {error:.3f} bits per dimension of {photos.name}")
price = terms[:, 1].mean().item()
print(f"of the VAE's bits {price / dims / math.log(2):.3f} are its KL of {price:.0f} nats")
print(f"noise that they believe in: σ = {colour.log_sigma.exp():.3f}, {rest.sqrt():.3f}")

# %% [markdown]
# Knowing nothing costs 8 bits. In this one run the lines above say which machine needs fewer. If
# the linear one is ahead, compare the two σ: half the σ is about one bit less. (The KL costs
# little.) The linear machine is fitted exactly; the VAE had a short training, and gives a bound.
#
# Van den Oord et al. (2016) list 4.70 bits for one Gaussian with a full covariance, and 3.00 for
# their PixelRNN, on the original CIFAR-10. Both know what a neighbour says about a pixel. Ours pays
# for what the mean misses as if it were independent noise. So bits per dimension measure the *noise
# model* at least as much as the pictures.

# %%
shown = photos_held_out.images(torch.arange(8))
with torch.no_grad():
    again = colour.sample(colour.encode(shown)[0])
    dreams = colour.sample(torch.randn(16, photo_z, device=device))
drawn = photo_average + torch.randn(8, photo_z) @ photo_patterns.T
fig, axes = plt.subplots(4, 1, figsize=(6.8, 5), height_ratios=[1, 1, 2, 1])
for ax, pictures, title, shade in [
    (axes[0], shown, "held-out photographs", plot.REAL),
    (axes[1], again, "their reconstructions", plot.FAKE),
    (axes[2], dreams, "samples: z drawn from N(0, I)", plot.FAKE),
    (axes[3], drawn.view(8, *photos.shape), "samples of the linear machine", plot.FAKE),
]:
    plot.grid(pictures, ax=ax)
    ax.set_title(title, color=shade, fontsize=9)
plot.show(
    fig,
    alt="Eight small photographs. Their reconstructions keep colours and the large shapes and are "
    "strongly blurred. Samples of the VAE and of the linear machine are soft coloured clouds; no "
    "thing can be named with confidence.",
)

# %% [markdown]
# **What the figure says.** Colours and large shapes come back, edges don't: what z doesn't say is
# averaged (8.8), and σ calls the rest noise. Samples are clouds of colour, not things. A shoe is in
# the middle; a photograph shows anything anywhere. And these are means: a draw from p(x|z) has
# noise of size σ on every number.
#
# **What it doesn't say:** that a VAE can't do better. This is one short run.
# *Hierarchical* VAEs stack layers of latents from coarse to fine: NVAE (Vahdat & Kautz 2020) and
# VDVAE (Child 2021) report less than 3 bits per dimension. *Vector-quantised* VAEs (van den Oord et
# al. 2017) take codes from a learned table, and a second model draws them.

# %%
# checkpoint: 8 bits for knowing nothing; dequantisation against the exact probability of a value
even = torch.distributions.Uniform(-1.0, 1.0)
knows_nothing = bits(-even.log_prob(noisy).flatten(1).sum(dim=1))
torch.testing.assert_close(knows_nothing, torch.full((len(x),), 8.0))
assert abs(-even.log_prob(noisy).mean() / math.log(2) - 1) < 1e-6  # log 128 forgotten: 1 bit
with torch.no_grad():
    mean = colour.sample(colour.encode(x[:50].to(device))[0]).cpu().double()
    sigma = colour.log_sigma.exp().item()
values = ((x[:50] + 1) * 127.5).round().double()
low, high = ((edge / 128 - 1 - mean) / sigma for edge in (values, values + 1))
low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)  # the exact tail
exact = -(torch.special.ndtr(high) - torch.special.ndtr(low)).log2().mean().item()  # −log₂ P(v)
by_noise = bits(losses.gaussian_nll(mean, dequantised(x[:50]).double(), sigma)).item()
print(f"given z: {exact:.4f} bits exactly, {by_noise:.4f} by dequantisation")
assert exact - 0.001 < by_noise < exact + 0.02

# and: the package's first step has our loss, the saved net is the trained one, and σ² = S
torch.manual_seed(0)
fresh = nets.VAE(photos.shape[1], photos.shape[0], photo_z, likelihood="gaussian").to(device)
x = photos.batch(0, batch_size)
torch.manual_seed(5)
ours = gaussian_reconstruction(fresh(x)[0], x, fresh.log_sigma).mean().item()
first = train.train_vae(photos, fresh, steps=1, batch_size=batch_size, seed=5, progress=False)
assert abs(first["nll"][0] / ours - 1) < 0.01
again = nets.load(runtime.run_folder("08_colour") / "vae.safetensors").to(device)
with torch.no_grad():
    x = photos.images(torch.arange(500))
    S = (2 * torch.sigmoid(again(x)[0]) - 1 - x).square().mean().item()  # z is drawn
if runtime.profile() != "smoke":
    assert abs(math.sqrt(S) / colour.log_sigma.exp().item() - 1) < 0.1

# %% [markdown]
# ## 8.13 Break it: three wrong VAEs
#
# Each is an easy slip. Each runs, and its loss falls. Same budget, same net as the right one above.
#
# 1. **One tensor.** The encoder returns the same numbers as μ and as log σ².
# 2. **No draw.** z = μ: with the KL kept, and without it.
# 3. **A wrong sign**: reconstruction *minus* KL.
#
# **Predict** for each: which of the printed numbers gives it away? What do reconstructions look
# like, and what samples?

# %%
class OneTensor(VAE):
    def encode(self, x):
        both = self.to_mu(self.encoder(x))
        return both, both


class NoDraw(VAE):
    def reparameterise(self, mu, logvar):
        return mu


def no_kl(nll, kl, progress):
    return nll


def wrong_sign(nll, kl, progress):
    return nll - kl.sum(dim=1).mean()

# %%
print("as each program would report itself, on held-out pictures")
report("right", fine)
one_tensor, _ = train_narrow("1  one tensor", kind=OneTensor)
no_draw, _ = train_narrow("2a no draw, KL kept", kind=NoDraw)
plain, _ = train_narrow("2b no draw, no KL", no_kl, NoDraw)

# %%
torch.manual_seed(0)
minus = VAE(size, channels, z_dim, narrow)
try:
    minus_history = fit(minus, short, wrong_sign)
    print(f"3  its own loss ends at {minus_history['loss'][-1]:.3g}")
except runtime.UserError as problem:
    print("3  wrong sign:", problem)

# %%
# A −ELBO has an expectation over z, and 2a and 2b never drew: judge all by the right formula.
def honestly(label, model):
    """The same weights in the right VAE, measured by the right formula."""
    judge = VAE(size, channels, z_dim, narrow).to(device)
    judge.load_state_dict(model.state_dict())
    judge.encode = model.encode  # the one-tensor encoder stays as it is
    return report(label, judge)


models = {
    "right": fine,
    "1 one tensor": one_tensor,
    "2a no draw, KL kept": no_draw,
    "2b no draw, no KL": plain,
    "3 wrong sign": minus,
}
honest = {label: honestly(label, model) for label, model in models.items()}

plot.show(
    compare(models),
    alt="Reconstructions from the mean code: the right VAE, one tensor and both without a draw "
    "resemble their pictures; with the wrong sign no picture is left. Samples, the same draws in "
    "each row: the right VAE's are blurred things; without a draw, fragments or pale blobs; with "
    "the wrong sign no picture is left.",
)

# %%
@torch.no_grad()
def mu_and_sigma(model, n=300):
    mu, logvar = model.encode(held_out.images(torch.arange(min(n, len(held_out)))))
    return mu.flatten().cpu(), torch.exp(0.5 * logvar).flatten().cpu()


fig, axes = plt.subplots(1, 3, figsize=(7, 2.6), sharey=True)
for ax, title in zip(axes, ["right", "1 one tensor", "2a no draw, KL kept"], strict=True):
    ax.scatter(*mu_and_sigma(models[title]), s=1, alpha=0.2, color=plot.THIRD)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("μ")
axes[0].set_ylabel("σ")
plot.show(
    fig,
    alt="σ against μ. Right: a cloud with the outline of a tent: σ is near one only where μ is "
    "near zero, and smaller where μ is far from it. One tensor: a single rising curve. No draw: σ "
    "stays at about one.",
)

# %% [markdown]
# **How each shows.**
#
# 1. **One tensor**: all points lie on the curve $\sigma = e^{\mu/2}$. A code far to the right
#    *must* be vague, one far to the left exact. In this one run it works, with a worse −ELBO than
#    the right one. Its own numbers don't tell. Plot σ against μ.
# 2. **No draw**: the loss jumps when z is drawn. With the KL kept, σ has no effect on the
#    reconstruction, so the KL alone sets it: σ = 1. A KL near 0 beside a good reconstruction gives
#    it away. Without the KL it is 8.1's autoencoder: nothing keeps codes near N(0, I).
# 3. **Wrong sign**: the loss falls below 0 without end, which no Bernoulli −ELBO can.

# %% [markdown]
# In this one run 2a's first report looked better than the right one's, about as much as seeds
# differ in 8.11. (2b never trained σ, so its KL and −ELBO mean nothing.) Only the wrong sign
# destroys the reconstructions; the samples find both nets without a draw too. In the right encoder
# a latent that says nothing sits at μ = 0, σ = 1: the tent's top. One that says much needs codes
# far apart (large |μ|) and exact (small σ).
#
# A longer training with the wrong sign, such as a GPU's, overflows. The run then stops at the first
# number that isn't finite and says so; pictures of such a net are drawn as plain grey.

# %%
# checkpoint: the curve of (1); its KL is smallest at μ = 0; honest numbers rank the right first
mu, sigma = mu_and_sigma(one_tensor)
torch.testing.assert_close(sigma, torch.exp(mu / 2))
t = torch.linspace(-3, 3, 601)[:, None]
assert abs(t[divergences.kl_to_standard_normal(t, t).argmin()].item()) < 0.02
if runtime.profile() != "smoke":
    others = [value[0] for label, value in honest.items() if label != "right"]
    assert not any(other < honest["right"][0] for other in others)  # nan is no better

# %% [markdown]
# ## Exercises
#
# [The exercises](../exercises/08_vae.ipynb), with checks that name the mistake:
#
# - `reparameterise`: several draws per picture, with gradients.
# - `negative_elbo`: the whole loss, from logits as large as ±1000.
# - `best_sigma`: the σ of a Gaussian decoder, and so the β, that the data choose.
# - `vae_terms`, a repair: a VAE whose reconstructions are all the same picture.
# - `importance_weighted`: a bound tighter than the ELBO.
#
# To try at once: give 8.12's net 16 latents instead of 128. Where does σ end now, and why?

# %% [markdown]
# ## Recap
#
# - An autoencoder's codes lie anywhere; its decoder alone is not a generator.
# - log p(x) = ELBO + KL(q(z|x)‖p(z|x)) is an identity. The ELBO, the mean of log p(x|z) minus the
#   KL to the prior, can be computed; importance weights tighten it, by Jensen.
# - z = μ + σε lets the gradient through a draw: with far less noise than the score function where f
#   is smooth, with more where f oscillates.
# - Sum over pixels *and* latents. A mean over pixels is β = D; a Gaussian's σ² is a β too, and can
#   be learned.
# - Report −ELBO with count and standard error, KL and active units; look at reconstructions *and*
#   samples.
#
# Next: [chapter 09](09_latent_space.ipynb) moves around in the latent space on purpose.

# %% [markdown]
# ## References
#
# - Kingma & Welling 2014, [arXiv:1312.6114](https://arxiv.org/abs/1312.6114): the VAE,
#   reparameterisation, the closed-form KL. We use convolutions and grey pixels.
# - Rezende, Mohamed & Wierstra 2014, [arXiv:1401.4082](https://arxiv.org/abs/1401.4082): the same
#   idea at the same time.
# - Burda, Grosse & Salakhutdinov 2016, [arXiv:1509.00519](https://arxiv.org/abs/1509.00519):
#   importance weights and active units. We only measure with the weights, we don't train with them.
# - Higgins et al. 2017, β-VAE (ICLR): β as a dial. Theirs is meant; 8.5 is about the unmeant ones.

# %% [markdown]
# - Bowman et al. 2016, [arXiv:1511.06349](https://arxiv.org/abs/1511.06349): collapse beside a
#   strong decoder, KL annealing. Theirs reads words, ours neighbouring pixels.
# - Kingma et al. 2016, [arXiv:1606.04934](https://arxiv.org/abs/1606.04934): free bits. They share
#   λ among groups of latents; ours is one λ per dimension.
# - Loaiza-Ganem & Cunningham 2019, [arXiv:1907.06845](https://arxiv.org/abs/1907.06845): the
#   normaliser that Bernoulli lacks on grey values. We keep Bernoulli and call it what it is.
# - Tipping & Bishop 1999, *Probabilistic principal component analysis* (J. R. Stat. Soc. B 61): the
#   linear model of the first picture and of 8.3.

# %% [markdown]
# - Cremer, Li & Duvenaud 2018, [arXiv:1801.03558](https://arxiv.org/abs/1801.03558): the two gaps.
#   They also enlarge the family; we only measure.
# - Chatterjee & Diaconis 2018, [arXiv:1511.01437](https://arxiv.org/abs/1511.01437): how many draws
#   importance sampling needs. We only use their rule, e to the KL.
# - Hoffman & Johnson 2016, *ELBO surgery* (NIPS workshop): E[KL] as information and misfit.
# - Rybkin, Daniilidis & Levine 2021, [arXiv:2006.13202](https://arxiv.org/abs/2006.13202): one
#   learned σ. They also compute it from each batch; ours is a weight.
# - van den Oord et al. 2016, [arXiv:1601.06759](https://arxiv.org/abs/1601.06759): bits per
#   dimension on CIFAR-10 and their table. Our pictures may be JPEG copies: the output says so.
# - Vahdat & Kautz 2020, [arXiv:2007.03898](https://arxiv.org/abs/2007.03898); Child 2021,
#   [arXiv:2011.10650](https://arxiv.org/abs/2011.10650); van den Oord et al. 2017,
#   [arXiv:1711.00937](https://arxiv.org/abs/1711.00937): named, not run.
