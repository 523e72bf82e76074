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
# it · train a GAN in one dimension and read its curves · explain why gradient steps circle around
# a saddle, what helps, and why hardly anybody trains the forger on $\log(1-D)$.
#
# **You need** [chapter 01](01_kl_divergence.ipynb): KL and Jensen–Shannon divergence in nats.
#
# <!-- stamp -->
# *Run time: 0.6 min, peak memory 0.8 GB, `cpu` profile
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
STALL_STEPS = runtime.budget(smoke=60, cpu=800, gpu=800)  # −log D arrives after about half of it
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


# %%
def log_normal(x, mean, scale):
    """log N(x; mean, scale²), elementwise [nats]."""
    return -0.5 * ((x - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))


# %%
def log_p(x):
    """log density of the real data: 40 % in a bump at −2, 60 % in a wider one at 1.5."""
    left, right = log_normal(x, -2.0, 0.5), log_normal(x, 1.5, 0.8)
    return torch.logaddexp(math.log(0.4) + left, math.log(0.6) + right)


# %%
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
# Where this chapter is heading. Left: the forger is not done, and the best judge (green) can tell
# exactly where. Right: the price of playing a game instead of minimising one loss: plain gradient
# steps do not go to the solution, they go **around** it, and away.

# %%
log_q = log_normal(X, 0.5, 1.0)
best_logit = log_p(X) - log_q  # of the best judge; section 2.2 derives it
x, y, path = 1.0, 0.0, []
for _ in range(60):
    path.append((x, y))
    x, y = x - 0.2 * y, y + 0.2 * x  # x goes down xy, y goes up

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=[1.6, 1])
green = draw_game(left, log_q.exp(), torch.sigmoid(best_logit), judge="best judge D*")
left.legend(loc="upper left")
green.legend(loc="upper right")
plot.field(lambda x, y: (-y, x), limits=(-3, 3), ax=right)
right.plot(*zip(*path, strict=True), "o-", color=plot.FOURTH, markersize=3, linewidth=1)
right.plot(0, 0, "k*", markersize=12)
right.set(xlabel="forger's parameter x", ylabel="judge's parameter y", title="the game xy")
plot.show(
    fig,
    alt="Left: two blue bumps p, an orange bell q between them, and a green judge that is high "
    "where p exceeds q. Right: gradient steps on the game xy spiral away from the star.",
)

# %% [markdown]
# ## 2.1 The score of the game
#
# **Question.** How do we pay a judge so that honesty is the best policy?
#
# The judge sees a real $x\sim p$ or a generated $\tilde x\sim q$, and is paid the logarithm of the
# probability it gave to the truth. On average that is the **value function**
#
# $$V(D,G)=\mathbb E_{x\sim p}\big[\log D(x)\big]
# +\mathbb E_{\tilde x\sim q}\big[\log(1-D(\tilde x))\big].$$
#
# The judge wants $V$ large, the forger wants it small: $\min_G\max_D V(D,G)$. What one wins the
# other loses, a *zero-sum* game.

# %% [markdown]
# A judge that answers ½ to everything scores $\log\frac12+\log\frac12=-\log4$ nats (2 bits lost:
# it knows neither answer of two yes-no questions). A judge that is never wrong and always sure
# scores $0$, the maximum. One that is sure and wrong loses without limit.
#
# **Predict.** Let $p=\mathcal N(1,1)$, $q=\mathcal N(-1,1)$, and take judges
# $D_a(x)=\sigma(ax)$ with the sigmoid $\sigma(t)=1/(1+e^{-t})$. The sign of $x$ is the best hint
# there is. Which steepness $a$ earns most: a gentle one, or the steepest, which nearly says 0
# or 1?

# %% [markdown]
# In code a judge returns the **logit** $l$, not the probability: $D=\sigma(l)$. Then
# $\log D=\log\sigma(l)$ and, since $1-\sigma(l)=\sigma(-l)$, $\log(1-D)=\log\sigma(-l)$. Both stay
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
plot.show(
    ax,
    alt="V against the steepness: it rises from below −log 4 to a maximum near a = 2 and then "
    "falls in a straight line, below −log 4 again for steep judges.",
)

# %% [markdown]
# The maximum is near $a=2$; far steeper judges earn less than a coin. Being paid by the logarithm
# punishes confidence that isn't earned: where the two bells overlap, nobody can be sure.
#
# And 2 is no accident: $\log\frac{p(x)}{q(x)}=\frac{(x+1)^2-(x-1)^2}{2}=2x$. The best judge's logit
# is the log-ratio of the densities. The figure does not say that this holds among *all* judges,
# only among these; that is section 2.2.

# %%
# checkpoint: V is binary cross-entropy with the sign turned, by torch's loss and by the course's
real, fake = 2 * x_real, 2 * x_fake
torch.testing.assert_close(-value(real, fake), losses.discriminator_loss(real, fake))
bce = F.binary_cross_entropy_with_logits
bce_sum = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
torch.testing.assert_close(-value(real, fake), bce_sum)
assert abs(best - 2) < 0.5
print("the judge's loss is −V ✓")

