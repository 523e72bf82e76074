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
# # 2 · The minimax game
#
# A forger and a judge play against each other, and the score they play for turns out to be a
# divergence you already know.

# %% [markdown]
# **After this chapter you can** derive the best possible judge and the value of the game against
# it · train a GAN in one dimension and read its curves · explain why gradient steps can circle
# around a saddle, what helps, and why hardly anybody trains the forger on $\log(1-D)$.
#
# **You need** [chapter 01](01_kl_divergence.ipynb): KL and Jensen–Shannon divergence in nats.
#
# <!-- stamp -->
# *Run time: 1.9 min, peak memory 0.8 GB, `cpu` profile
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/02_minimax.ipynb)
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

from gencourse import divergences, losses, plot, runtime, widgets

# %%
plot.style()
runtime.seed_everything(0)
print(runtime.describe())

# %%
SAMPLES = runtime.budget(smoke=20_000, cpu=200_000, gpu=200_000)  # enough for three digits of V
JUDGE_STEPS = runtime.budget(smoke=100, cpu=1_000, gpu=1_000)  # enough for D* to show
GAN_STEPS = runtime.budget(smoke=60, cpu=1_500, gpu=1_500)  # q reaches p before the end
SEEDS = range(runtime.budget(smoke=1, cpu=3, gpu=3))  # one run proves little: each is repeated
STALL_STEPS = runtime.budget(smoke=60, cpu=800, gpu=800)  # long enough for −log D to arrive
BATCH = 256  # with less, the noise in one batch hides what the game does
WIDTH = 32  # enough bends for two bumps; a CPU is quick enough for such small nets
G_RATE = 1e-3  # the forger moves slowly …
D_RATE = 5e-3  # … and the judge quickly, so that it stays near its best answer (section 2.6)
BETA1 = 0.0  # Adam without momentum; section 2.6 shows what momentum does to this game

# %% [markdown]
# ## The cast
#
# Everything in this chapter happens on a line, so that nothing is hidden.
#
# - $p$ is the density of **real** data: two bumps. Always blue.
# - $q$ is the density of what the **forger** (the *generator* $G$) makes. Always orange.
# - $D(x)\in(0,1)$ is the **judge** (the *discriminator*): its probability that $x$ is real.
#   Always green.
#
# Integrals are sums over narrow cells; logarithms are natural, so every value is in nats.

# %%
DX = 0.02
X = torch.arange(-750, 750, dtype=torch.float64) * DX + DX / 2  # cell centres from −15 to 15


def log_normal(x, mean, scale):
    """log N(x; mean, scale²), elementwise [nats]."""
    return -0.5 * ((x - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))


# %%
def log_p(x):
    """log density of the real data: 40 % in a bump at −2, 60 % in a wider one at 1.5."""
    left, right = log_normal(x, -2.0, 0.5), log_normal(x, 1.5, 0.8)
    return torch.logaddexp(math.log(0.4) + left, math.log(0.6) + right)


def sample_p(n):
    """n real data points, shape (n, 1)."""
    left = torch.rand(n, 1) < 0.4
    return torch.where(left, -2.0 + 0.5 * torch.randn(n, 1), 1.5 + 0.8 * torch.randn(n, 1))


# %%
def draw_game(ax, q, d, title=None, x_q=X, x_d=X, judge="D"):
    """p (blue), q (orange) as densities; the judge d (green) on a second axis from 0 to 1."""
    plot.density(X, log_p(X).exp(), ax=ax, color=plot.REAL, label="p, real")
    plot.density(x_q, q, ax=ax, color=plot.FAKE, label="q, generated")
    ax.set(xlim=(-6, 6), ylim=(0, 0.75), xlabel="x", title=title)
    right = ax.twinx()
    right.plot(x_d, d, color=plot.THIRD, label=judge)
    right.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
    right.set(ylim=(0, 1.35), yticks=[0, 0.5, 1])  # the room above is for legends
    right.set_ylabel("D(x) [probability]", color=plot.THIRD)
    return right


# %% [markdown]
# ## One picture
#
# Where this chapter is heading. Left: the forger's $q$ is not yet $p$, and the best judge (green)
# can tell where. Right: the price of playing a game instead of minimising one loss. Plain gradient
# steps do not go to the solution (the star). They go **around** it, and away.

# %%
log_q = log_normal(X, 0.5, 1.0)
best_logit = log_p(X) - log_q  # of the best judge; section 2.2 derives it
x, y, path = 1.0, 0.0, []
for _ in range(60):
    path.append([x, y])
    x, y = x - 0.2 * y, y + 0.2 * x  # x goes down xy, y goes up
path = torch.tensor(path)  # (60, 2)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=[1.6, 1])
green = draw_game(left, log_q.exp(), torch.sigmoid(best_logit), judge="best judge D*")
left.legend(loc="upper left")
green.legend(loc="upper right")
plot.field(lambda x, y: (-y, x), limits=(-3, 3), ax=right)
right.plot(path[:, 0], path[:, 1], "o-", color=plot.FOURTH, markersize=3, linewidth=1)
right.plot(0, 0, "k*", markersize=12)
right.set(xlabel="forger's parameter x", ylabel="judge's parameter y", title="the game xy")
plot.show(fig, alt="Left: two blue bumps p, an orange bell q between them, and a green judge that "
                   "is high where p exceeds q. Right: gradient steps on the game xy spiral away "
                   "from the star.")

# %% [markdown]
# ## 2.1 The score of the game
#
# **Question.** How do we pay a judge so that it earns most by saying what it believes?
#
# Each round it judges one real $x\sim p$ *and* one generated $\tilde x\sim q$, each by itself. For
# each of the two it is paid the logarithm of the probability that it gave to the truth, and the two
# payments are added. On average a round pays the **value function**
#
# $$V(D,G)=\mathbb E_{x\sim p}\big[\log D(x)\big]
# +\mathbb E_{\tilde x\sim q}\big[\log(1-D(\tilde x))\big].$$
#
# The judge wants $V$ large, the forger wants it small: $\min_G\max_D V(D,G)$. What one wins the
# other loses: a *zero-sum* game.

# %% [markdown]
# A judge that answers ½ to everything scores $\log\frac12+\log\frac12=-\log4$ nats. (That is 2
# bits: two yes-no questions, and it knows neither answer.) A judge that is always sure and never
# wrong scores $0$, the maximum. One that is sure and wrong loses without limit.
#
# **Predict.** Let $p=\mathcal N(1,1)$, $q=\mathcal N(-1,1)$, and take judges $D_a(x)=\sigma(ax)$
# with the sigmoid $\sigma(t)=1/(1+e^{-t})$. So positive $x$ count as real. Which steepness $a$
# earns most: a gentle one, or a very steep one, which nearly says 0 or 1?
#
# In code a judge returns the **logit** $l$, not the probability: $D=\sigma(l)$. Then
# $\log D=\log\sigma(l)$. And since $1-\sigma(l)=\sigma(-l)$, $\log(1-D)=\log\sigma(-l)$. Both stay
# accurate even when $D$ is so close to 0 or 1 that rounding would give $\log 0$.

# %%
def value(real_logits, fake_logits):
    """V(D, G) from logits of real and of generated samples [nats]."""
    return F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean()


# %%
x_real = 1 + torch.randn(SAMPLES)
x_fake = -1 + torch.randn(SAMPLES)
slopes = torch.linspace(-0.5, 8, 69)
values = torch.stack([value(a * x_real, a * x_fake) for a in slopes])
best = slopes[values.argmax()].item()
print(f"best steepness {best:.2f}, value {values.max():.3f} nats; −log 4 = {-math.log(4):.3f}")

# %%
fig, ax = plt.subplots()
ax.plot(slopes, values, color=plot.THIRD)
ax.plot(best, values.max(), "o", color=plot.THIRD)
ax.axhline(-math.log(4), color="0.5", linestyle="--", linewidth=1)
ax.text(0.3, -math.log(4) - 0.08, "the judge that says ½: −log 4", color="0.4")
ax.set(xlabel="steepness a of the judge σ(ax)", ylabel="V [nats]")
plot.show(ax, alt="V against the steepness: it rises from below −log 4 to a maximum near a = 2 "
                  "and then falls in a straight line, below −log 4 again for steep judges.")

# %% [markdown]
# The maximum is near $a=2$; the steepest judges earn less than the one that says ½. The logarithm
# punishes a judge that is surer than it should be: where the two bells overlap, nobody can be sure.
#
# And 2 is no accident: $\log\frac{p(x)}{q(x)}=\frac{(x+1)^2-(x-1)^2}{2}=2x$. The best of these
# judges has the log-ratio of the densities as its logit. Is it the best of *all* judges? The figure
# can't say. Section 2.2 does.

# %%
# checkpoint: V is binary cross-entropy with the sign turned, by torch's loss and by the course's
real, fake = 2 * x_real, 2 * x_fake
torch.testing.assert_close(-value(real, fake), losses.discriminator_loss(real, fake))
bce = F.binary_cross_entropy_with_logits
bce_sum = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
torch.testing.assert_close(-value(real, fake), bce_sum)
assert abs(best - 2) < 0.5
coin = torch.rand(SAMPLES) < 0.5  # chapter 01's game: a coin decides, one x per round
payment = torch.where(coin, F.logsigmoid(real), F.logsigmoid(-fake)).mean()
assert abs(payment - value(real, fake) / 2) < 0.02
print(f"the judge's loss is −V ✓  Two x a round pay {-bce_sum:.3f} nats, one pays {payment:.3f}")

