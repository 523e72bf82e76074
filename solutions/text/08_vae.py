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
# # 8 · Exercises: the variational autoencoder
#
# Five functions to write, for [chapter 08](../chapters/08_vae.ipynb). Fill the empty answers and
# run the cell under each: it says ✓, or what is not right yet. How to work, and how to read what
# the checks say, is in the [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/08_vae.ipynb)
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

from gencourse import data, plot
from gencourse.checks import check

plot.style()
digits = data.load("digits")

# %% [markdown]
# ## 8.1 · A draw that lets the gradient through
#
# *warm-up · 5 minutes · `reparameterise`*
#
# An encoder says where a code lies and how exact it is; the decoder wants *one* code, and training
# wants a gradient. So the randomness comes from outside:
#
# $$z = \mu + \sigma\,\varepsilon, \qquad \varepsilon\sim\mathcal N(0, I)$$
#
# `mu`, `logvar`: (B, Z), with `logvar` $= \log\sigma^2$; `noise`: (K, B, Z), drawn already, K draws
# for each picture. Return the codes (K, B, Z), differentiable in `mu` and `logvar`.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write σ with `logvar`: which power of $\sigma^2$ is σ? Broadcasting does the rest.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $\sigma = e^{\frac12\log\sigma^2}$.
#
# </details>

# %%
def reparameterise(mu, logvar, noise):
    """Codes z (K, B, Z) from means and log-variances (B, Z) and noise (K, B, Z)."""
    # BEGIN SOLUTION
    return mu + torch.exp(0.5 * logvar) * noise
    # END SOLUTION


# %%
check("reparameterise", reparameterise)
torch.manual_seed(0)
mu, logvar = torch.tensor([[-1.0, 2.0]]), torch.tensor([[math.log(4.0), -2.0]])
z = reparameterise(mu, logvar, torch.randn(100_000, 1, 2))
print(f"asked for σ² = {logvar.exp()[0].tolist()}, drawn: {z.var(dim=0)[0].tolist()}")

# %% [markdown]
# ## 8.2 · The whole bound
#
# *core · 20 minutes · `negative_elbo`*
#
# The one loss of this chapter, from what the two nets return. Pixels are Bernoulli, so with
# $\pi = \text{sigmoid}(\text{logit})$ and $x$ mapped to $[0, 1]$:
#
# $$-\log p(x|z) = -\sum_i\left[x_i\log\pi_i + (1 - x_i)\log(1 - \pi_i)\right]$$
#
# Add β times the KL of $\mathcal N(\mu, \sigma^2)$ from $\mathcal N(0, I)$, whose closed form you
# can derive again (or look up in 8.6).
#
# `logits`, `x`: (B, C, H, W), with `x` in **[−1, 1]**; `mu`, `logvar`: (B, Z); `beta`: a number.
# Return a scalar: nats per picture, a mean over the batch. Logits may be as large as ±1000: what
# is $\log(1-\pi)$ there, and what would a computer say?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Three different reductions meet here: pixels, latents, batch. Decide for each whether the equation
# has a sum or a mean. And $\log\text{sigmoid}(-1000)$ should be computed without computing the
# sigmoid.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="sum") / len(x)` is the first
# term; $\frac12\sum_j(\mu_j^2 + \sigma_j^2 - \log\sigma_j^2 - 1)$ is one picture's KL.
#
# </details>

# %%
def negative_elbo(logits, x, mu, logvar, beta):
    """−log p(x|z) + β·KL of logits and x (B, C, H, W), mu and logvar (B, Z) → scalar [nats]."""
    # BEGIN SOLUTION
    x01 = (x + 1) / 2
    nll = F.binary_cross_entropy_with_logits(logits, x01, reduction="none").flatten(1).sum(dim=1)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
    return (nll + beta * kl).mean()
    # END SOLUTION