# %% [markdown]
# ## 2.2 The best judge
#
# **Question.** With $G$ fixed, which $D$ is best, if it may be any function at all?
#
# Write both expectations as one integral:
#
# $$V=\int \big[\,p(x)\log D(x)+q(x)\log(1-D(x))\,\big]\,dx.$$
#
# $D$ may take any value at each $x$ without disturbing its value elsewhere. So we may maximise
# the bracket **point by point**: with $a=p(x)$, $b=q(x)$, $y=D(x)$, maximise
# $f(y)=a\log y+b\log(1-y)$ on $(0,1)$.

# %% [markdown]
# $$f'(y)=\frac ay-\frac b{1-y}=0\iff a(1-y)=by\iff y=\frac a{a+b},$$
#
# and $f''(y)=-\frac a{y^2}-\frac b{(1-y)^2}<0$, so it is the only maximum. (If $b=0$, $f$ rises all
# the way to $y=1$; if $a=0$, to $y=0$: the formula holds there too.) Therefore
#
# $$\boxed{D^*(x)=\frac{p(x)}{p(x)+q(x)}}\qquad\text{with logit}\quad
# \log\frac{D^*}{1-D^*}=\log\frac{p(x)}{q(x)}.$$
#
# Where $p+q=0$ the value of $D$ does not matter at all. Keep that in mind.

# %%
y = torch.linspace(0.01, 0.99, 981)
pairs = (0.3, 0.1), (0.2, 0.2), (0.05, 0.3)
brackets = {(a, b): a * y.log() + b * (1 - y).log() for a, b in pairs}
for (a, b), f in brackets.items():
    print(f"p = {a}, q = {b}: best of 981 answers {y[f.argmax()]:.3f}, p/(p+q) = {a / (a + b):.3f}")

# %%
fig, ax = plt.subplots()
for (a, b), line in zip(brackets, ("-", "--", ":"), strict=True):
    ax.plot(y, brackets[a, b], line, color=plot.THIRD, label=f"p = {a}, q = {b}")
    ax.plot(a / (a + b), brackets[a, b].max(), "o", color=plot.THIRD)
ax.set(xlabel="the judge's answer y at one x", ylabel="p log y + q log(1−y)", ylim=(-1, 0))
ax.legend(loc="lower center")
plot.show(
    ax,
    alt="Three concave curves; each has its single maximum, marked by a dot, at p over p plus q.",
)

# %% [markdown]
# Now let us *find* it. A judge that knows neither $p$ nor $q$ sees only samples, and climbs $V$ by
# gradient steps. Here $q=\mathcal N(0.5,1)$.
#
# **Predict.** Sketch $D^*$ over the two bumps before you run: where is it near 1, where near 0?
# And what happens at $x=-5$, where practically no sample ever falls?

# %%
def mlp(*tail):
    """A net on numbers: (B, 1) → (B, 1), then `tail`."""
    hidden = [nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1), *tail)


# %%
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
plot.show(
    fig,
    alt="The trained judge, green, lies on the dashed black D* wherever p or q has mass; at the "
    "far left and right, where there are no samples, the two differ.",
)

# %% [markdown]
# Where there are samples the net has found $p/(p+q)$, without ever seeing a density. That is the
# trick of the whole field: **a classifier estimates a density ratio.**
#
# Far out on both sides the formula returns to 0 (on the right mostly beyond the picture's edge),
# because the tails of $q$ are the heavier ones out there. The net does not know: it has no samples
# there and nobody paid it for that region. Its answer depends on its architecture and its
# initialisation. Yet a forger that throws a sample there will be told which way to move by exactly
# that slope.

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
# Put $D^*$ into $V$ and multiply both fractions by ½, with the mixture $m=\frac12(p+q)$:
#
# $$V(D^*,G)=\mathbb E_p\log\frac{p}{p+q}+\mathbb E_q\log\frac{q}{p+q}
# =\mathbb E_p\log\frac{p}{2m}+\mathbb E_q\log\frac{q}{2m}.$$
#
# Each $-\log2$ comes out of its expectation; what stays are two KL divergences to $m$:

# %% [markdown]
# $$V(D^*,G)=\mathrm{KL}(p\|m)+\mathrm{KL}(q\|m)-2\log2=\boxed{2\,\mathrm{JS}(p,q)-\log4}.$$
#
# Since $0\le\mathrm{JS}\le\log2$ (chapter 01), the value lies between $-\log4$, reached only at
# $q=p$, and $0$, when $p$ and $q$ share no point. So $\min_G\max_D V$ has its solution exactly
# where the forgery is perfect and the best judge says ½.
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


# %%
def both_routes(center, scale):
    """V(D*, G) by integration, and 2·JS − log 4 from gencourse.divergences [nats]."""
    log_q = log_normal(X, center, scale)
    js = divergences.js(log_p(X).exp() * DX, log_q.exp() * DX).item()  # masses of the cells
    return value_on_grid(log_p(X) - log_q, log_q), 2 * js - math.log(4)


# %%
centers = torch.linspace(-5, 5, 101).tolist()
curve = [both_routes(c, 0.8)[0] for c in centers]
few = centers[::10]
points = [monte_carlo_value(c, 0.8, 1_000) for c in few]

# %%
fig, ax = plt.subplots()
ax.plot(centers, curve, color=plot.THIRD, label="V(D*, G), integrated")
ax.errorbar(few, *zip(*points, strict=True), fmt="ko", ms=4, capsize=3, label="1,000 samples")
for level, text in ((-math.log(4), "−log 4: q = p"), (0, "0: nothing in common")):
    ax.axhline(level, color="0.5", linestyle="--", linewidth=1)
    ax.text(-5, level + 0.03, text, color="0.4")