# %% [markdown]
# ## 2.2 The best judge
#
# **Question.** With $G$ fixed, which $D$ is best, if it may be any function at all?
#
# Write both expectations as one integral:
#
# $$V=\int \big[\,p(x)\log D(x)+q(x)\log(1-D(x))\,\big]\,dx.$$
#
# $D(x)$ at one $x$ says nothing about $D$ at another. So we may maximise the bracket **point by
# point**: at one $x$, with the judge's answer $u=D(x)$ and $p$, $q$ short for $p(x)$, $q(x)$,
# maximise $h(u)=p\log u+q\log(1-u)$ on $(0,1)$.
#
# $$h'(u)=\frac pu-\frac q{1-u}=0\iff p(1-u)=qu\iff u=\frac p{p+q},$$
#
# and $h''(u)=-\frac p{u^2}-\frac q{(1-u)^2}<0$, so it is the only maximum. (If $q=0$, $h$ rises all
# the way to $u=1$. If $p=0$, it rises towards $u=0$. The formula holds there too.) Therefore
#
# $$\boxed{D^*(x)=\frac{p(x)}{p(x)+q(x)}}\qquad\text{with logit}\quad
# \log\frac{D^*}{1-D^*}=\log\frac{p(x)}{q(x)}.$$
#
# Where $p+q=0$ the value of $D$ does not matter at all. Keep that in mind.

# %%
u = torch.linspace(0.01, 0.99, 981)  # possible answers at one x
fig, ax = plt.subplots()
for p, q, line in ((0.3, 0.1, "-"), (0.2, 0.2, "--"), (0.05, 0.3, ":")):
    h = p * u.log() + q * (1 - u).log()
    print(f"p = {p}, q = {q}: best of 981 answers {u[h.argmax()]:.3f}, p/(p+q) = {p / (p + q):.3f}")
    ax.plot(u, h, line, color=plot.THIRD, label=f"p = {p}, q = {q}")
    ax.plot(p / (p + q), h.max(), "o", color=plot.THIRD)
ax.set(xlabel="the judge's answer u at one x", ylabel="p log u + q log(1−u)", ylim=(-1, 0))
ax.legend(loc="lower center")
plot.show(ax, alt="Three concave curves; each has its single maximum, marked by a dot, at p over "
                  "p plus q.")

# %% [markdown]
# Now let us *find* it. A judge that knows neither $p$ nor $q$ sees only samples, and climbs $V$ by
# gradient steps. Here $q=\mathcal N(0.5,1)$.
#
# **Predict.** Sketch $D^*$ over the two bumps before you run: where is it near 1, where near 0?
# And what will the net say at $x=-5$, where it hardly ever sees a sample?

# %%
def mlp(*tail):
    """A net on numbers: (B, 1) → (B, 1), then `tail`."""
    hidden = [nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1), *tail)


D = mlp(nn.Flatten(0))  # (B, 1) → (B,) logits
d_opt = torch.optim.Adam(D.parameters(), lr=D_RATE)
for _ in range(JUDGE_STEPS):
    x_real, x_fake = sample_p(BATCH), 0.5 + torch.randn(BATCH, 1)  # (B, 1) each
    loss = -value(D(x_real), D(x_fake))  # descending −V climbs V
    d_opt.zero_grad()
    loss.backward()
    d_opt.step()
print(f"last batch: V = {-loss.item():.3f} nats")

# %%
with torch.no_grad():
    found_logit = D(X.float()[:, None]).double()  # (1500,)

fig, ax = plt.subplots(figsize=(7, 3.6))
green = draw_game(ax, log_q.exp(), torch.sigmoid(found_logit), judge="D, trained on samples")
green.plot(X, torch.sigmoid(best_logit), "k--", linewidth=1.2, label="D* = p / (p + q)")
ax.legend(loc="upper left")
green.legend(loc="upper right")
plot.show(fig, alt="The trained judge, green, lies on the dashed black D* wherever p or q has "
                   "mass; at the far left and right, where there are no samples, the two differ.")

# %% [markdown]
# Where there are samples the net has found $p/(p+q)$, without ever seeing a density. GANs live on
# this: **a classifier estimates a ratio of densities.** (The last batch may pay it a little more
# than $D^*$ earns on average, which the next checkpoint prints. That is the luck of 256 samples.)
#
# Far out on both sides $D^*$ returns to 0, because
# the tails of $q$ are the heavier ones there. The net can't know this: it has no samples there. At
# $x=-5$ it says nearly 1, where $D^*$ is nearly 0. Its answer depends on its layers and on the
# weights it started with. Yet if the forger makes a sample there, it is just this slope that tells
# it which way to move.

# %%
def value_on_grid(logit, log_q):
    """V by integration over the cells of X [nats]."""
    real, fake = log_p(X).exp() * F.logsigmoid(logit), log_q.exp() * F.logsigmoid(-logit)
    return ((real + fake) * DX).sum().item()


# %%
# checkpoint: no judge beats D*, and the trained one is close to it where the data are
v_best, v_found = value_on_grid(best_logit, log_q), value_on_grid(found_logit, log_q)
weight = (log_p(X).exp() + log_q.exp()) / 2
gap = (weight * (torch.sigmoid(found_logit) - torch.sigmoid(best_logit)).abs() * DX).sum().item()
print(f"V(D*) = {v_best:.4f}, V(trained D) = {v_found:.4f}, mean |D − D*| = {gap:.4f}")
assert v_found <= v_best + 1e-9
if runtime.profile() != "smoke":
    assert gap < 0.05

# %% [markdown]
# ## 2.3 What the game is worth: 2·JS − log 4
#
# **Question.** Suppose the judge always plays $D^*$. What is the forger then minimising?
#
# Put $D^*$ into $V$ and write $p+q=2m$, with the mixture $m=\frac12(p+q)$:
#
# $$V(D^*,G)=\mathbb E_p\log\frac{p}{p+q}+\mathbb E_q\log\frac{q}{p+q}
# =\mathbb E_p\log\frac{p}{2m}+\mathbb E_q\log\frac{q}{2m}.$$
#
# In each expectation the ½ of $\frac p{2m}=\frac12\cdot\frac pm$ comes out as $-\log2$. What stays
# are two KL divergences to $m$:

# %% [markdown]
# $$V(D^*,G)=\mathrm{KL}(p\|m)+\mathrm{KL}(q\|m)-2\log2=\boxed{2\,\mathrm{JS}(p,q)-\log4}.$$
#
# Since $0\le\mathrm{JS}\le\log2$ (chapter 01), the value lies between $-\log4$, reached only at
# $q=p$, and $0$, when $p$ and $q$ share no point. So $\min_G\max_D V$ has its solution exactly
# where the forgery is perfect and the best judge says ½. (In chapter 01's game a coin decided
# whether $x$ comes from $p$ or $q$: one $x$ per round instead of two. So there
# $\mathrm{JS}=\log2+\tfrac12V$, which is the same line.)
#
# **Predict.** Slide a bell $q=\mathcal N(c,0.8^2)$ from left to right over the two bumps. Where is
# the value lowest? What does it look like far away?

# %%
def monte_carlo_value(center, scale, n):
    """V(D*, G) from n samples each, with its standard error [nats]."""
    x_real = sample_p(n).double().squeeze(1)
    x_fake = center + scale * torch.randn(n, dtype=torch.float64)
    a = F.logsigmoid(log_p(x_real) - log_normal(x_real, center, scale))  # log D*
    b = F.logsigmoid(log_normal(x_fake, center, scale) - log_p(x_fake))  # log(1 − D*)
    return (a.mean() + b.mean()).item(), ((a.var() + b.var()) / n).sqrt().item()


def both_routes(center, scale):
    """V(D*, G) by integration, and 2·JS − log 4 from gencourse.divergences [nats]."""
    log_q = log_normal(X, center, scale)
    js = divergences.js(log_p(X).exp() * DX, log_q.exp() * DX).item()  # masses of the cells
    return value_on_grid(log_p(X) - log_q, log_q), 2 * js - math.log(4)


# %%
centers = torch.linspace(-8, 8, 161).tolist()
curve = [both_routes(c, 0.8)[0] for c in centers]
few = centers[::10]
points = torch.tensor([monte_carlo_value(c, 0.8, 1_000) for c in few])  # (17, 2): V, error

fig, ax = plt.subplots(figsize=(7, 3.4))
ax.plot(centers, curve, color=plot.THIRD, label="V(D*, G), integrated")
ax.errorbar(few, points[:, 0], points[:, 1], fmt="ko", ms=4, capsize=3, label="1,000 samples")
for level, text in ((-math.log(4), "−log 4: q = p"), (0, "0: nothing in common")):
    ax.axhline(level, color="0.5", linestyle="--", linewidth=1)
    ax.text(-8, level + 0.03, text, color="0.4")