# %%
check("negative_elbo", negative_elbo)
x = digits.images(torch.arange(64)).cpu()
know_nothing = negative_elbo(torch.zeros_like(x), x, torch.zeros(64, 8), torch.zeros(64, 8), 1.0)
print(f"logits 0 and codes that say nothing: {know_nothing:.2f} nats")
print(f"256 log 2 = {256 * math.log(2):.2f}")

# %% [markdown]
# ## 8.3 · The σ that chooses itself
#
# *core · 20 minutes · `best_sigma`*
#
# With Gaussian pixels, σ is a hidden β (8.5): $\beta = \sigma^2$. Who sets it? Leave it to the
# data. The loss of one picture with D pixels is
#
# $$\mathrm{NLL}_\sigma = \sum_i\frac{(x_i - m_i)^2}{2\sigma^2} + D\log\sigma + \frac D2\log 2\pi.$$
#
# Find the one σ, shared by all pixels of all pictures, that makes the batch's mean smallest.
#
# `mean`, `x`: (B, C, H, W), never equal everywhere. Return a pair: σ, and the smallest value itself
# in nats per picture, two scalars; the second is differentiable in `mean`. Predict: does it matter
# for that gradient whether it also flows through σ?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write S for the mean of $(x_i - m_i)^2$ over everything. The batch's mean NLL is then a function
# of σ, S and D alone; differentiate it in σ.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $-DS/\sigma^3 + D/\sigma = 0$. Put the solution back into the NLL: the first term becomes $D/2$.
# (At the minimum the derivative in σ is 0, so the gradient through σ adds nothing.)
#
# </details>

# %%
def best_sigma(mean, x):
    """The best shared σ for means and pictures (B, C, H, W), and its NLL [nats per picture]."""
    # BEGIN SOLUTION
    variance = (x - mean).square().mean()
    D = x[0].numel()
    return variance.sqrt(), D / 2 * (torch.log(2 * math.pi * variance) + 1)
    # END SOLUTION


# %%
check("best_sigma", best_sigma)
x = digits.images(torch.arange(1_500)).cpu()
rows = x.flatten(1) - x.flatten(1).mean(dim=0)
directions = torch.linalg.svd(rows, full_matrices=False).Vh
sizes = [1, 2, 4, 8, 16, 32]
kept = [(rows @ directions[:k].T @ directions[:k]).view_as(x) for k in sizes]
found = [best_sigma(mean, rows.view_as(x))[0].item() for mean in kept]
fig, ax = plt.subplots(figsize=(5, 3))
ax.loglog(sizes, [s**2 for s in found], "o-", color=plot.FAKE)
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.set(xlabel="directions kept of each digit (PCA)", ylabel="β = σ²")
plot.show(fig, alt="The best σ squared, which is β, falls steadily, by more than ten times, as a "
          "linear autoencoder keeps more directions.")

# %% [markdown]
# A decoder that knows little believes in much noise, and codes are dear; as it gets better, σ
# falls, and codes get cheaper. So a learned σ is an annealed β. What it doesn't say: that this β
# gives the best *samples*. And a decoder that copies x exactly has σ = 0 and an NLL of −∞: a
# density has no floor, which is why this number can't be compared with a Bernoulli's.

# %% [markdown]
# ## 8.4 · Repair: the VAE that draws one picture
#
# *core · 20 minutes · repair · `vae_terms`*
#
# Both nets of this VAE are linear, so that a training takes a second. `x`: (B, D) in [−1, 1];
# `encoder`: (2Z, D), its first Z rows for the means, the others for the log-variances; `decoder`:
# (D, Z); `bias`: (D,); `noise`: (B, Z). The program returns the reconstruction term and
# the KL term, two scalars [nats per picture] whose sum is minimised, and μ and log σ², (B, Z) each.

# %%
def broken_terms(x, encoder, decoder, bias, noise):
    Z = noise.shape[1]
    codes = x @ encoder.T  # (B, 2Z)
    mu, logvar = codes[:, :Z], codes[:, :Z]
    z = mu + torch.exp(0.5 * logvar) * noise
    logits = z @ decoder.T + bias
    reconstruction = F.binary_cross_entropy_with_logits(logits, (x + 1) / 2)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1).mean()
    return reconstruction, kl, mu, logvar