ax.set(xlabel="centre c of q", ylabel="V(D*, G) [nats]", ylim=(-1.5, 0.2))
ax.legend(loc="lower left", bbox_to_anchor=(0, 0.12))
plot.show(
    ax,
    alt="The value against the centre of q: close to 0 far left and far right, with one dip over "
    "each of the two bumps, the deeper one at the right; samples with error bars lie on it.",
)

# %% [markdown]
# Two dips, one per bump; neither reaches $-\log4$, because one bell can't be two bumps. A forger
# that can only shift this bell, and starts at the left, slides into the left dip and stays: a first
# look at *mode collapse*, [chapter 06](06_mode_collapse.ipynb).
#
# And far away the curve goes **flat**: JS is stuck at its ceiling, $\log2$, and a forger that
# descends it learns nothing. The figure assumes a perfect judge; a real one is somewhere below
# $D^*$, and its slope is another. What is the score of such a judge worth? Here is that of section
# 2.2:

# %%
print(f"trained judge of 2.2: JS is at least {(v_found + math.log(4)) / 2:.4f} nats, ", end="")
print(f"and it is {(v_best + math.log(4)) / 2:.4f}")

# %% [markdown]
# How does that work? Since $V(D,G)\le V(D^*,G)$, **every** judge gives a lower bound,
# $\mathrm{JS}\ge\frac12\big(V(D,G)+\log4\big)$.
#
# Now play the forger yourself against the perfect judge. Move the sliders until the gauge is as low
# as you can bring it. Watch what $D^*$ does at the edges when you make $q$ wider or narrower
# than $p$, and how small the change of $V$ is when $q$ is far away.

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


# %%
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
# ## 2.4 A GAN in one dimension
#
# **Question.** Now nobody knows a density. Can two small nets, taking turns, move $q$ onto $p$?
#
# The forger turns noise into numbers: $z\sim\mathcal N(0,1)$, $\tilde x=G(z)$. Its density $q$ is
# never written down; we only see samples. The judge returns logits, as before: in code, `D(x)` is
# the logit, not the probability. Each turn:
#
# 1. one step of the judge up $V$, that is down its loss $-V$;
# 2. one step of the forger on the *judge's new* opinion. It descends $-\log D(\tilde x)$ instead of
#    $\log(1-D(\tilde x))$; section 2.7 says why.

# %% [markdown]
# Measuring is plumbing: $q$ is estimated by sorting 20,000 generated numbers into cells of width
# 0.1. That makes JS come out a little too large. By how much? Real numbers against $p$ should give
# 0; the cell prints what they give, the floor of this ruler.

# %%
EDGES = torch.linspace(-15, 15, 301)
MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
P_CELLS = log_p(X).exp().view(300, 5).sum(1) * DX  # (300,) mass of p in each cell


# %%
def cells(x):
    """Share of the numbers x (n, 1) in each of the 300 cells; the outer two take all beyond."""
    return torch.histogram(x.squeeze(1).clamp(-14.99, 14.99), EDGES).hist.double() / len(x)


print(f"floor: JS = {divergences.js(P_CELLS, cells(sample_p(20_000))):.5f} nats")


# %%
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
# **Predict.** Which bump will the forger cover first? At the end, what is $D(x)$?

# %%
def play(seed, *, d_rate=D_RATE, beta1=BETA1, watch=()):
    """Train a GAN on p. Returns its history, what the steps in `watch` looked like, G and D."""
    torch.manual_seed(seed)
    G, D = mlp(), mlp(nn.Flatten(0))  # (B, 1) → (B, 1) numbers; (B, 1) → (B,) logits
    g_opt = torch.optim.Adam(G.parameters(), lr=G_RATE, betas=(beta1, 0.999))
    d_opt = torch.optim.Adam(D.parameters(), lr=d_rate, betas=(beta1, 0.999))
    history, frames = {"step": [], "d_loss": [], "g_loss": [], "js": []}, {}
    for step in range(GAN_STEPS + 1):
        if step in watch:
            frames[step] = photograph(G, D)
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
            history["js"].append(divergences.js(P_CELLS, photograph(G, D)[0]).item())
    return history, frames, G, D


# %%
def best_judge(q):
    """D* of cell masses, and a gap where there is next to nothing to judge."""
    return torch.where(P_CELLS + q > 1e-3, P_CELLS / (P_CELLS + q).clamp_min(1e-12), torch.nan)


# %%
watch = [round(share * GAN_STEPS) for share in (0, 0.025, 0.1, 0.25, 0.5, 1)]
history, frames, G, D = play(seed=0, watch=watch)
print(f"JS: {history['js'][0]:.3f} → {history['js'][-1]:.3f} nats in {GAN_STEPS:,} steps")

# %%
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
plot.show(
    fig,
    alt="Six moments of the training: the orange q starts as a needle, spreads, and ends up "
    "close to the two blue bumps, while the green judge flattens towards one half there.",
)