ax.set(xlabel="centre c of q", ylabel="V(D*, G) [nats]", ylim=(-1.5, 0.2))
ax.legend(loc="lower left", bbox_to_anchor=(0, 0.12))
plot.show(ax, alt="The value against the centre of q: flat at 0 far left and far right, with one "
                  "dip over each of the two bumps, the deeper one at the right; samples with "
                  "error bars lie on it.")

# %% [markdown]
# Two dips, one per bump; neither reaches $-\log4$, because one bell can't be two bumps. A forger
# that can only shift this bell, and starts at the left, slides into the left dip and stays: a first
# look at *mode collapse*, [chapter 06](06_mode_collapse.ipynb).
#
# And far away the curve goes **flat**: JS is stuck at its ceiling, $\log2$, and a forger that
# descends it learns nothing. The figure assumes a perfect judge. A real judge scores less than
# $D^*$, and the slope of its score is another one.
#
# Still, a score above $-\log4$ proves something. Since $V(D,G)\le V(D^*,G)$, **every** judge gives
# a lower bound, $\mathrm{JS}\ge\frac12\big(V(D,G)+\log4\big)$. (A bound below 0 says nothing new.)

# %% [markdown]
# Now play the forger yourself against the perfect judge. Move the sliders until the gauge is as low
# as you can bring it. Watch what $D^*$ does at the edges when you make $q$ wider or narrower
# than $p$, and how little $V$ changes when $q$ is far away.

# %%
def draw_explorer(mean, scale):
    log_q = log_normal(X, mean, scale)
    v = value_on_grid(log_p(X) - log_q, log_q)
    fig, (ax, gauge) = plt.subplots(1, 2, figsize=(8, 3.3), width_ratios=[6, 1], layout="none")
    fig.subplots_adjust(left=0.08, right=0.97, bottom=0.16, top=0.86, wspace=0.42)
    green = draw_game(ax, log_q.exp(), torch.sigmoid(log_p(X) - log_q), judge="D*")
    ax.legend(loc="upper left")
    green.legend(loc="upper right")
    gauge.bar(0, v + math.log(4), bottom=-math.log(4), width=0.6, color=plot.THIRD)
    gauge.set(xlim=(-0.5, 0.5), ylim=(-math.log(4), 0), xticks=[], xlabel="V(D*, G) [nats]")
    gauge.set_title(f"V = {v:.3f}\nJS = {(v + math.log(4)) / 2:.3f}", fontsize=10)
    return fig


widgets.explore(
    draw_explorer,
    alt="p, q and the best judge with the forger's mean and scale on sliders, and a gauge for V "
    "that stands on −log 4.",
    mean=(-5.0, 5.0, -1.0),
    scale=(0.2, 2.5, 1.0),
)

# %%
# checkpoint: integration, divergences.js and Monte Carlo give the same value
for center, scale in ((-2.0, 0.5), (0.5, 1.0), (3.0, 1.5)):
    integrated, from_js = both_routes(center, scale)
    sampled, error = monte_carlo_value(center, scale, SAMPLES)
    print(f"q = N({center}, {scale}²): {integrated:.5f} = {from_js:.5f}; ", end="")
    print(f"{SAMPLES:,} samples: {sampled:.4f} ± {error:.4f} nats")
    assert abs(integrated - from_js) < 1e-5
    assert abs(sampled - integrated) < 5 * error

# %% [markdown]
# ### A family of such games
#
# **Question.** Can a game measure other divergences than JS?
#
# Take a convex function $f$ with $f(1)=0$. Its **f-divergence** is
# $\mathrm{div}_f(p\,\|\,q)=\mathbb E_q\big[f(p/q)\big]$. With $t=p/q$ it is
#
# - $\mathrm{KL}(p\|q)$ for $f(t)=t\log t$,
# - $\mathrm{KL}(q\|p)$ for $f(t)=-\log t$,
# - $2\,\mathrm{JS}(p,q)$ for $f(t)=t\log t-(t+1)\log\frac{t+1}2$.
#
# To compute it we need the ratio $p/q$, and nobody has it. But a judge has a *guess* of the ratio:
# $s(x)=e^{l(x)}$, with its logit $l$. And a convex curve lies above each of its tangents:
# $f(t)\ge f(s)+f'(s)\,(t-s)$. Put in $t=p/q$ and average under $q$:

# %% [markdown]
# $$\mathrm{div}_f(p\,\|\,q)\;\ge\;\mathbb E_p\big[f'(s)\big]-\mathbb E_q\big[s\,f'(s)-f(s)\big].$$
#
# Both averages need samples only. The bound is exact where the guess is right, $s=p/q$. So a judge
# can be paid the right side, and the forger makes it small: **every f-divergence has its own game**
# (Nowozin et al. 2016). This is a *variational bound*: the divergence is the highest value that the
# right side reaches, over all guesses $s$. For the third $f$ the right side is just our $V+\log4$.
#
# **Predict.** The judge of 2.2 was paid $V$. Will its guesses be worth anything for the two KLs?

# %%
def bound(f, logit, log_q):
    """E_p[f′(s)] − E_q[s f′(s) − f(s)] for the guess s = exp(logit), on the grid [nats]."""
    s = logit.exp().requires_grad_()
    (slope,) = torch.autograd.grad(f(s).sum(), s)
    mean = log_p(X).exp() * slope - log_q.exp() * (s * slope - f(s))
    return (mean * DX).sum().item()


# %%
family = {
    "KL(p‖q)": lambda t: t * t.log(),
    "KL(q‖p)": lambda t: -t.log(),
    "2 JS(p, q)": lambda t: t * t.log() - (t + 1) * ((t + 1) / 2).log(),
}
cells_p, cells_q = log_p(X).exp() * DX, log_q.exp() * DX  # masses of the cells
truth = [
    divergences.kl(cells_p, cells_q).item(),
    divergences.kl(cells_q, cells_p).item(),
    2 * divergences.js(cells_p, cells_q).item(),
]
by_best = [bound(f, best_logit, log_q) for f in family.values()]
by_found = [bound(f, found_logit, log_q) for f in family.values()]
for i, name in enumerate(family):
    print(f"{name:>10} = {truth[i]:.4f} nats; bound by D* {by_best[i]:.4f}, ", end="")
    print(f"by the trained judge {by_found[i]:.4f}")

# %% [markdown]
# One judge bounds all three, since all three have the same best guess, $p/q$. The bounds need not
# be equally tight: each $f$ weighs a wrong guess in its own way. The bounds of the two KLs contain
# $e^{l}$ or $e^{-l}$, so one sample with a far-out logit can spoil them. $V$ grows only in
# proportion to such a logit.
#
# What all members have in common: they compare $p$ and $q$ point by point, through the ratio.
# Where $p$ and $q$ share no point, none of them says how far apart they are. $W_1$ of chapter 01 is
# not in this family.

# %%
# checkpoint: no judge exceeds the truth, D* reaches it, and for the third f the bound is V + log 4
for exact, best, found in zip(truth, by_best, by_found, strict=True):
    assert found < exact + 1e-6 and abs(best - exact) < 1e-4
assert abs(by_found[2] - (v_found + math.log(4))) < 1e-9

# %% [markdown]
# ## 2.4 A GAN in one dimension
#
# **Question.** Now neither net knows a density. Can two small nets that take turns move $q$ onto
# $p$?
#
# The forger turns noise into numbers: $z\sim\mathcal N(0,1)$, $\tilde x=G(z)$. Its density $q$ is
# never written down; we only see samples. The judge returns logits, as before: in code, `D(x)` is
# the logit, not the probability. Each turn:
#
# 1. one step of the judge up $V$, that is down its loss $-V$;
# 2. one step of the forger. It asks the judge as it is *after* step 1, and descends
#    $-\log D(\tilde x)$ instead of $\log(1-D(\tilde x))$; section 2.7 says why.

# %% [markdown]
# To watch it, we sort 20,000 generated numbers into cells of width 0.1 and compute JS from the
# shares. Chance makes this JS a little too large. By how much? Real numbers against $p$ should give
# zero. The cell prints what they give: about what this ruler shows even when $q=p$, its *floor*.

# %%
EDGES = torch.linspace(-15, 15, 301)
MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
P_CELLS = log_p(X).exp().view(300, 5).sum(1) * DX  # (300,) mass of p in each cell


def cells(x):
    """Share of the numbers x (n, 1) in each of the 300 cells; the outer two take all beyond."""
    return torch.histogram(x.squeeze(1).clamp(-14.99, 14.99), EDGES).hist.double() / len(x)


print(f"floor: JS = {divergences.js(P_CELLS, cells(sample_p(20_000))):.5f} nats")


# %%
LEFT = MIDDLES < -0.5  # the cells of the left bump; the valley between the bumps is at −0.5


def covered(q):
    """How much of the left bump and of the right one the cell masses q cover, from 0 to 1."""
    shared = torch.minimum(P_CELLS, q)
    left = shared[LEFT].sum() / P_CELLS[LEFT].sum()
    right = shared[~LEFT].sum() / P_CELLS[~LEFT].sum()
    return left.item(), right.item()


def best_judge(q):
    """D* of the cell masses q, and a gap where there is next to nothing to judge."""
    return torch.where(P_CELLS + q > 1e-3, P_CELLS / (P_CELLS + q).clamp_min(1e-12), torch.nan)