# %% [markdown]
# `trained` trains it on digits, and `symptoms` shows what a doctor would ask for: the two terms,
# reconstructions, and μ against σ of every code.

# %%
def trained(terms, steps=250, Z=8):
    """The weights (encoder, decoder, bias) after training with these terms on digits."""
    torch.manual_seed(0)
    weights = [0.03 * torch.randn(2 * Z, 256), 0.1 * torch.randn(256, Z), torch.zeros(256)]
    optimizer = torch.optim.Adam([w.requires_grad_() for w in weights], lr=0.01)
    for step in range(steps):
        x = digits.batch(step, 64).cpu().flatten(1)
        reconstruction, kl, *_ = terms(x, *weights, torch.randn(len(x), Z))
        optimizer.zero_grad()
        (reconstruction + kl).backward()
        optimizer.step()
    return [w.detach() for w in weights]

# %%
def symptoms(terms):
    """Train with these terms, print them, and draw reconstructions and codes."""
    encoder, decoder, bias = trained(terms)
    x = digits.images(torch.arange(256)).cpu().flatten(1)
    noise = torch.randn(len(x), decoder.shape[1], generator=torch.Generator().manual_seed(0))
    first, second, mu, logvar = terms(x, encoder, decoder, bias, noise)
    print(f"reconstruction term {first:.2f}, KL term {second:.2f}, sum {first + second:.2f}")
    again = 2 * torch.sigmoid(mu @ decoder.T + bias) - 1
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.4), width_ratios=[2, 1])
    plot.grid(torch.cat([x[:8], again[:8]]).view(16, 1, 16, 16), ax=axes[0])
    axes[0].set_title("digits, and their reconstructions", fontsize=10)
    axes[1].scatter(mu, torch.exp(0.5 * logvar), s=2, alpha=0.3, color=plot.THIRD)
    axes[1].set(xlabel="μ", ylabel="σ", xlim=(-4, 4), ylim=(0, 2))
    return fig


plot.show(symptoms(broken_terms), alt="Eight digits above eight identical blurs. "
          "Right: all codes have a mean of about 0 and a σ of about 1.")

# %% [markdown]
# All reconstructions are the average digit, though nothing crashed and the sum is small,
# suspiciously small: a 16×16 picture of independent pixels should cost tens of nats at least. The
# KL is 0: the codes say nothing. What the figure doesn't tell is whether *one* cause explains
# everything. Where codes are dead, no fault in the codes can show.
#
# So mend what you find, call `symptoms(vae_terms)` in a cell of your own, and look again. The
# mended `vae_terms` has the same arguments and returns the same four things, right.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Compare the two terms' units: how many numbers does each of them add up for one picture? (8.5 has
# a table of such habits.)
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# After that, σ follows μ on one curve: no code can be central and exact at once. Read the line with
# `codes[:, :Z]` aloud.
#
# </details>

# %%
def vae_terms(x, encoder, decoder, bias, noise):
    """Reconstruction and KL term of a linear VAE [nats per picture], and mu, logvar (B, Z)."""
    # BEGIN SOLUTION
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    z = mu + torch.exp(0.5 * logvar) * noise
    logits = z @ decoder.T + bias
    x01 = (x + 1) / 2
    reconstruction = F.binary_cross_entropy_with_logits(logits, x01, reduction="sum") / len(x)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1).mean()
    return reconstruction, kl, mu, logvar
    # END SOLUTION


# %%
check("vae_terms", vae_terms)
plot.show(symptoms(vae_terms), alt="Eight digits above soft, different reconstructions. Right: a "
          "cloud of codes: μ spreads over several units, σ has values of its own.")