# %% [markdown]
# The judge learns where $q$ is too high ($D<½$) and too low ($D>½$), and $q$ flows up its slope.
# When $q\approx p$ there is nothing left to tell, and $D$ is near ½ **where data are**. Outside,
# it may be anything. Which bump was covered first is chance: try another seed.
#
# The dotted $D^*$ for the momentary $q$ shows how far behind the judge runs: it gets one step per
# turn, not the optimum. And the forger descends $-\log D$. So what you see is *not* exact descent
# of JS; the theorem of 2.3 is about a game played a little differently.

# %%
bound = [(math.log(4) - loss) / 2 for loss in history["d_loss"]]  # ½ (V + log 4), section 2.3

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
plot.curves(history, ["d_loss", "g_loss"], ax=left, smooth=10)
for level, text in ((math.log(4), "log 4"), (math.log(2), "log 2")):
    left.axhline(level, color="0.5", linestyle="--", linewidth=1)
    left.text(GAN_STEPS, level + 0.03, text, ha="right", color="0.4")
right.plot(history["step"], history["js"], color="k", label="measured")
right.plot(history["step"], bound, color=plot.THIRD, linewidth=1, label="the judge's bound")
right.axhline(0, color="0.5", linestyle="--", linewidth=1)
right.set(xlabel="step", ylabel="JS(p, q) [nats]", ylim=(-0.04, 0.3))
right.legend()
plot.show(
    fig,
    alt="Left: the judge's loss settles at log 4, the forger's at log 2. Right: the measured JS "
    "falls towards 0; the judge's bound, noisier, stays mostly below it.",
)

# %% [markdown]
# The losses do not go to zero. They go to the values of a judge that says ½: $\log4$ for the judge,
# $\log2$ for the forger. So a GAN's loss does not tell you how good the samples are; both losses
# at their goal can also mean that the judge is blind.
#
# On the right is the bound of 2.3 at work: $\frac12(\log4-\text{judge's loss})$ stays, up to noise
# of the batch, below the measured JS.

# %%
# checkpoint: the loop's losses are the package's
x_real, x_fake = sample_p(BATCH), G(torch.randn(BATCH, 1))
mine = F.softplus(-D(x_real)).mean() + F.softplus(D(x_fake.detach())).mean()
torch.testing.assert_close(mine, losses.discriminator_loss(D(x_real), D(x_fake)))
torch.testing.assert_close(F.softplus(-D(x_fake)).mean(), losses.generator_loss(D(x_fake)))

# %%
# checkpoint: detach keeps the forger out of the judge's loss, and the training has worked
G.zero_grad()
mine.backward()
assert all(w.grad is None for w in G.parameters())  # the judge's loss did not reach G
losses.generator_loss(D(x_fake)).backward()
assert all(w.grad is not None for w in G.parameters())
if runtime.profile() != "smoke":
    assert sum(history["js"][-20:]) / 20 < history["js"][0] / 5

# %% [markdown]
# ## 2.5 The saddle
#
# **Question.** Gradient descent finds minima. Does "one down, the other up" find saddles?
#
# The smallest game there is: $\min_x\max_y\;xy$. The forger owns $x$, the judge owns $y$; the
# solution is $(0,0)$, where neither gains by moving alone. Write $w=(x,y)$ and
# $F(w)=\big(\partial_xV,\,-\partial_yV\big)=(y,\,-x)$: both players go along $-F$, with rate
# $\eta$.
#
# - **Simultaneous:** $w'=w-\eta F(w)$.
# - **Alternating:** $x'=x-\eta y$, then $y'=y+\eta x'$: the second player sees the first one's
#   move.
#
# **Predict.** Start at $(1,0)$. In, out, or around?

# %%
def force(w):
    """F(w) = (∂V/∂x, −∂V/∂y) of the game V = xy; w: (2,)."""
    return torch.stack([w[1], -w[0]])


# %%
def simultaneous(w, before, eta):
    return w - eta * force(w)


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
    ax.plot(*path.T, "o-", color=plot.FOURTH, markersize=3, linewidth=1)
    ax.plot(0, 0, "k*", markersize=12)
    ax.set(xlabel="x (minimises xy)", title=f"{step.__name__}, η = 0.3")
axes[0].set_ylabel("y (maximises xy)")
plot.show(
    fig,
    alt="Left: simultaneous steps spiral outwards. Right: alternating steps stay on a small "
    "closed ellipse around the solution. Neither goes in.",
)

# %% [markdown]
# **Why out.** With simultaneous steps $x'=x-\eta y$ and $y'=y+\eta x$:
#
# $$x'^2+y'^2=(x^2-2\eta xy+\eta^2y^2)+(y^2+2\eta xy+\eta^2x^2)=(1+\eta^2)(x^2+y^2).$$
#
# The cross terms cancel, and the distance grows by $\sqrt{1+\eta^2}$ in *every* step, from every
# point. A smaller rate only makes it slower.

# %% [markdown]
# **Why around.** Alternating, $y'=y+\eta(x-\eta y)$, is the matrix
#
# $$A=\begin{pmatrix}1&-\eta\\ \eta&1-\eta^2\end{pmatrix},\quad
# \det A=1,\quad \operatorname{tr}A=2-\eta^2.$$
#
# Its eigenvalues solve $\lambda^2-(2-\eta^2)\lambda+1=0$, with discriminant
# $\eta^2(\eta^2-4)$. For $0<\eta<2$ that is negative: a complex-conjugate pair with product
# $|\lambda|^2=\det A=1$. Modulus 1, so neither in nor out.
#
# There is even a conserved quantity: multiply out and you find
# $x'^2+y'^2-\eta x'y'=x^2+y^2-\eta xy$. For $\eta<2$ its level sets are ellipses: the orbit lies on
# one **exactly**.