@torch.no_grad()
def photograph(G, D):
    """The cells of 20,000 generated numbers, and D in the middle of each cell."""
    return cells(G(torch.randn(20_000, 1))), torch.sigmoid(D(MIDDLES[:, None]))


# %% [markdown]
# Both losses in logits, with $\mathrm{softplus}(t)=\log(1+e^t)$:
#
# $$-\log D=\mathrm{softplus}(-l),\qquad-\log(1-D)=\mathrm{softplus}(l).$$
#
# `x_fake.detach()` hands the judge the numbers without their history, so that the judge's loss
# cannot send gradients into the forger (chapter [04](04_first_gan.ipynb) takes this apart).
#
# **Predict.** The left bump holds 40 % of $p$, the right one 60 %. $q$ starts as a needle near 0.
# Which bump will it cover first? At the end, what is $D(x)$?

# %%
def play(seed, d_rate=D_RATE, beta1=BETA1):
    """Train a GAN on p. Returns its history, what the steps in WATCH looked like, G and D."""
    torch.manual_seed(seed)
    G, D = mlp(), mlp(nn.Flatten(0))  # (B, 1) → (B, 1) numbers; (B, 1) → (B,) logits
    g_opt = torch.optim.Adam(G.parameters(), lr=G_RATE, betas=(beta1, 0.999))
    d_opt = torch.optim.Adam(D.parameters(), lr=d_rate, betas=(beta1, 0.999))
    history, frames = {"step": [], "d_loss": [], "g_loss": [], "js": []}, {}
    for step in range(GAN_STEPS + 1):
        if step % 10 == 0 or step in WATCH:
            q, d = photograph(G, D)  # before this step changes them
        if step in WATCH:
            frames[step] = q, d
        x_real = sample_p(BATCH)  # (B, 1)
        x_fake = G(torch.randn(BATCH, 1))  # (B, 1)

        d_loss = F.softplus(-D(x_real)).mean() + F.softplus(D(x_fake.detach())).mean()
        d_opt.zero_grad()  # also throws away what the forger's step left in D
        d_loss.backward()
        d_opt.step()

        g_loss = F.softplus(-D(x_fake)).mean()  # not detached: gradients flow through D into G
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()

        if step % 10 == 0:
            history["step"].append(step)
            history["d_loss"].append(d_loss.item())
            history["g_loss"].append(g_loss.item())
            history["js"].append(divergences.js(P_CELLS, q).item())
    return history, frames, G, D


# %%
WATCH = [round(share * GAN_STEPS) for share in (0, 0.025, 0.1, 0.25, 0.5, 1)]
runs = [play(seed) for seed in SEEDS]
for seed in SEEDS:
    history, frames, G, D = runs[seed]
    left, right = covered(frames[WATCH[2]][0])
    print(f"seed {seed}: JS {history['js'][0]:.3f} → {history['js'][-1]:.3f} nats; ", end="")
    print(f"after {WATCH[2]} steps it covers {left:.0%} of the left bump, {right:.0%} of the right")


# %%
history, frames, G, D = runs[0]
fig, axes = plt.subplots(2, 3, figsize=(10, 5), sharex=True)
for ax, (step, (q, d)) in zip(axes.flat, frames.items(), strict=True):
    js = divergences.js(P_CELLS, q).item()
    title = f"step {step:,}: JS = {js:.3f} nats"
    right = draw_game(ax, q / 0.1, d, title, x_q=MIDDLES, x_d=MIDDLES)
    right.plot(MIDDLES, best_judge(q), "k:", linewidth=1, label="D* for this q")
    if ax not in axes[:, 2]:
        right.set(ylabel="", yticklabels=[])
    if ax not in axes[:, 0]:
        ax.set(ylabel="", yticklabels=[])
    if ax not in axes[1]:
        ax.set_xlabel("")
handles = [*axes[0, 0].get_lines()[:2], right.lines[0], right.lines[2]]
names = ["p, real", "q, generated", "D", "D* for this q"]
fig.legend(handles, names, loc="outside lower center", ncols=4)
plot.show(fig, alt="Six moments of the training: the orange q starts as a needle, spreads, and "
                   "ends up close to the two blue bumps, while the green judge flattens towards "
                   "one half there.")

# %% [markdown]
# The judge learns where $q$ is too high ($D<½$) and too low ($D>½$), and $q$ flows up its slope.
# When $q\approx p$ there is nothing left to tell, and $D$ is near ½ **where data are**. Outside, it
# may be anything. The right bump is covered first, with every seed. Two likely reasons: it holds
# more of $p$, and it is nearer to the start. At the end JS is small, but several times the floor:
# $q$ is near $p$, not $p$.
#
# The dotted $D^*$ is the best answer to the $q$ of that moment. The judge runs behind it: it gets
# one step per turn. And the forger descends $-\log D$. So what you see is *not* exact descent of
# JS. Section 2.3 is about a game played a little differently.

# %%
proved = [(math.log(4) - loss) / 2 for loss in history["d_loss"]]  # ½ (V + log 4), section 2.3
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
plot.curves(history, ["d_loss", "g_loss"], ax=left, smooth=10)
for level, text in ((math.log(4), "log 4"), (math.log(2), "log 2")):
    left.axhline(level, color="0.5", linestyle="--", linewidth=1)
    left.text(GAN_STEPS, level + 0.03, text, ha="right", color="0.4")
right.plot(history["step"], history["js"], color="k", label="measured")
right.plot(history["step"], proved, color=plot.THIRD, linewidth=1, label="the judge's bound")
right.axhline(0, color="0.5", linestyle="--", linewidth=1)
right.set(xlabel="step", ylabel="JS(p, q) [nats]", ylim=(-0.04, 0.3))
right.legend()
plot.show(fig, alt="Left: the judge's loss settles at log 4, the forger's at log 2. Right: the "
                   "measured JS falls towards 0; the judge's bound, noisier, stays mostly below "
                   "it.")

# %% [markdown]
# The losses do not go to zero. They go to the values of a judge that says ½: $\log4$ for the judge,
# $\log2$ for the forger. So a GAN's loss does not tell you how good the samples are. Both losses
# are there, too, when the judge has learned nothing.
#
# On the right is the bound of 2.3: $\frac12(\log4-\text{judge's loss})$ stays below the measured
# JS, but for the noise of one batch.

# %%
# checkpoint: the loop's losses are the package's, detach keeps the forger out, training has worked
x_real, x_fake = sample_p(BATCH), G(torch.randn(BATCH, 1))
mine = F.softplus(-D(x_real)).mean() + F.softplus(D(x_fake.detach())).mean()
torch.testing.assert_close(mine, losses.discriminator_loss(D(x_real), D(x_fake)))
torch.testing.assert_close(F.softplus(-D(x_fake)).mean(), losses.generator_loss(D(x_fake)))
G.zero_grad()
mine.backward()
assert all(w.grad is None for w in G.parameters())  # the judge's loss did not reach G
losses.generator_loss(D(x_fake)).backward()
assert all(w.grad is not None for w in G.parameters())
if runtime.profile() != "smoke":
    for history, frames, _, _ in runs:
        left, right = covered(frames[WATCH[2]][0])
        assert sum(history["js"][-20:]) / 20 < history["js"][0] / 5 and right > left

# %% [markdown]
# ## 2.5 The saddle
#
# **Question.** What is the *solution* of a game, and does every game have one?
#
# A pair of moves from which neither player gains by changing *its own* move alone is called a
# **Nash equilibrium**. In a zero-sum game it is a **saddle point** of $V$. Our game has one: $q=p$
# with $D=½$ everywhere.
#
# Now weaken the forger. There are five places, where $p$ has the shares below, and the forger may
# put *everything on one place* $k$. Who moves second knows the other's move, so the order matters:
#
# - Forger first: $\min_k\max_D V$. The judge answers with $D^*$.
# - Judge first: $\max_D\min_k V$. The forger answers with the place where $D$ is highest.
#
# **Predict.** Are the two values equal? If not, which is larger?

# %%
shares = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1], dtype=torch.float64)


def payment(D, q):
    """V of a judge D (5,) and a forger with shares q (5,) on five places [nats]."""
    return (torch.xlogy(shares, D) + torch.xlogy(q, 1 - D)).sum().item()


needles = torch.eye(5, dtype=torch.float64)  # one move of the forger in each row
forger_first = min(payment(shares / (shares + q), q) for q in needles)
judges = [torch.full((5,), u, dtype=torch.float64) for u in (0.3, 0.4, 0.5, 0.6, 0.7)]
judge_first = max(min(payment(D, q) for q in needles) for D in judges)
print(f"min-max {forger_first:.3f} nats, max-min {judge_first:.3f} nats (−log 4 = −1.386)")

# %% [markdown]
# **Min-max is not max-min.** Always $\max\min\le\min\max$, and here there is a gap: moving second
# is worth something, so this game has *no* Nash equilibrium. (We tried only judges that say the
# same everywhere, and no other does better: if $M$ is the highest answer of $D$, the forger goes
# there, and $V\le\log M+\log(1-M)\le-\log4$.)
#
# **Predict.** Let them play on: in each turn the judge gives its best answer to *all moves of the
# forger so far*, and the forger goes where this judge believes most. Where will it be after many
# turns?