# %% [markdown]
# ## 8.5 · A tighter bound
#
# *stretch · 30 minutes · `importance_weighted`*
#
# How far is −ELBO above the truth? Importance weights (8.3) tell, for any decoder. With K draws
# $z_k$ from q(z|x),
#
# $$\log p(x) \approx \log\frac1K\sum_{k=1}^K w_k, \qquad
# w_k = \frac{p(x|z_k)\,p(z_k)}{q(z_k|x)}.$$
#
# `log_likelihood`: (K, B), $\log p(x|z_k)$ [nats]; `z`: (K, B, Z); `mu`, `logvar`: (B, Z) of
# $q(z|x) = \mathcal N(\mu, \operatorname{diag}\sigma^2)$; the prior is $\mathcal N(0, I)$. Return
# (B,).
#
# Predict: a log-likelihood of −900 nats is common for pictures. What is $e^{-900}$ to a computer?
# And what helps for one picture: does it help for several that differ by hundreds of nats?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write $\log w_k$ as a sum of three log densities, each a sum over the Z latents. Both Gaussians
# have the same $-\frac Z2\log2\pi$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $\log w_k = \log p(x|z_k) + \frac12\sum_j\left[(z_j-\mu_j)^2/\sigma_j^2 + \log\sigma_j^2 -
# z_j^2\right]$. The logarithm of a sum of exponentials is `torch.logsumexp`, over the draws; the
# 1/K is a $-\log K$.
#
# </details>

# %%
def importance_weighted(log_likelihood, z, mu, logvar):
    """Estimate of log p(x) (B,) from log p(x|z) (K, B), draws z (K, B, Z), and q's (B, Z)."""
    # BEGIN SOLUTION
    log_ratio = 0.5 * ((z - mu).square() / logvar.exp() + logvar - z.square()).sum(dim=2)
    return (log_likelihood + log_ratio).logsumexp(dim=0) - math.log(len(z))
    # END SOLUTION

# %% [markdown]
# To try it on something known: a picture of five numbers, x = Wz + noise of standard deviation s.
# Here $\log p(x)$ has a closed form (8.3), and a poor q is easy to make.

# %%
torch.manual_seed(3)
W, s = torch.randn(5, 2).double(), 0.5
p = torch.distributions.MultivariateNormal(torch.zeros(5).double(), W @ W.T + s**2 * torch.eye(5))
x = p.sample()
log_p = p.log_prob(x)
Sigma = torch.linalg.inv(torch.eye(2) + W.T @ W / s**2)
best = Sigma @ W.T @ x / s**2, 1 / torch.linalg.inv(Sigma).diagonal()  # mean, best variances
qs = {"the best diagonal q": best, "q = the prior": (0 * best[0], 1 + 0 * best[1])}
counts = [1, 4, 16, 64, 256, 1024]

# %%
check("importance_weighted", importance_weighted)
fig, ax = plt.subplots()
ax.axhline(log_p, color=plot.REAL, label="log p(x), closed form")
for (label, (mu, variance)), colour in zip(qs.items(), (plot.THIRD, plot.FOURTH), strict=True):
    mu, logvar, estimates = mu.expand(200, 2), variance.log().expand(200, 2), []
    for K in counts:
        z = mu + torch.exp(0.5 * logvar) * torch.randn(K, 200, 2).double()
        squares = (x - z @ W.T).square().sum(dim=2) / (2 * s**2)
        log_likelihood = -squares - 2.5 * math.log(2 * math.pi * s**2)
        estimates.append(importance_weighted(log_likelihood, z, mu, logvar))
    means = [e.mean() for e in estimates]
    ax.errorbar(counts, means, [e.std() for e in estimates], color=colour, capsize=3, label=label)
ax.set(xscale="log", xlabel="draws K", ylabel="estimate [nats]")
ax.legend()
plot.show(fig, alt="Estimates of log p(x) against the number of draws, with their spread over 200 "
          "repetitions: both rise to the closed form, the better q much sooner.")

# %% [markdown]
# ## What you have now
#
# The VAE's loss down to its last constant, tested where such code usually breaks, and two
# instruments that see what the loss alone hides: μ against σ, and a bound tighter than the ELBO.
# Next: [chapter 09](../chapters/09_latent_space.ipynb), which walks through the codes.