# %%
# checkpoint: simultaneous steps grow by √(1 + η²) every time; the force by autograd
for eta in (0.1, 0.5, 1.5):
    distance = walk(simultaneous, eta, 50).norm(dim=1)
    growth = distance[1:] / distance[:-1]
    torch.testing.assert_close(growth, torch.full_like(growth, math.sqrt(1 + eta**2)))
w = torch.tensor([0.3, -0.7], requires_grad=True)
(slope,) = torch.autograd.grad(w[0] * w[1], w)
torch.testing.assert_close(force(w), slope * torch.tensor([1.0, -1.0]))

# %%
# checkpoint: alternating steps keep x² + y² − ηxy; |λ| = 1 (columns of A: the step on unit vectors)
for eta in (0.1, 0.5, 1.5):
    x, y = walk(alternating, eta, 50).T
    torch.testing.assert_close(x**2 + y**2 - eta * x * y, torch.ones_like(x))
    A = torch.stack([alternating(unit, None, eta) for unit in torch.eye(2)], dim=1)
    torch.testing.assert_close(torch.linalg.eigvals(A).abs(), torch.ones(2))

# %% [markdown]
# ### What helps
#
# Four cures, all of them used on real GANs in some form:
#
# - **Extragradient** looks ahead: take a trial step, and move from the *old* point with the force
#   found there, $w'=w-\eta F\big(w-\eta F(w)\big)$.
# - **Optimistic** gradient extrapolates: $w'=w-\eta\big(2F(w)-F(w_\text{before})\big)$. It needs no
#   second evaluation.
# - **Damping the judge**: simultaneous steps with $y'=y+\eta(x-\gamma y)$, so that it never holds
#   an opinion longer than it is paid for.
# - **Averaging** the points that an alternating orbit visits.
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
walks = {f.__name__: walk(f, ETA, 100) for f in (simultaneous, alternating, damped)}
walks["alternating, averaged"] = averaged(walks["alternating"])
walks |= {f.__name__: walk(f, ETA, 100) for f in (extragradient, optimistic)}
for name, path in walks.items():
    print(f"{name:>22}: distance after 100 steps {path[-1].norm():9.2e}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
looks = [plot.FOURTH, "k", ("0.5", "-."), ("k", ":"), (plot.THIRD, "--"), plot.THIRD]
for (name, path), look in zip(walks.items(), looks, strict=True):
    color, line = look if isinstance(look, tuple) else (look, "-")
    ax.semilogy(path.norm(dim=1), color=color, linestyle=line, label=name)
ax.set(xlabel="step", ylabel="distance to the solution", title=f"η = {ETA}")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plot.show(
    ax,
    alt="Distance to the solution on a logarithmic axis: simultaneous grows, alternating stays "
    "level, the averaged orbit falls slowly in waves; damped, extragradient and optimistic fall "
    "along straight lines.",
)

# %% [markdown]
# Straight lines on a logarithmic axis are geometric convergence. Averaging gives only about $1/t$:
# the sum of the points stays bounded while they circle, and is divided by their number. Which line
# is steepest depends on $\eta$ (try it below) and on $\gamma$.
#
# What the figure does not say: that damping is harmless. Here the solution happens to have $y=0$,
# so pulling $y$ to 0 is right. In a GAN the corresponding pull must vanish at the solution, which
# is what gradient penalties are built for, [chapter 06](06_mode_collapse.ipynb).

# %%
SCHEMES = (optimistic, extragradient, damped, alternating, simultaneous)
NAMED = {f.__name__: f for f in SCHEMES}


def draw_saddle(scheme, eta):
    path = walk(NAMED[scheme], eta, 60)
    fig, (ax, distance) = plt.subplots(1, 2, figsize=(8, 3.6), layout="none")
    fig.subplots_adjust(left=0.06, right=0.98, bottom=0.14, top=0.9, wspace=0.25)
    plot.field(lambda x, y: (-y, x), limits=(-2, 2), arrows=11, ax=ax)
    ax.plot(*path.T, "o-", color=plot.FOURTH, markersize=3, linewidth=1)
    ax.plot(0, 0, "k*", markersize=12)
    ax.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xlabel="x (forger)", ylabel="y (judge)")
    distance.plot(path.norm(dim=1).clamp_min(1e-9).log10(), color=plot.FOURTH)
    distance.set(ylim=(-4, 4), xlabel="step", ylabel="log₁₀ of the distance to (0, 0)")
    fig.suptitle(f"{scheme}, η = {eta:.2f}")
    return fig


# %%
widgets.explore(
    draw_saddle,
    alt="A path around the saddle of xy for a chosen scheme and rate, and its distance to the "
    "solution; the start shows optimistic gradient steps spiralling in.",
    scheme=list(NAMED),
    eta=(0.02, 1.2, 0.3),
)