# %%
visits, places = torch.zeros(5, dtype=torch.float64), []
for turn in range(400):
    D = shares / (shares + visits / max(turn, 1))  # best answer to the average of the past
    places.append(D.argmax().item())
    visits[places[-1]] += 1

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=[1.7, 1])
left.plot(range(1, 61), places[:60], "o-", color=plot.FAKE, markersize=4, linewidth=0.8)
left.set(xlabel="turn", ylabel="the forger's place", yticks=range(5))
right.bar(torch.arange(5) - 0.2, shares, 0.4, color=plot.REAL, label="p")
right.bar(torch.arange(5) + 0.2, visits / 400, 0.4, color=plot.FAKE, label="its visits, 400 turns")
right.set(xlabel="place", ylabel="share", ylim=(0, 0.6))
right.legend()
plot.show(fig, alt="Left: the forger's place against the turn; it jumps among all five places and "
                   "never stays for long. Right: the shares of its visits equal those of p.")

# %% [markdown]
# The forger never comes to rest: it hops to wherever the judge believes most. In a GAN this is
# called **mode hopping**; [chapter 06](06_mode_collapse.ipynb) films it. No single move solves the
# game. But the *average* of the moves does: it is $p$.
#
# A forger with noise $z$ can play the average at once, some $z$ here and others there (a *mixed
# strategy*). Then min-max and max-min are both $-\log4$: the equilibrium is back, because $V$ is
# concave in $D$ and linear in $q$. In the *weights* of two nets it is neither, so nothing promises
# them an equilibrium. And steps in turn do not say which of the two they solve, min-max or max-min.
# A forger much quicker than its judge moves second, and hops.

# %%
# checkpoint: no move of either side alone helps at q = p, D = ½; and the visits come out as p
half = torch.full((5,), 0.5, dtype=torch.float64)
for q in needles:  # V is linear in q, so the single places are enough
    assert abs(payment(half, q) - payment(half, shares)) < 1e-12
for D in torch.rand(1_000, 5, dtype=torch.float64):
    assert payment(D, shares) < payment(half, shares) < forger_first
assert abs(judge_first + math.log(4)) < 1e-12 and (visits / 400 - shares).abs().max() < 0.01

# %% [markdown]
# ### Steps around a saddle
#
# **Question.** Gradient descent finds minima. Does "one down, the other up" find saddle points?
#
# The smallest game: $\min_x\max_y\;xy$. The forger owns $x$, the judge owns $y$. The saddle point
# is $(0,0)$. Write $w=(x,y)$ and $g(w)=\big(\partial_xV,\,-\partial_yV\big)=(y,\,-x)$. Both players
# go along $-g$, with rate $\eta$.
#
# - **Simultaneous:** $w'=w-\eta\,g(w)$.
# - **Alternating:** $x'=x-\eta y$, then $y'=y+\eta x'$: the second player sees the first one's
#   move.
#
# **Predict.** Start at $(1,0)$. In, out, or around?

# %%
def force(w):
    """g(w) = (∂V/∂x, −∂V/∂y) of the game V = xy; w: (2,)."""
    return torch.stack([w[1], -w[0]])


def simultaneous(w, before, eta):
    return w - eta * force(w)


# %%
def alternating(w, before, eta):
    x = w[0] - eta * w[1]
    return torch.stack([x, w[1] + eta * x])


# %%
def walk(step, eta, steps, start=(1.0, 0.0)):
    """Repeat w, w_before → w_next. Returns the path, (steps + 1, 2)."""
    path = [torch.tensor(start, dtype=torch.float64)]
    for i in range(steps):
        path.append(step(path[-1], path[max(i - 1, 0)], eta))
    return torch.stack(path)


# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True)
for ax, step in zip(axes, (simultaneous, alternating), strict=True):
    path = walk(step, eta=0.3, steps=40)
    plot.field(lambda x, y: (-y, x), limits=(-6, 6), ax=ax)
    ax.plot(path[:, 0], path[:, 1], "o-", color=plot.FOURTH, markersize=3, linewidth=1)
    ax.plot(0, 0, "k*", markersize=12)
    ax.set(xlabel="x (minimises xy)", title=f"{step.__name__}, η = 0.3")
axes[0].set_ylabel("y (maximises xy)")
plot.show(fig, alt="Left: simultaneous steps spiral outwards. Right: alternating steps stay on a "
                   "small closed ellipse around the solution. Neither goes in.")

# %% [markdown]
# **Why out.** With simultaneous steps $x'=x-\eta y$ and $y'=y+\eta x$:
#
# $$x'^2+y'^2=(x^2-2\eta xy+\eta^2y^2)+(y^2+2\eta xy+\eta^2x^2)=(1+\eta^2)(x^2+y^2).$$
#
# The mixed terms cancel, and the distance grows by $\sqrt{1+\eta^2}$ in *every* step, from every
# point. A smaller rate only makes it slower.
#
# **Why around.** Alternating, $y'=y+\eta(x-\eta y)$, is the matrix
#
# $$A=\begin{pmatrix}1&-\eta\\ \eta&1-\eta^2\end{pmatrix},\quad
# \det A=1,\quad \operatorname{tr}A=2-\eta^2.$$
#
# Its eigenvalues solve $\lambda^2-(2-\eta^2)\lambda+1=0$, with discriminant
# $\eta^2(\eta^2-4)$. For $0<\eta<2$ that is negative: a complex-conjugate pair with product
# $|\lambda|^2=\det A=1$. Size 1, so neither in nor out.
#
# And one quantity never changes: multiply out, and you find
# $x'^2+y'^2-\eta x'y'=x^2+y^2-\eta xy$. For $\eta<2$ the points where it has one value form an
# ellipse. The path stays on it **exactly**.

# %%
# checkpoint: simultaneous steps grow by √(1 + η²); alternating ones keep x² + y² − ηxy, |λ| = 1
for eta in (0.1, 0.5, 1.5):
    distance = walk(simultaneous, eta, 50).norm(dim=1)
    growth = distance[1:] / distance[:-1]
    torch.testing.assert_close(growth, torch.full_like(growth, math.sqrt(1 + eta**2)))
    x, y = walk(alternating, eta, 50).T
    torch.testing.assert_close(x**2 + y**2 - eta * x * y, torch.ones_like(x))
    A = torch.stack([alternating(unit, None, eta) for unit in torch.eye(2)], dim=1)  # its columns
    torch.testing.assert_close(torch.linalg.eigvals(A).abs(), torch.ones(2))
w = torch.tensor([0.3, -0.7], requires_grad=True)
(slope,) = torch.autograd.grad(w[0] * w[1], w)
torch.testing.assert_close(force(w), slope * torch.tensor([1.0, -1.0]))

# %% [markdown]
# ### What helps
#
# Four cures, all of them used on real GANs in some form:
#
# - **Extragradient** looks ahead: take a trial step, and move from the *old* point with the force
#   found there, $w'=w-\eta\,g\big(w-\eta\,g(w)\big)$.
# - **Optimistic** steps guess the next force from the last two,
#   $w'=w-\eta\big(2g(w)-g(w_\text{before})\big)$. They need no second evaluation.
# - **Damping the judge**: simultaneous steps with $y'=y+\eta(x-\gamma y)$. Without $x$, $y$ would
#   decay towards 0 at rate $\gamma$.
# - **Averaging** the points that an alternating path visits.
#
# **Predict.** Which of them will end nearest to $(0,0)$ after 100 steps?

# %%
def extragradient(w, before, eta):
    return w - eta * force(w - eta * force(w))


def optimistic(w, before, eta):
    return w - eta * (2 * force(w) - force(before))


# %%
def damped(w, before, eta, gamma=0.5):
    return w - eta * (force(w) + torch.stack([0 * w[0], gamma * w[1]]))


def averaged(path):
    """Mean of all points so far, (n, 2)."""
    return path.cumsum(0) / torch.arange(1, len(path) + 1)[:, None]


# %%
ETA = 0.3
SCHEMES = (simultaneous, alternating, damped, extragradient, optimistic)
walks = {step.__name__: walk(step, ETA, 100) for step in SCHEMES}
walks["alternating, averaged"] = averaged(walks["alternating"])
looks = {
    "simultaneous": (plot.FOURTH, "-"),
    "alternating": ("k", "-"),
    "alternating, averaged": ("k", ":"),
    "damped": ("0.5", "-."),
    "extragradient": (plot.THIRD, "--"),
    "optimistic": (plot.THIRD, "-"),
}

# %%
fig, ax = plt.subplots(figsize=(8, 3.6))
for name, (color, line) in looks.items():
    distance = walks[name].norm(dim=1)
    print(f"{name:>22}: distance after 100 steps {distance[-1]:9.2e}")
    ax.semilogy(distance, color=color, linestyle=line, label=name)
ax.set(xlabel="step", ylabel="distance to the solution", title=f"η = {ETA}")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plot.show(ax, alt="Distance to the solution on a logarithmic axis: simultaneous grows, "
                  "alternating stays level, averaged falls slowly in deep waves; extragradient "
                  "and optimistic fall along straight lines, damped along a line that wobbles.")

# %% [markdown]
# A straight line on a logarithmic axis means that each step takes off the same *share* of the
# distance. (Damped steps do so on average: their line wobbles.) Averaging gives no straight line:
# its crests fall like $1/t$, since the sum of points that circle stays bounded, and it is divided
# by their number. In the end every falling line passes it. Optimistic steps end nearest here. Which
# line is steepest depends on $\eta$ and on $\gamma$.
#
# What the figure does not say: that damping is harmless. Here the solution happens to have $y=0$,
# so pulling $y$ to 0 is right. In a GAN such a pull must vanish at the solution. The gradient
# penalties of [chapter 06](06_mode_collapse.ipynb) are built for that.

# %% [markdown]
# Too large a rate breaks every cure, and eigenvalues say where. Write $J$ for a quarter turn, so
# that $J^2=-I$. A simultaneous step is $I+\eta J$. An extragradient step is
# $I+\eta J(I+\eta J)=(1-\eta^2)I+\eta J$, with
# $|\lambda|^2=(1-\eta^2)^2+\eta^2=1-\eta^2+\eta^4$: less than 1 for $\eta<1$.
#
# Damped steps have a complex pair again (for $\gamma<2$), so
# $|\lambda|^2=\det=1-\gamma\eta+\eta^2$: they work for $\eta<\gamma$.
# Optimistic steps work for $\eta<1/\sqrt3$; the checkpoint tests that limit.

# %%
def modulus(step, eta):
    """Largest |λ| of the linear map (w, w_before) → (w_next, w)."""
    columns = [torch.cat([step(s[:2], s[2:], eta), s[:2]]) for s in torch.eye(4).double()]
    return torch.linalg.eigvals(torch.stack(columns, dim=1)).abs().max().item()


# %%
# checkpoint: the formulas above against the eigenvalues of the steps as they are coded
for eta in (0.1, 0.3, 0.45):
    print(f"η = {eta}: |λ| =", *(f"{modulus(f, eta):.4f} {f.__name__}," for f in SCHEMES))
    assert abs(modulus(simultaneous, eta) - math.sqrt(1 + eta**2)) < 1e-6
    assert abs(modulus(extragradient, eta) - math.sqrt(1 - eta**2 + eta**4)) < 1e-6
    assert abs(modulus(damped, eta) - math.sqrt(1 - 0.5 * eta + eta**2)) < 1e-6
for scheme, limit in ((extragradient, 1), (damped, 0.5), (optimistic, 1 / math.sqrt(3))):
    assert modulus(scheme, limit - 0.01) < 1 < modulus(scheme, limit + 0.01)

# %% [markdown]
# ## 2.6 Does a GAN behave like xy?
#
# **Question.** Does any of this happen in a real GAN?
#
# Take the smallest one: real data always at 0, the forger always at $\theta$, a judge with logit
# $\psi x$. Then
#
# $$V=\log\sigma(0)+\log\big(1-\sigma(\psi\theta)\big)=-\log2-\mathrm{softplus}(\psi\theta)
# \approx-\log4-\tfrac12\psi\theta$$
#
# near $(0,0)$, because $\mathrm{softplus}(t)=\log2+\frac t2+\dots$ So there, up to a constant, a
# factor and a sign, it **is** $xy$. This is the *Dirac-GAN* of Mescheder et al. (2018). At $(0,0)$
# each player's force depends on the other only: the matrix of the derivatives of $g$ has the
# eigenvalues $\pm\frac i2$, pure rotation.

# %%
def dirac_value(w):  # w = (θ, ψ): the logit is ψ · 0 for real data and ψθ for the forger
    return value(0.0 * w[1], w[0] * w[1])


H = torch.autograd.functional.hessian(dirac_value, torch.zeros(2))
derivative = torch.tensor([[1.0], [-1.0]]) * H  # of g = (∂V/∂θ, −∂V/∂ψ)
turning = torch.linalg.eigvals(derivative)
print("eigenvalues:", *(f"{t.real.abs():.2f} {t.imag:+.2f}i," for t in turning))

# %% [markdown]
# Real GANs also have curvature and noise. So we test two predictions about section 2.4. The first
# comes from $xy$, the second from what $xy$ lacks.
#
# - *Momentum* remembers where the force pointed a moment ago. When the force rotates, that is the
#   wrong direction now. Adam's default $\beta_1=0.9$ should do worse than our $\beta_1=0$. (The
#   checkpoint shows it on $xy$.)
# - A *quick judge* stays near its best answer, and then the forger descends a function instead of
#   chasing. This needs a best answer: $\max_yxy$ has none, but a real $V$ is curved in $D$
#   (section 2.2). Equal rates should do worse.
#
# **Predict.** Which of the two matters more here?

# %%
races = {
    "judge 5× quicker, β₁ = 0": [run[0]["js"] for run in runs],  # those of section 2.4
    "judge 5× quicker, β₁ = 0.9": [play(seed, beta1=0.9)[0]["js"] for seed in SEEDS],
    "equal rates, β₁ = 0": [play(seed, d_rate=G_RATE)[0]["js"] for seed in SEEDS],
}
races = {name: torch.tensor(js) for name, js in races.items()}  # (seeds, times)
late = {name: js[:, -40:].mean(dim=1) for name, js in races.items()}

# %%
fig, ax = plt.subplots(figsize=(8, 3.6))
for name, color in zip(races, (plot.THIRD, plot.FOURTH, "k"), strict=True):
    print(f"{name:>27}: JS at the end, mean of 40 values {late[name].numpy().round(3)} nats")
    smooth = races[name].unfold(1, 5, 1).mean(dim=2)  # running mean of 5 values
    ax.semilogy(history["step"][4:], smooth.T, color=color, linewidth=1.2)
    ax.plot([], color=color, label=name)  # one entry of the legend for all seeds
ax.set(xlabel="step", ylabel="JS(p, q) [nats]", ylim=(3e-3, 4))
ax.legend(loc="upper right")
plot.show(ax, alt="JS against the step, one curve per seed and setting: it falls furthest with "
                  "the quick judge without momentum, and stays higher with momentum or with equal "
                  "rates.")

# %% [markdown]
# Both predictions hold, with every seed here: each run with momentum, and each with equal rates,
# ends higher than the three runs of section 2.4. Equal rates cost more, as the numbers above the
# figure say. Net, loss and data are the same; only the steps differ. That is why recipes for GANs
# say so much about $\beta_1$ (DCGAN takes 0.5, others 0) and about two learning rates.
#
# What the figure does not say: that these settings are best for images. A quick judge also has a
# price, which is the next section.

# %%
def with_momentum(beta):
    """Alternating steps along a running mean of the forces, weight β on the past, as in Adam."""
    def step(w, before, eta):
        pace = (1 - beta) * eta
        x = w[0] - pace * w[1] + beta * (w[0] - before[0])
        return torch.stack([x, w[1] + pace * x + beta * (w[1] - before[1])])

    return step


# %%
# checkpoint: near its solution the Dirac-GAN only rotates; momentum turns circling into leaving
torch.testing.assert_close(turning.real, torch.zeros(2))
torch.testing.assert_close(turning.imag.abs(), torch.full((2,), 0.5))
for beta in (-0.3, 0.0, 0.5, 0.9):
    size = modulus(with_momentum(beta), 0.3)
    print(f"xy, η = 0.3, β = {beta:4}: |λ| = {size:.4f}")
    assert (size > 1) == (beta > 0) or abs(size - 1) < 1e-5
if runtime.profile() != "smoke":
    quick, with_memory, equal = late.values()
    assert quick.max() < with_memory.min() and quick.max() < equal.min()

# %% [markdown]
# ## 2.7 Why −log D instead of log(1−D)
#
# **Question.** Early in training the judge is sure: $D(\tilde x)\approx0$. How strong is the push
# on the forger then?
#
# With $l$ the logit of a generated sample, the minimax game has the forger descend
# $\log(1-D)=-\mathrm{softplus}(l)$. The **non-saturating** loss is $-\log D=\mathrm{softplus}(-l)$.
# Since $\mathrm{softplus}'=\sigma$,
#
# $$\frac{d}{dl}\big[-\mathrm{softplus}(l)\big]=-\sigma(l)=-D,\qquad
# \frac{d}{dl}\,\mathrm{softplus}(-l)=-\sigma(-l)=-(1-D).$$
#
# Both are negative, so both push the logit **up**, towards "real". They differ in *when* they push:
# the first with strength $D$, the second with strength $1-D$.
#
# **Predict.** The judge gives a sample the logit $-6$. By what factor do the two pushes differ?

# %%
logit = torch.linspace(-8, 8, 321, requires_grad=True)
n = len(logit)  # a loss is a mean over its batch; times n, each sample's own gradient is left
saturating = torch.autograd.grad(n * losses.generator_loss_saturating(logit), logit)[0]
non_saturating = torch.autograd.grad(n * losses.generator_loss(logit), logit)[0]
logit = logit.detach()