# %% [markdown]
# Push $\eta$ up with each scheme. Too bold a step breaks every one of them (alternating only at
# $\eta=2$, beyond the slider), and eigenvalues say where. With the quarter turn $J$ (so $J^2=-I$),
# a simultaneous step is $I+\eta J$ and an extragradient step $I+\eta J(I+\eta J)=(1-\eta^2)I+\eta
# J$, with $|\lambda|^2=(1-\eta^2)^2+\eta^2=1-\eta^2+\eta^4$: less than 1 for $\eta<1$.
#
# Damping the judge has a complex pair again (for $\gamma<2$), so
# $|\lambda|^2=\det=1-\gamma\eta+\eta^2$: it works for $\eta<\gamma$.
# Optimistic steps work for $\eta<1/\sqrt3$; the checkpoint finds that limit numerically.

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
# ## 2.6 Is xy a fair caricature of a GAN?
#
# **Question.** Does any of this happen in a real GAN?
#
# Take the smallest one: real data always at 0, the forger always at $\theta$, a judge with logit
# $\psi x$. Then
#
# $$V=\log\sigma(0)+\log\big(1-\sigma(\psi\theta)\big)=-\log2-\mathrm{softplus}(\psi\theta)
# \approx-\log4-\tfrac12\psi\theta$$
#
# near $(0,0)$, because $\mathrm{softplus}(t)=\log2+\frac t2+\dots$ So up to a factor and a sign it
# **is** $xy$. This is the *Dirac-GAN* of Mescheder et al. (2018). Each player's force depends on
# the other only: the derivative of $F$ there has eigenvalues $\pm\frac i2$, pure rotation.

# %%
def dirac_value(w):
    theta, psi = w
    return value(0.0 * psi, psi * theta)


H = torch.autograd.functional.hessian(dirac_value, torch.zeros(2))
derivative = torch.tensor([[1.0], [-1.0]]) * H  # of F = (∂V/∂θ, −∂V/∂ψ)
turning = torch.linalg.eigvals(derivative)
print("eigenvalues:", *(f"{t.real.abs():.2f} {t.imag:+.2f}i," for t in turning))

# %% [markdown]
# Real GANs also have curvature and noise. So we test two predictions about section 2.4: the first
# comes from the caricature, the second from what it lacks.
#
# - *Momentum* remembers where the force pointed a moment ago. When the force rotates, that is old
#   news. Adam's default $\beta_1=0.9$ should do worse than our $\beta_1=0$. (The
#   checkpoint shows it on $xy$.)
# - A *quick judge* stays near its best answer, and then the forger descends a function instead of
#   chasing. This needs a best answer: $\max_yxy$ has none, but a real $V$ is curved in $D$
#   (section 2.2). Equal rates should do worse.
#
# **Predict.** Which of the two matters more here?

# %%
settings = {
    "judge 5× quicker, β₁ = 0": {},
    "judge 5× quicker, β₁ = 0.9": {"beta1": 0.9},
    "equal rates, β₁ = 0": {"d_rate": G_RATE},
}
races = {}
for name, changes in settings.items():
    races[name] = [play(seed, **changes)[0]["js"] for seed in (1, 2)]
    late = [sum(js[-40:]) / len(js[-40:]) for js in races[name]]
    print(f"{name:>27}: JS over the last part, two seeds: {late[0]:.3f}, {late[1]:.3f} nats")

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
for (name, runs), color in zip(races.items(), (plot.THIRD, plot.FOURTH, "k"), strict=True):
    for js, label in zip(runs, (name, None), strict=True):
        smooth = torch.tensor(js).unfold(0, 5, 1).mean(1)  # running mean of 5 values
        ax.semilogy(history["step"][4:], smooth, color=color, label=label)
ax.set(xlabel="step", ylabel="JS(p, q) [nats]", ylim=(3e-3, 4))
ax.legend(loc="upper right")
plot.show(
    ax,
    alt="JS against the step, two seeds per setting: it falls furthest with the quick judge "
    "without momentum, and stays high with momentum or with equal rates.",
)

# %% [markdown]
# Both predictions hold here; the numbers above the figure say which change cost more. It is the
# same net, the same loss, the same data: only the dynamics differ. That is why GAN recipes fuss
# about $\beta_1$ (DCGAN takes 0.5, others 0) and about two learning rates.
#
# What the figure does not say: that these settings are best for images, or that two seeds prove
# much. A quick judge also has a price, which is the next section.

# %%
def momentum(w, before, eta, beta=0.9):
    """Alternating steps along a running mean of the forces, weight β on the past, as in Adam."""
    pace = (1 - beta) * eta
    x = w[0] - pace * w[1] + beta * (w[0] - before[0])
    return torch.stack([x, w[1] + pace * x + beta * (w[1] - before[1])])


# %%
# checkpoint: near its solution the Dirac-GAN only rotates; momentum turns circling into leaving
torch.testing.assert_close(turning.real, torch.zeros(2))
torch.testing.assert_close(turning.imag.abs(), torch.full((2,), 0.5))
for beta in (-0.3, 0.0, 0.5, 0.9):
    size = modulus(lambda *state, beta=beta: momentum(*state, beta), 0.3)
    print(f"xy, η = 0.3, β = {beta:4}: |λ| = {size:.4f}")
    assert (size > 1) == (beta > 0) or abs(size - 1) < 1e-5