# %%
fig, ax = plt.subplots()
ax.axvspan(-8, -3, color=plot.THIRD, alpha=0.12, linewidth=0)
ax.text(-7.8, 0.08, "the judge is sure:\ngenerated", color=plot.THIRD)
ax.plot(logit, saturating, color="k", label="saturating, log(1−D)")
ax.plot(logit, non_saturating, "--", color=plot.FOURTH, label="non-saturating, −log D")
ax.set(xlabel="logit l of a generated sample", ylabel="d loss / dl", ylim=(-1.1, 0.4))
ax.legend(loc="upper right")
plot.show(ax, alt="Two mirrored sigmoids below zero. Where the judge is sure that a sample is "
                  "generated, the saturating gradient is almost 0 and the non-saturating one "
                  "almost −1.")
print(f"at l = −6, −log D pushes {(non_saturating / saturating)[40]:.0f} times as hard")

# %% [markdown]
# Where the forger is worst, $\log(1-D)$ pushes least and $-\log D$ pushes most. For one sample the
# direction is the same; only the weight differs, by the factor $(1-D)/D=e^{-l}$.
#
# But a batch has many samples, and with other weights their sum has another direction. So **$-\log
# D$ is not the same game**. It is not zero-sum any more. Which function of $q$ does each of the two
# losses make small? For $\log(1-D)$ we expect $2\,\mathrm{JS}-\log4$. But is that right? It needs
# one more thought.

# %% [markdown]
# ### Why the judge may be held still
#
# In its step the forger treats the judge as fixed. But the best judge depends on $q$, so on the
# forger's parameters θ. When θ moves, $D^*$ moves too. Is the slope wrong, then?
#
# Let $\varphi(\theta)=\max_DV(D,\theta)=V(D^*_\theta,\theta)$, which is $2\,\mathrm{JS}-\log4$. By
# the chain rule
#
# $$\frac{d\varphi}{d\theta}=\underbrace{\frac{\partial V}{\partial\theta}}_{D^*\text{ held still}}
# +\underbrace{\frac{\partial V}{\partial D}\Big|_{D^*}}_{=\,0}\cdot\frac{dD^*_\theta}{d\theta}.$$
#
# **The last term is 0**, because $V$ is highest at $D=D^*$: at a maximum the slope is 0. So the
# slope with the judge held still *is* the slope of the maximum. This is the **envelope theorem**
# (or Danskin's). It is why training in turns makes sense.

# %% [markdown]
# The theorem needs two things: a judge at its best, and a forger that descends the same $V$ that
# the judge climbs. So $\log(1-D^*)$, the forger's part of $V$, passes. Let $\nabla$ be the
# derivative in θ; on the left side of the next lines $D^*$ is always **held still**:
#
# $$\nabla\,\mathbb E_{q_\theta}[\log(1-D^*)]=\nabla\,2\,\mathrm{JS}(p,q_\theta).$$
#
# $-\log D$ is *not* a part of the $V$ that the judge climbs, and the theorem is silent. So we
# compute. Hold $D^*=p/(p+q)$ still, and let $q_\theta$ move:
#
# $$\nabla\,\mathbb E_{q_\theta}[-\log D^*]=\int\nabla q\,\log\frac{p+q}p\,dx.$$
#
# Which function has this slope? Try the mixture $m=\frac12(p+q)$, so $\nabla m=\frac12\nabla q$:
#
# $$\nabla\,2\,\mathrm{KL}(m\|p)=2\int\nabla m\,\Big(\log\frac mp+1\Big)dx
# =\int\nabla q\,\log\frac{p+q}{p}\,dx.$$
#
# (Constants drop out, since $\int\nabla q\,dx=0$.) It is the same.

# %% [markdown]
# $$\boxed{\nabla\,\mathbb E_{q_\theta}[-\log D^*]=\nabla\,2\,\mathrm{KL}(m\|p)},\quad
# m=\tfrac12(p+q).$$
#
# (On the left $D^*$ is held still, as in the forger's step.) Against a perfect judge the
# non-saturating forger descends $2\,\mathrm{KL}(m\|p)$. This is never
# negative, and 0 only for $m=p$, that is $q=p$. So it is another road to the **same goal**.
#
# Arjovsky & Bottou (2017) write the same number as $\mathrm{KL}(q\|p)-2\,\mathrm{JS}(p,q)$:
#
# $$q\log\frac qp-\Big[p\log\frac pm+q\log\frac qm\Big]=(p+q)\log\frac mp=2\,m\log\frac mp.$$
#
# There the minus looks as if the forger were pushed *away* from small JS. It is not: JS only takes
# off a part of $\mathrm{KL}(q\|p)$.
#
# **Predict.** $p=\mathcal N(0,1)$, $q=\mathcal N(\mu,1)$. Each loss pulls μ towards 0. How does the
# strength of the pull change as μ moves away: 1, 3, 6 standard deviations?
#
# The code computes the pulls as a forger would get them: samples $\tilde x=\mu+z$, the judge held
# still, autograd. Instead of drawing $z$ it integrates over it.

# %%
def minimax(logit):
    return -F.softplus(logit)  # log(1 − D)


def non_saturating_loss(logit):
    return F.softplus(-logit)  # −log D


# %%
def pull(mu, loss_of_logit):
    """d/dμ E[loss(l*(μ + z))] with the judge l* = log p − log q held still at this μ."""
    moving = torch.tensor(mu, dtype=torch.float64, requires_grad=True)
    x = moving + X
    logit = log_normal(x, 0, 1) - log_normal(x, mu, 1)  # mu, the plain number: held still
    weight = log_normal(X, 0, 1).exp() * DX  # (1500,) how much each z ~ N(0, 1) counts
    (weight * loss_of_logit(logit)).sum().backward()
    return moving.grad.item()


# %%
mus = [0.1 * i for i in range(71)]
pulls = {loss: [pull(mu, loss) for mu in mus] for loss in (minimax, non_saturating_loss)}

# %%
fig, ax = plt.subplots()
ax.plot(mus, pulls[minimax], color="k", label="log(1−D*)")
ax.plot(mus, pulls[non_saturating_loss], "--", color=plot.FOURTH, label="−log D*")
ax.set(xlabel="μ, distance of q from p [standard deviations]", ylabel="pull on μ [nats per unit]")
ax.legend()
plot.show(ax, alt="The pull of log(1−D) rises to a maximum near one and a half standard "
                  "deviations and then dies; that of −log D grows in proportion to the distance.")

# %% [markdown]
# Close to the goal the two agree. Far away the pull of $\log(1-D)$ dies, since JS is flat there
# (2.3), while the other grows like that of $\mathrm{KL}(q\|p)=\mu^2/2$.
#
# What is the price? A forger can fail in two ways. It can **forget** a bump of $p$,
# or **invent** what is not real. Take the two bumps of this chapter. One $q$ lacks the left bump,
# 40 % of the data. The other has both bumps, but puts 40 % of its own mass in a bell around $x=7$,
# where there is no data.
#
# **Predict.** Which of the two is worse for JS? Which is worse for $-\log D$?

# %%
def prices(log_q):
    """KL(p‖q), 2 JS(p, q) and 2 KL(m‖p), on the grid [nats]."""
    log_m = torch.logaddexp(log_p(X), log_q) - math.log(2)
    p, q, m = log_p(X).exp() * DX, log_q.exp() * DX, log_m.exp() * DX
    js = (p * (log_p(X) - log_m) + q * (log_q - log_m)).sum() / 2
    return (p * (log_p(X) - log_q)).sum(), 2 * js, 2 * (m * (log_m - log_p(X))).sum()


# %%
forgets = log_normal(X, 1.5, 0.8)
invents = torch.logaddexp(math.log(0.6) + log_p(X), math.log(0.4) + log_normal(X, 7.0, 0.5))
for name, log_q in (("forgets 40 %", forgets), ("invents 40 %", invents)):
    likelihood, minimax_price, other = prices(log_q)
    print(f"{name}: KL(p‖q) {likelihood:.3f}, 2 JS {minimax_price:.3f}, 2 KL(m‖p) {other:.3f} nats")

# %% [markdown]
# For JS, which is symmetric, forgetting and inventing cost nearly the same. For $-\log D$
# forgetting is cheap and inventing costly. That is *mode-seeking*, the behaviour of the reverse KL
# in [chapter 01](01_kl_divergence.ipynb). Look at $\mathrm{KL}(m\|p)$: where $q$ is large and $p$
# is tiny, $\log\frac mp$ has no limit. Where $q=0$, $m$ is still $\frac12p$, so $\log\frac
# mp=-\log2$: a forgotten bump even lowers the sum. Forgetting costs only where $q$ is too high
# instead. So it stays cheap. Likelihood, the first column, is the other way round.
#
# What these numbers do not say: all this holds for a perfect judge. A net in training has other
# slopes, and where it is not at its best, the last term of the chain rule is not 0.

# %%
# checkpoint: autograd with the judge held still; differences of 2 JS, 2 KL(m‖p) where it moves
def goals(mu):
    """2 JS(p, q), 2 KL(m‖p) and KL(q‖p) − 2 JS(p, q), p = N(0, 1), q = N(mu, 1) [nats]."""
    p, q = log_normal(X, 0, 1).exp() * DX, log_normal(X, mu, 1).exp() * DX
    twice_js, mixed = 2 * divergences.js(p, q), 2 * divergences.kl((p + q) / 2, p)
    return torch.stack([twice_js, mixed, divergences.kl(q, p) - twice_js])