# %% [markdown]
# ## 2.7 Why −log D instead of log(1−D)
#
# **Question.** Early in training the judge is sure: $D(\tilde x)\approx0$. How loud is the signal
# to the forger then?
#
# With $l$ the logit of a generated sample, the minimax game has the forger descend
# $\log(1-D)=-\mathrm{softplus}(l)$. The **non-saturating** loss is $-\log D=\mathrm{softplus}(-l)$.
# Since $\mathrm{softplus}'=\sigma$,
#
# $$\frac{d}{dl}\big[-\mathrm{softplus}(l)\big]=-\sigma(l)=-D,\qquad
# \frac{d}{dl}\,\mathrm{softplus}(-l)=-\sigma(-l)=-(1-D).$$

# %% [markdown]
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
plot.show(
    ax,
    alt="Two mirrored sigmoids below zero. Where the judge is sure that a sample is generated, the "
    "saturating gradient is almost 0 and the non-saturating one almost −1.",
)

# %%
# checkpoint: autograd gives −σ(l) and −σ(−l), and their ratio is e⁻ˡ
torch.testing.assert_close(saturating, -torch.sigmoid(logit))
torch.testing.assert_close(non_saturating, -torch.sigmoid(-logit))
torch.testing.assert_close(non_saturating / saturating, torch.exp(-logit), rtol=1e-4, atol=0)
print(f"at l = −6, −log D pushes {math.exp(6):.0f} times as hard")

# %% [markdown]
# Exactly where the forger is worst, the minimax loss whispers and $-\log D$ speaks with full voice.
# For one sample the direction is the same; only the weight differs, by the factor $(1-D)/D=e^{-l}$.
#
# But a different weight per sample is a different sum over samples. So **$-\log D$ is not the same
# game**. It is not zero-sum any more, and $2\,\mathrm{JS}-\log4$ is no longer what the forger
# descends. What is it, then?

# %% [markdown]
# Let the judge be perfect for the present $q_0$ and hold it still while $q_\theta$ moves. With
# $\nabla$ the derivative in θ at $q_\theta=q_0$:
#
# $$\nabla\,\mathbb E_{q_\theta}[\log(1-D^*)]=\int\nabla q\,\log\frac q{p+q}\,dx
# =\nabla\;2\,\mathrm{JS}(p,q),$$
#
# $$\nabla\,\mathbb E_{q_\theta}[-\log D^*]=\int\nabla q\,\log\frac{p+q}p\,dx
# =\nabla\big[\mathrm{KL}(q\|p)-2\,\mathrm{JS}(p,q)\big].$$
#
# Constants inside the integrals drop out because $\int\nabla q\,dx=0$; the second line uses
# $\log\frac{p+q}{p}=\log\frac qp-\log\frac q{p+q}$ (Arjovsky & Bottou 2017). Note the sign of JS!
# Both gradients vanish at $q=p$: same goal, other road.

# %% [markdown]
# **Predict.** $p=\mathcal N(0,1)$, $q=\mathcal N(\mu,1)$. Each loss pulls μ towards 0. How does the
# strength of the pull change as μ moves away: 1, 3, 6 standard deviations?
#
# The code computes the pulls as a forger would get them: samples $\tilde x=\mu+z$, judge frozen,
# autograd. Instead of drawing $z$ it integrates over it.

# %%
def minimax(logit):
    return -F.softplus(logit)  # log(1 − D)


def non_saturating_loss(logit):
    return F.softplus(-logit)  # −log D


# %%
Z_WEIGHT = log_normal(X, 0, 1).exp() * DX  # (1500,) quadrature weights for z ~ N(0, 1)


def pull(mu, loss_of_logit):
    """d/dμ E[loss(l*(μ + z))] with the judge l* = log p − log q frozen at this μ."""
    moving = torch.tensor(mu, dtype=torch.float64, requires_grad=True)
    x = moving + X
    logit = log_normal(x, 0, 1) - log_normal(x, mu, 1)  # the plain number mu: frozen
    (Z_WEIGHT * loss_of_logit(logit)).sum().backward()
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
plot.show(
    ax,
    alt="The pull of log(1−D) rises to a maximum near one and a half standard deviations and "
    "then dies; that of −log D grows in proportion to the distance.",
)

# %% [markdown]
# Close to the goal the two agree. Far away the saturating pull dies, since JS is flat there (2.3),
# while the other grows like that of $\mathrm{KL}(q\|p)=\mu^2/2$.
#
# The price: $\mathrm{KL}(q\|p)$ is the *mode-seeking* direction of chapter 01. It punishes samples
# where there is no data, and hardly punishes missing a bump. And all this holds for a perfect judge
# only; a finite net far from its data gives yet other slopes.

# %%
def goals(mu):
    """2 JS(p, q) and KL(q‖p) − 2 JS(p, q) for p = N(0, 1), q = N(mu, 1), on the grid [nats]."""
    p, q = log_normal(X, 0, 1).exp() * DX, log_normal(X, mu, 1).exp() * DX
    js = divergences.js(p, q)
    return torch.stack([2 * js, divergences.kl(q, p) - 2 * js])


# %%
# checkpoint: the pulls by autograd against finite differences of the two divergences
h = 1e-4
for mu in (0.0, 0.5, 1.5, 3.0):
    slopes = (goals(mu + h) - goals(mu - h)) / (2 * h)
    both = torch.tensor([pull(mu, minimax), pull(mu, non_saturating_loss)], dtype=torch.float64)
    print(f"μ = {mu}: autograd {both.numpy().round(4)}, differences {slopes.numpy().round(4)}")
    torch.testing.assert_close(both, slopes, atol=1e-4, rtol=0)

# %% [markdown]
# ## 2.8 Break it: a forger that hears nothing
#
# Now for real: data $\mathcal N(3,0.7^2)$; a forger with two parameters, $\tilde x=\mu+sz$, that
# starts at $\mu=-3$; a judge that trained 300 steps before the forger wakes up. Plain gradient
# descent (SGD) for the forger, everything else equal, only the loss differs. Then the same with
# Adam.
#
# **Predict.** Four runs. How many reach 3?

# %%
def chase(loss, optimizer, rate, head_start=300):
    """A far-away forger against a trained judge. Returns μ and the size of its gradient."""
    torch.manual_seed(0)
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
runs = {}  # each optimizer has a rate at which −log D gets there
for kind, optimizer, rate in (("SGD", torch.optim.SGD, 0.05), ("Adam", torch.optim.Adam, 0.01)):
    runs[f"saturating, {kind}"] = chase(losses.generator_loss_saturating, optimizer, rate)
    runs[f"non-saturating, {kind}"] = chase(losses.generator_loss, optimizer, rate)
for name, (place, size) in runs.items():
    print(f"{name:>20}: μ ends at {place[-1]:5.2f}; |gradient| at the start {size[0]:.0e}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
for (name, (place, size)), style in zip(runs.items(), ("-", "-", ":", ":"), strict=True):
    color = plot.FOURTH if name.startswith("non") else "k"
    left.plot(place, style, color=color, label=name)
    if "SGD" in name:
        right.semilogy(size, color=color, linewidth=0.8, label=name)
left.axhline(3, color=plot.REAL, linewidth=1)
left.text(0, 3.1, "the data", color=plot.REAL)
left.set(xlabel="forger's step", ylabel="μ", ylim=(-3.3, 3.9))
left.legend(loc="lower right", bbox_to_anchor=(1, 0.08), fontsize=9)
right.set(xlabel="forger's step", ylabel="|d loss / dμ|")
right.legend(loc="upper right", fontsize=9)
plot.show(
    fig,
    alt="Left: with SGD the saturating forger stays at −3 while the non-saturating one reaches "
    "3; with Adam both arrive. Right: the saturating gradient is smaller by orders of magnitude.",
)

# %% [markdown]
# With SGD the saturating forger does not move. Its gradient carries the factor $D\approx0$, and the
# better the judge gets, the quieter it becomes: **a good judge makes a deaf forger.** The
# non-saturating forger arrives.
#
# With Adam the saturating one arrives too! Adam divides each gradient by its own running size, so
# a whisper that is the same for *all* samples is amplified back. What Adam cannot mend are the
# weights *between* the samples of a batch, and gradients too small for its $\varepsilon$. So
# "saturating losses do not train" is too strong; "don't rely on your optimizer to hide it" is
# right.

# %%
# checkpoint: at the first step the two losses see the same samples and the same judge
start = {name: size[0] for name, (_, size) in runs.items()}
assert start["saturating, SGD"] < start["non-saturating, SGD"] / 3
torch.testing.assert_close(start["saturating, SGD"], start["saturating, Adam"])
if runtime.profile() != "smoke":
    end = {name: place[-1] for name, (place, _) in runs.items()}
    assert end["saturating, SGD"] < -2 and abs(end["non-saturating, SGD"] - 3) < 0.5
    assert abs(end["saturating, Adam"] - 3) < 0.5

# %% [markdown]
# ## Exercises
#
# Five in [the exercises](../exercises/02_minimax.ipynb), each with a check:
#
# 1. `optimal_discriminator`: $D^*$ on arrays of densities, in far tails and where both are 0.
# 2. `js_bound`: what any judge's logits prove about JS, exact for logits of ±200.
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
# - At a saddle, simultaneous steps spiral out and alternating ones circle. Looking ahead, damping
#   and averaging help; so do a quick judge and no momentum.
# - $-\log D$ speaks where the judge is sure. It has the same goal, but it is another game.
#
# Next: [chapter 04](04_first_gan.ipynb), the same loop on pictures.

# %% [markdown]
# ## References
#
# - Goodfellow et al. 2014, *Generative adversarial nets*, arXiv:1406.2661: the game, $D^*$, the
#   value, and $-\log D$ (their section 3). *We differ:* losses on logits; we check the theorem on
#   grids and say where practice leaves it.
# - Arjovsky & Bottou 2017, arXiv:1701.04862: the non-saturating gradient (theorem 2.5). *We
#   differ:* checked by finite differences in 1-D instead of proved in general.
# - Mescheder, Geiger & Nowozin 2018, arXiv:1801.04406: the Dirac-GAN. *We differ:* only its linear
#   part.

# %% [markdown]
# - Daskalakis et al. 2018, arXiv:1711.00141: optimistic gradients for GANs; Korpelevich 1976:
#   extragradient. *We differ:* plain eigenvalues of the game $xy$.
# - Gidel et al. 2019, arXiv:1807.04740: why (positive) momentum hurts in games; they make it
#   negative. *We differ:* in the GAN we only switch it off; a negative one we try on $xy$.
# - Heusel et al. 2017, arXiv:1706.08500: two learning rates. *We differ:* theirs is a statement
#   about convergence to a local equilibrium, ours one experiment.