h = 1e-4
for mu in (0.0, 0.5, 1.5, 3.0):
    slopes = (goals(mu + h) - goals(mu - h)) / (2 * h)
    still = torch.tensor([pull(mu, minimax), pull(mu, non_saturating_loss)], dtype=torch.float64)
    print(f"μ = {mu}: judge held still {still.numpy().round(4)}, slopes {slopes.numpy().round(4)}")
    torch.testing.assert_close(still, slopes[:2], atol=1e-4, rtol=0)
    torch.testing.assert_close(goals(mu)[1], goals(mu)[2])
_, js_forgets, mixed_forgets = prices(forgets)
_, js_invents, mixed_invents = prices(invents)
torch.testing.assert_close(js_forgets, js_invents, atol=0.02, rtol=0)
torch.testing.assert_close(saturating, -torch.sigmoid(logit))  # the figure's curves: −D, −(1 − D)
torch.testing.assert_close(non_saturating, -torch.sigmoid(-logit))
assert mixed_forgets < js_forgets and mixed_invents > 10 * js_invents

# %% [markdown]
# ## 2.8 Break it: a forger that feels no push
#
# Now in training. The data are $\mathcal N(3,0.7^2)$. The forger has two parameters,
# $\tilde x=\mu+sz$, and starts at $\mu=-3$. The judge has trained for 300 steps before the forger
# makes its first. Two forgers use plain gradient descent (SGD); only their loss differs. Then the
# same with Adam, this time with its usual momentum, $\beta_1=0.9$, for the forger.
#
# **Predict.** Four forgers. Which of them reach 3? Which is first?

# %%
def chase(loss, optimizer, rate, seed, head_start=300):
    """A far-away forger against a trained judge. Returns μ and the size of its gradient."""
    torch.manual_seed(seed)
    D = mlp(nn.Flatten(0))
    mu, log_s = torch.tensor(-3.0, requires_grad=True), torch.tensor(math.log(0.7))
    log_s.requires_grad_()
    g_opt = optimizer([mu, log_s], lr=rate)
    d_opt = torch.optim.Adam(D.parameters(), lr=D_RATE, betas=(0.0, 0.999))
    place, size = [], []
    for step in range(-head_start, STALL_STEPS):
        x_real = 3 + 0.7 * torch.randn(BATCH, 1)
        x_fake = mu + log_s.exp() * torch.randn(BATCH, 1)
        d_loss = losses.discriminator_loss(D(x_real), D(x_fake.detach()))
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        if step >= 0:  # until then the judge plays alone
            g_opt.zero_grad()
            loss(D(x_fake)).backward()
            g_opt.step()
            place.append(mu.item())
            size.append(mu.grad.abs().item())
    return place, size


# %%
saturating, non_saturating = losses.generator_loss_saturating, losses.generator_loss
settings = {  # each optimizer has a rate at which −log D arrives
    "saturating, SGD": (saturating, torch.optim.SGD, 0.05),
    "non-saturating, SGD": (non_saturating, torch.optim.SGD, 0.05),
    "saturating, Adam": (saturating, torch.optim.Adam, 0.01),
    "non-saturating, Adam": (non_saturating, torch.optim.Adam, 0.01),
}
chases, arrivals = {}, {}
for name, (loss, optimizer, rate) in settings.items():
    chases[name] = [chase(loss, optimizer, rate, seed) for seed in SEEDS]
    near = [(torch.tensor(place) > 2.5).nonzero() for place, size in chases[name]]
    arrivals[name] = [at[0].item() if len(at) else math.inf for at in near]
    ends = ", ".join(f"{place[-1]:.2f}" for place, size in chases[name])
    print(f"{name:>20}: μ ends at {ends}; it passes 2.5 at steps {arrivals[name]}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharex=True)
for name in settings:
    color = plot.FOURTH if name.startswith("non") else "k"
    line = "-" if "SGD" in name else ":"
    for place, size in chases[name]:
        left.plot(place, line, color=color, linewidth=1.2)
        if "SGD" in name:
            right.semilogy(size, color=color, linewidth=0.6)
    left.plot([], line, color=color, label=name)  # one entry of the legend for all seeds
left.axhline(3, color=plot.REAL, linewidth=1)
left.text(0, 3.1, "the data", color=plot.REAL)
left.set(xlabel="forger's step", ylabel="μ", ylim=(-3.3, 3.9))
left.legend(loc="lower right", bbox_to_anchor=(1, 0.08), fontsize=9)
right.set(xlabel="forger's step", ylabel="|d loss / dμ|", title="with SGD")
plot.show(fig, alt="Left: with SGD the saturating forger stays at −3 with every seed, while the "
                   "non-saturating one reaches 3; with Adam both arrive. Right: with SGD the "
                   "saturating gradient is smaller by orders of magnitude.")

# %% [markdown]
# With SGD the saturating forger hardly moves. Its gradient carries the factor $D\approx0$: the
# better the judge, the weaker the push. **A good judge leaves this forger without a signal.** The
# non-saturating forger arrives.
#
# With Adam the saturating forger arrives too, and *before* the other one: compare the printed
# steps. Adam divides each gradient by its own running size. So a push that is tiny for *all*
# samples does not matter. Two things Adam can't mend: the weights *between* the samples of a batch,
# and gradients too small for its $\varepsilon$. So "saturating losses do not train" is too strong.
# These runs say less: at these rates $\log(1-D)$ arrived only with Adam, $-\log D$ with both. No
# other rate was tried.

# %%
# checkpoint: at the first step the two losses see the same samples and the same judge
start = {name: chases[name][0][1][0] for name in settings}  # first seed, gradients, first step
assert start["saturating, SGD"] < start["non-saturating, SGD"] / 3
torch.testing.assert_close(start["saturating, SGD"], start["saturating, Adam"])
if runtime.profile() != "smoke":
    assert min(arrivals["saturating, SGD"]) == math.inf > max(arrivals["non-saturating, SGD"])
    assert max(arrivals["saturating, Adam"]) < min(arrivals["non-saturating, Adam"])
    assert max(arrivals["non-saturating, Adam"]) < STALL_STEPS

# %% [markdown]
# ## Exercises
#
# Five in [the exercises](../exercises/02_minimax.ipynb), each with a check:
#
# 1. `optimal_discriminator`: $D^*$ on arrays of densities, in far tails and where both are 0.
# 2. `js_bound`: what any judge's logits prove about JS, exact for logits of ±1000.
# 3. `generator_gradient`: both of the forger's gradients by hand, to the last digit.
# 4. `judge_loss`, a repair: both losses go to zero, and the forger stays where it was.
# 5. `extragradient_step`: for the game $x^\top Ay$, and the largest rate at which it converges.

# %% [markdown]
# ## Recap
#
# - $V=\mathbb E_p\log D+\mathbb E_q\log(1-D)$; the judge's loss is $-V$, binary cross-entropy on
#   logits, in nats.
# - The best judge is $D^*=p/(p+q)$; its logit is the log-ratio of the densities. A classifier finds
#   it from samples alone, where there are samples.
# - $V(D^*,G)=2\,\mathrm{JS}(p,q)-\log4$: lowest at $q=p$, flat when $p$ and $q$ are far apart.
#   Every f-divergence has such a game.
# - Min-max is not max-min: a game need not have an equilibrium. On $xy$, simultaneous steps spiral
#   out, alternating ones circle. Looking ahead, damping, averaging, a quick judge help.
# - The slope with the best judge held still is the slope of the maximum. $-\log D$ pushes where the
#   judge is sure; it descends $2\,\mathrm{KL}(m\|p)$: the same goal, another game.
#
# Next: [chapter 04](04_first_gan.ipynb), the same loop on pictures.

# %% [markdown]
# ## References
#
# - Goodfellow et al. 2014, *Generative adversarial nets*, arXiv:1406.2661: the game, $D^*$, the
#   value, and $-\log D$ (their section 3). *We differ:* losses on logits; we check the theorem on
#   grids and say where practice leaves it.
# - Nowozin, Cseke & Tomioka 2016, arXiv:1606.00709: f-GAN. *We differ:* a tangent instead of the
#   convex conjugate; it is the same bound.
# - Goodfellow 2016, *NIPS tutorial*, arXiv:1701.00160: min-max against max-min. *We differ:* five
#   places, where both orders can be computed.
# - Arjovsky & Bottou 2017, arXiv:1701.04862: the non-saturating gradient (theorem 2.5). *We
#   differ:* written as $2\,\mathrm{KL}(m\|p)$, and checked by finite differences in 1-D.
# - Mescheder, Geiger & Nowozin 2018, arXiv:1801.04406: the Dirac-GAN. *We differ:* only its linear
#   part.

# %% [markdown]
# - Daskalakis et al. 2018, arXiv:1711.00141: optimistic gradients for GANs; Korpelevich 1976:
#   extragradient. *We differ:* plain eigenvalues of the game $xy$.
# - Gidel et al. 2019, arXiv:1807.04740: why (positive) momentum hurts in games; they make it
#   negative. *We differ:* in the GAN we only switch it off; a negative one we try on $xy$.
# - Heusel et al. 2017, arXiv:1706.08500: two learning rates. *We differ:* theirs is a statement
#   about convergence to a local equilibrium, ours one experiment.
